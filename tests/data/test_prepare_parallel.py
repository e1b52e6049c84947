"""Prepare with several processes: the bytes of one process, after any kill, resumed with any number of processes."""

import json
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from imagenet_files import write_ilsvrc2012
from test_prepare import prepare_small, read_files, stop_after, write_pictures
from torch.distributed import HashStore

from alexnet.data.prepare import plan
from alexnet.data.prepare import prepare as prepare_module
from alexnet.data.prepare.record import ShardRecord
from alexnet.data.prepare.summary import Summary
from alexnet.data.store.format import PROGRESS_FILE, SKIPPED_FILE
from alexnet.data.store.store import Store
from alexnet.distributed import coordinator as coordinator_module
from alexnet.distributed.coordinator import Coordinator, LostConnectionError
from alexnet.utils import processes
from alexnet.utils.processes import ReportedElsewhere

SMALL_SHARDS = {"SHARD_BYTES": 8 * 16 * 16 * 3, "CHUNK_BYTES": 3 * 16 * 16 * 3, "JPEG_SHARD_FACTOR": 2}

# A process of `alexnet prepare` with small shards. If PICTURES is set, it waits to be killed after so many pictures.
CHILD = f"""
import os, sys, time
from alexnet import cli
from alexnet.data.prepare import chunk, plan, progress

vars(plan).update({SMALL_SHARDS})
progress.LINE_SECONDS = float("inf")  # no line of progress, however slow the machine is
read_image, pictures_left = chunk.read_image, int(os.environ.get("PICTURES", "-1"))

def read_or_wait(*args):
    global pictures_left
    pictures_left -= 1
    while pictures_left == -1:
        open(os.path.join(os.environ["READY"], str(os.getpid())), "w").close()
        time.sleep(60)
    return read_image(*args)

chunk.read_image = read_or_wait
sys.exit(cli.main(["prepare", *sys.argv[1:], "--size", "16", "--workers", "1"]))
"""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three; and threads do not wait for a failed one to report."""
    for name, value in SMALL_SHARDS.items():
        monkeypatch.setattr(plan, name, value)
    monkeypatch.setattr(coordinator_module, "SHUTDOWN_SECONDS", 0.0)
    monkeypatch.setattr(coordinator_module, "FAILURE_SECONDS", 0.0)
    monkeypatch.setattr(processes, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(coordinator_module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(prepare_module, "POLL_SECONDS", 0.001)


def torchrun(
    python: str, folder: Path, processes: int, *arguments: object, **environment: str
) -> subprocess.Popen[bytes]:
    """Start processes under torchrun. What they print goes to files in folder/output."""
    (folder / "child.py").write_text(CHILD)
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command += ["--log-dir", folder / "output", "--redirects", "3", folder / "child.py", *arguments]
    return subprocess.Popen(
        [str(argument) for argument in command],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def printed_lines(folder: Path, stream: str) -> list[str]:
    """Return the lines that all processes printed."""
    return [line for path in (folder / "output").rglob(f"{stream}.log") for line in path.read_text().splitlines()]


def record_names(store: Path) -> set[str]:
    """Return the names of the records in a store."""
    return {path.name for path in store.glob("*-*.safetensors")}


def run_in_threads(monkeypatch: pytest.MonkeyPatch, count: int, call: Callable[[int], Summary]) -> list[object]:
    """Return what call(rank) returns or raises in each of several threads, which simulate processes."""
    key_value_store, results = HashStore(), [None] * count
    monkeypatch.setattr(
        Coordinator, "from_torchrun", lambda: Coordinator(key_value_store, int(threading.current_thread().name), count)
    )

    def run(rank: int) -> None:
        try:
            results[rank] = call(rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank)) for rank in range(count)]
    with warnings.catch_warnings():  # each thread changes and restores the filters, which all of them share
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def test_two_processes_write_the_store_of_one(warm_python: str, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", broken=2)
    summary = prepare_small(source, tmp_path / "one")
    assert torchrun(warm_python, tmp_path, 2, source, tmp_path / "two").wait() == 0
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")
    assert printed_lines(tmp_path, "stderr") == []
    first, *others = str(summary).replace(str(tmp_path / "one"), str(tmp_path / "two")).splitlines()
    assert printed_lines(tmp_path, "stdout")[:-1] == [first, *others[:-1]]  # once; the last line has the seconds


def test_too_many_failures_in_two_processes_are_one_line(warm_python: str, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", broken=16)  # in both processes' first shards
    assert torchrun(warm_python, tmp_path, 2, source, tmp_path / "store").wait() != 0
    assert printed_lines(tmp_path, "stdout") == []
    (line,) = printed_lines(tmp_path, "stderr")
    assert line.startswith(f"alexnet: {tmp_path / 'store'}: ")
    assert " of 60 files are not readable pictures, but only 3 are allowed; the last is class0/" in line
    assert str(tmp_path / "store" / SKIPPED_FILE) in line
    assert all(json.loads(line)["reason"] for line in (tmp_path / "store" / SKIPPED_FILE).read_text().splitlines())


def test_after_a_kill_other_numbers_of_processes_resume(
    warm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store, ready = write_pictures(tmp_path / "source", broken=2), tmp_path / "store", tmp_path / "ready"
    prepare_small(source, tmp_path / "expected")
    ready.mkdir()
    launcher = torchrun(warm_python, tmp_path, 3, source, store, PICTURES="14", READY=str(ready))
    while min(len(list(ready.iterdir())), len(list(store.glob("*.arrow.*.part")))) < 3 or len(record_names(store)) < 3:
        assert launcher.poll() is None, printed_lines(tmp_path, "stderr")
        time.sleep(0.02)
    # All processes are in the middle of their second shard.
    os.kill(int(next(ready.iterdir()).name), signal.SIGKILL)
    assert launcher.wait() != 0
    assert len(list(store.glob("*.part"))) == 3
    complete = record_names(store)
    assert complete == {"train-00000.safetensors", "train-00001.safetensors", "train-00002.safetensors"}
    assert printed_lines(tmp_path, "stderr") == []
    with pytest.raises(ValueError, match="partly prepared"):
        Store(store)
    # Two processes resume and are stopped; then one alone resumes.
    shards = []
    real_save = ShardRecord.save

    def save_or_stop(self: ShardRecord, path: Path, shard_checksum: str) -> None:
        shards.append(path.name)
        if len(shards) > 2:
            raise KeyboardInterrupt
        real_save(self, path, shard_checksum)

    with monkeypatch.context() as patch:
        patch.setattr(ShardRecord, "save", save_or_stop)
        results = run_in_threads(patch, 2, lambda _: prepare_small(source, store, parallel=True))
    assert {type(result) for result in results} == {KeyboardInterrupt, ReportedElsewhere}
    assert not complete & set(shards), "a shard was written twice"
    prepare_small(source, store)
    assert read_files(store) == read_files(tmp_path / "expected")


@pytest.mark.parametrize(("count", "each", "encoding"), [(2, 20, "jpeg"), (3, 20, "raw"), (3, 3, "raw")])
def test_any_number_of_processes_writes_the_same_store(
    tmp_path: Path, count: int, each: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pictures(tmp_path / "source", each=each, broken=1)  # each=3: two shards for three processes
    expected = prepare_small(source, tmp_path / "expected", encoding=encoding)
    results = run_in_threads(
        monkeypatch, count, lambda _: prepare_small(source, tmp_path / "s", encoding=encoding, parallel=True)
    )
    assert read_files(tmp_path / "s") == read_files(tmp_path / "expected")
    for summary in results:
        assert isinstance(summary, Summary)
        assert (summary.counts, summary.skipped, summary.already) == (expected.counts, 1, False)
        assert (summary.raw_bytes, summary.jpeg_bytes) == (expected.raw_bytes, expected.jpeg_bytes)
    again = run_in_threads(
        monkeypatch, count, lambda _: prepare_small(source, tmp_path / "s", encoding=encoding, parallel=True)
    )
    assert all(isinstance(summary, Summary) and summary.already for summary in again)
    assert read_files(tmp_path / "s") == read_files(tmp_path / "expected")


def test_processes_share_a_tar_of_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_ilsvrc2012(tmp_path / "imagenet", each=9)
    prepare_small(source, tmp_path / "expected", workers=1)
    results = run_in_threads(monkeypatch, 3, lambda _: prepare_small(source, tmp_path / "s", parallel=True))
    assert all(isinstance(summary, Summary) for summary in results)
    assert read_files(tmp_path / "s") == read_files(tmp_path / "expected")


def test_the_missing_shards_are_divided_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_pictures(tmp_path / "source")
    stop_after(2, source, tmp_path / "store", monkeypatch)  # the first shard is complete
    shares: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    real_save = ShardRecord.save

    def save(self: ShardRecord, path: Path, shard_checksum: str) -> None:
        shares[threading.current_thread().name].append(path.stem)
        real_save(self, path, shard_checksum)

    monkeypatch.setattr(ShardRecord, "save", save)
    run_in_threads(monkeypatch, 3, lambda _: prepare_small(source, tmp_path / "store", parallel=True))
    assert shares == {
        "0": ["train-00001", "train-00004", "val-00000"],
        "1": ["train-00002", "train-00005"],
        "2": ["train-00003", "train-00006"],
    }


def test_the_failures_of_all_processes_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_pictures(tmp_path / "source", broken=20)
    results = run_in_threads(
        monkeypatch, 3, lambda _: prepare_small(source, tmp_path / "store", max_failures=0.2, parallel=True)
    )
    (message,) = [str(error) for error in results if not isinstance(error, ReportedElsewhere)]
    assert "of 60 files are not readable pictures, but only 12 are allowed" in message  # no shard has more than eight


def test_processes_with_different_arguments_or_sources_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = write_pictures(tmp_path / "a" / "source"), write_pictures(tmp_path / "b" / "source", each=21)
    results = run_in_threads(
        monkeypatch, 2, lambda rank: prepare_small(source, tmp_path / "s", seed=rank, parallel=True)
    )
    assert isinstance(results[0], ReportedElsewhere)
    assert "process 1 on " in str(results[1])
    assert "which prepares it with seed=0, not 1; give all processes the same source and options" in str(results[1])
    results = run_in_threads(
        monkeypatch, 2, lambda rank: prepare_small((source, other)[rank], tmp_path / "s", parallel=True)
    )
    assert "a source of other files" in str(results[1])
    results = run_in_threads(
        monkeypatch, 2, lambda rank: prepare_small((tmp_path / "none", source)[rank], tmp_path / "s", parallel=True)
    )
    assert isinstance(results[0], FileNotFoundError)
    assert isinstance(results[1], ReportedElsewhere)


def test_a_store_on_a_disk_that_is_not_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "VISIBLE_SECONDS", 0.01)
    source = write_pictures(tmp_path / "source")
    results = run_in_threads(
        monkeypatch, 2, lambda rank: prepare_small(source, tmp_path / f"store{rank}", parallel=True)
    )
    assert isinstance(results[0], ReportedElsewhere)
    assert "does not see the files of the main process there; choose a STORE on a shared disk" in str(results[1])


def test_the_main_process_gives_up_on_silent_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, key_value_store = write_pictures(tmp_path / "source"), HashStore()
    monkeypatch.setattr(prepare_module, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(Coordinator, "from_torchrun", lambda: Coordinator(key_value_store, 0, 2))
    with pytest.raises(ValueError, match=r"1 of 2 processes have made no progress for 0 minutes; .* it resumes"):
        prepare_small(source, tmp_path / "store", parallel=True)
    assert (tmp_path / "store" / PROGRESS_FILE).is_file()


def test_a_lost_connection_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenStore:
        def add(self, *_: object) -> int:
            raise RuntimeError("Broken pipe\nand more")

    monkeypatch.setattr(Coordinator, "from_torchrun", lambda: Coordinator(BrokenStore(), 0, 2))  # type: ignore[arg-type]
    with pytest.raises(
        LostConnectionError,
        match=r"process 0 of 2 has lost the connection to the others \(Broken pipe\); run the same command again",
    ):
        prepare_small(write_pictures(tmp_path / "source", broken=1), tmp_path / "store", parallel=True)


def test_several_processes_need_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="several processes must be started by torchrun, which sets RANK"):
        prepare_small(write_pictures(tmp_path / "source"), tmp_path / "store", parallel=True)
    assert not (tmp_path / "store").exists()

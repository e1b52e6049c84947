"""Preparing by several processes: the bytes of one, whoever is killed, with however many it goes on; one line each."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from test_prepare import contents, make, pictures, stopped_after
from torch.distributed import HashStore

import alexnet.data.prepare.prepare as room
from alexnet.data.prepare import writer
from alexnet.data.prepare.prepare import Summary
from alexnet.data.store.format import PROGRESS_FILE, SKIPPED_FILE
from alexnet.data.store.store import Store
from alexnet.distributed import coordinator as coordinator_module
from alexnet.distributed.coordinator import Coordinator, LostConnectionError
from alexnet.utils import processes
from alexnet.utils.processes import ReportedElsewhere

SHARDS = {"SHARD_BYTES": 8 * 16 * 16 * 3, "CHUNK_BYTES": 3 * 16 * 16 * 3, "JPEG_SHARE": 2}

# A process of `alexnet prepare` with small shards. After so many pictures of its own it waits to be killed, if asked.
CHILD = f"""
import os, sys, time
import alexnet.data.prepare.prepare as room
from alexnet import cli

vars(room).update({SHARDS})
real, left = room.read_image, int(os.environ.get("LEFT", "-1"))

def read(*given):
    global left
    left -= 1
    while left == -1:
        open(os.path.join(os.environ["READY"], str(os.getpid())), "w").close()
        time.sleep(60)
    return real(*given)

room.read_image = read
sys.exit(cli.main(["prepare", *sys.argv[1:], "--size", "16", "--workers", "1"]))
"""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three; and threads need no time to say why they fail."""
    for name, value in SHARDS.items():
        monkeypatch.setattr(room, name, value)
    for name in ("SHUTDOWN_SECONDS", "FAILURE_SECONDS"):
        monkeypatch.setattr(coordinator_module, name, 0.0)
    monkeypatch.setattr(processes, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(coordinator_module, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(room, "POLL_SECONDS", 0.001)


def torchrun(folder: Path, processes: int, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """Start processes under torchrun; what each prints goes to files under folder/said."""
    (folder / "child.py").write_text(CHILD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command += ["--log-dir", folder / "said", "--redirects", "3", folder / "child.py", *arguments]
    return subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def said(folder: Path, stream: str) -> list[str]:
    """The lines that all processes printed."""
    return [line for path in (folder / "said").rglob(f"{stream}.log") for line in path.read_text().splitlines()]


def records(store: Path) -> set[str]:
    """The names of the records in a store."""
    return {path.name for path in store.glob("*-*.safetensors")}


def in_threads(monkeypatch: pytest.MonkeyPatch, count: int, call: Callable[[int], Summary]) -> list[object]:
    """What call(rank) returns or raises in each of several threads, which stand for processes."""
    words, found = HashStore(), [None] * count
    monkeypatch.setattr(
        Coordinator, "from_torchrun", lambda: Coordinator(words, int(threading.current_thread().name), count)
    )

    def run(rank: int) -> None:
        try:
            found[rank] = call(rank)
        except BaseException as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank)) for rank in range(count)]
    with warnings.catch_warnings():  # of which each thread makes its own, and the last to end would win
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def test_two_processes_make_the_store_of_one(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", broken=2)
    summary = make(source, tmp_path / "one")
    assert torchrun(tmp_path, 2, source, tmp_path / "two").wait() == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert said(tmp_path, "stderr") == []
    first, *others = str(summary).replace(str(tmp_path / "one"), str(tmp_path / "two")).splitlines()
    assert said(tmp_path, "stdout")[:-1] == [first, *others[:-1]]  # once; the last line tells the seconds


def test_too_many_failures_in_two_processes_are_one_line(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", broken=16)  # in both processes' first shards
    assert torchrun(tmp_path, 2, source, tmp_path / "store").wait() != 0
    assert said(tmp_path, "stdout") == []
    (line,) = said(tmp_path, "stderr")
    assert line.startswith(f"alexnet: {tmp_path / 'store'}: ")
    assert " files of 60 are no readable pictures, 3 are allowed; the last: class0/" in line
    assert str(tmp_path / "store" / SKIPPED_FILE) in line
    assert all(json.loads(line)["reason"] for line in (tmp_path / "store" / SKIPPED_FILE).read_text().splitlines())


def test_a_killed_process_and_others_that_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store, ready = pictures(tmp_path / "source", broken=2), tmp_path / "store", tmp_path / "ready"
    make(source, tmp_path / "whole")
    ready.mkdir()
    launcher = torchrun(tmp_path, 3, source, store, LEFT="14", READY=str(ready))
    while min(len(list(ready.iterdir())), len(list(store.glob("*.arrow.*.part")))) < 3 or len(records(store)) < 3:
        assert launcher.poll() is None, said(tmp_path, "stderr")
        time.sleep(0.02)
    # All are in the middle of their second shard.
    os.kill(int(next(ready.iterdir()).name), signal.SIGKILL)
    assert launcher.wait() != 0
    assert len(list(store.glob("*.part"))) == 3
    made = records(store)
    assert made == {"train-00000.safetensors", "train-00001.safetensors", "train-00002.safetensors"}
    assert said(tmp_path, "stderr") == []
    with pytest.raises(ValueError, match="partly prepared"):
        Store(store)
    # Two go on, and are stopped in turn; then one alone.
    shards = []
    real = writer.Record.save

    def save(self: writer.Record, path: Path) -> None:
        shards.append(path.name)
        if len(shards) > 2:
            raise KeyboardInterrupt
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(writer.Record, "save", save)
        found = in_threads(patch, 2, lambda _: make(source, store, parallel=True))
    assert {type(one) for one in found} == {KeyboardInterrupt, ReportedElsewhere}
    assert not made & set(shards), "a shard was made twice"
    make(source, store)
    assert contents(store) == contents(tmp_path / "whole")


@pytest.mark.parametrize(("count", "each", "encoding"), [(2, 20, "jpeg"), (3, 20, "raw"), (3, 3, "raw")])
def test_any_number_of_processes(
    tmp_path: Path, count: int, each: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "source", each=each, broken=1)  # each=3: two shards for three processes
    whole = make(source, tmp_path / "whole", encoding=encoding)
    found = in_threads(monkeypatch, count, lambda _: make(source, tmp_path / "s", encoding=encoding, parallel=True))
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")
    for one in found:
        assert isinstance(one, Summary)
        assert (one.counts, one.skipped, one.raw_bytes, one.jpeg_bytes, one.already) == (
            whole.counts, 1, whole.raw_bytes, whole.jpeg_bytes, False,
        )  # fmt: skip
    again = in_threads(monkeypatch, count, lambda _: make(source, tmp_path / "s", encoding=encoding, parallel=True))
    assert all(isinstance(one, Summary) and one.already for one in again)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_each_process_makes_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures(tmp_path / "source")
    stopped_after(source, tmp_path / "store", 2, monkeypatch)  # the first shard is made
    shares: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    real = writer.Record.save

    def save(self: writer.Record, path: Path) -> None:
        shares[threading.current_thread().name].append(path.stem)
        real(self, path)

    monkeypatch.setattr(writer.Record, "save", save)
    in_threads(monkeypatch, 3, lambda _: make(source, tmp_path / "store", parallel=True))
    assert shares == {
        "0": ["train-00001", "train-00004", "val-00000"],
        "1": ["train-00002", "train-00005"],
        "2": ["train-00003", "train-00006"],
    }


def test_the_failures_of_all_processes_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures(tmp_path / "source", broken=20)
    found = in_threads(monkeypatch, 3, lambda _: make(source, tmp_path / "store", max_failures=0.2, parallel=True))
    (told,) = [str(one) for one in found if not isinstance(one, ReportedElsewhere)]
    assert "files of 60 are no readable pictures, 12 are allowed" in told  # no shard has more than eight


def test_processes_with_other_arguments_or_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pictures(tmp_path / "a" / "source"), pictures(tmp_path / "b" / "source", each=21)
    found = in_threads(monkeypatch, 2, lambda rank: make(one, tmp_path / "s", seed=rank, parallel=True))
    assert isinstance(found[0], ReportedElsewhere)
    assert "process 1 on " in str(found[1])
    assert "is to go on with seed=0, not 1; give all processes the same source and options" in str(found[1])
    found = in_threads(monkeypatch, 2, lambda rank: make((one, other)[rank], tmp_path / "s", parallel=True))
    assert "a source of other files" in str(found[1])
    found = in_threads(monkeypatch, 2, lambda rank: make((tmp_path / "none", one)[rank], tmp_path / "s", parallel=True))
    assert isinstance(found[0], FileNotFoundError)
    assert isinstance(found[1], ReportedElsewhere)


def test_a_store_that_another_machine_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LATE_SECONDS", 0.01)
    source = pictures(tmp_path / "source")
    found = in_threads(monkeypatch, 2, lambda rank: make(source, tmp_path / f"store{rank}", parallel=True))
    assert isinstance(found[0], ReportedElsewhere)
    assert "does not see what process 0 wrote there; choose a STORE on a shared disk" in str(found[1])


def test_a_process_that_is_never_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, words = pictures(tmp_path / "source"), HashStore()
    monkeypatch.setattr(room, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(Coordinator, "from_torchrun", lambda: Coordinator(words, 0, 2))
    with pytest.raises(ValueError, match=r"nothing was heard of 1 of 2 processes for 0 minutes; .* it goes on"):
        make(source, tmp_path / "store", parallel=True)
    assert (tmp_path / "store" / PROGRESS_FILE).is_file()


def test_words_that_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        def add(self, *_: object) -> int:
            raise RuntimeError("Broken pipe\nand much more")

    monkeypatch.setattr(Coordinator, "from_torchrun", lambda: Coordinator(Deaf(), 0, 2))  # type: ignore[arg-type]
    with pytest.raises(
        LostConnectionError,
        match=r"process 0 of 2 has lost the connection to the others \(Broken pipe\); run the same command again",
    ):
        make(pictures(tmp_path / "source", broken=1), tmp_path / "store", parallel=True)


def test_without_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="several processes must be started by torchrun, which sets RANK"):
        make(pictures(tmp_path / "source"), tmp_path / "store", parallel=True)
    assert not (tmp_path / "store").exists()

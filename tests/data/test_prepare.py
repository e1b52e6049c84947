"""Prepare: the same bytes with any number of threads and after any kill; what is skipped, refused and resumed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

from alexnet.data.prepare import chunk, plan, progress, record, resume, writer
from alexnet.data.prepare import prepare as prepare_module
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.prepare import Summary, prepare
from alexnet.data.store.format import (
    CHECKSUMS_FILE,
    DUPLICATES_FILE,
    METADATA_KEY,
    OFFSETS_FILE,
    PROGRESS_FILE,
    SKIPPED_FILE,
    STATISTICS_FILE,
    read_safetensors,
)
from alexnet.data.store.store import Store
from alexnet.utils import files


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "JPEG_SHARD_FACTOR", 2)


def write_pictures(root: Path, classes: int = 3, each: int = 20, broken: int = 0) -> Path:
    """Write JPEG and PNG files by class. The first `broken` files of the first class are damaged."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(each):
            picture = rng.integers(0, 256, (20, 24, 3), np.uint8) // 2 + 60 * label % 128
            path = folder / f"{number:03d}.{'jpg' if number % 3 else 'png'}"
            Image.fromarray(picture).save(path)
            if label == 0 and number < broken:
                path.write_bytes(path.read_bytes()[:100])
    return root


def prepare_small(source: Path, store: Path, **options: object) -> Summary:
    """Prepare 16x16 pictures without showing progress."""
    return prepare(source, store, **{"size": 16, "progress": False} | options)


def read_files(store: Path) -> dict[str, bytes]:
    """Return the contents of every file of a store."""
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_store_has_every_picture_with_its_label(tmp_path: Path, encoding: str) -> None:
    source = write_pictures(tmp_path / "source")
    summary = prepare_small(source, tmp_path / "store", encoding=encoding)
    store = Store(tmp_path / "store")
    assert summary.counts == {"train": 54, "val": 6}
    assert store.classes == summary.classes == ("class0", "class1", "class2")
    names = set()
    for split_name in store.splits:
        split = store.split(split_name)
        for index in range(len(split)):
            name = split.picture_name(index)
            names.add(name)
            expected = read_image(source / name, 16).astype(int)
            assert np.abs(split.image(index) - expected).mean() <= (0 if encoding == "raw" else 20)  # noise, as JPEG
            assert store.classes[split.labels[index]] == name.split("/")[0]
    assert len(names) == 60
    assert sorted(read_files(tmp_path / "store"))[-1] == "val-00000.arrow"
    assert (tmp_path / "store" / SKIPPED_FILE).read_bytes() == b""


def test_statistics_are_those_of_the_training_pictures(tmp_path: Path) -> None:
    prepare_small(write_pictures(tmp_path / "source"), tmp_path / "store")
    store = Store(tmp_path / "store")
    train = store.split("train")
    images = np.stack([train.image(index) for index in range(len(train))])
    assert np.allclose(store.statistics.mean, images.mean(axis=0).transpose(2, 0, 1), atol=1e-4)
    assert np.allclose(store.statistics.covariance, np.cov(images.reshape(-1, 3).T, bias=True))
    assert store.statistics.count == len(train) == 54


def test_a_store_can_be_without_training_pictures(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", classes=1)
    summary = prepare_small(source, tmp_path / "store", test=1)
    assert summary.counts == {"test": 20}
    store = Store(tmp_path / "store")
    assert store.splits == ("test",)
    assert store.validation().name == "test"
    images = np.stack([store.split("test").image(index) for index in range(20)])
    assert np.allclose(store.statistics.mean, images.mean(axis=0).transpose(2, 0, 1), atol=1e-4)
    with pytest.raises(ValueError, match="no split 'train'; it has test: choose one of these"):
        store.split("train")


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path, encoding: str) -> None:
    source = write_pictures(tmp_path / "source", broken=2)
    for workers in (1, 2, 5):
        prepare_small(source, tmp_path / str(workers), workers=workers, encoding=encoding)
    assert read_files(tmp_path / "1") == read_files(tmp_path / "2") == read_files(tmp_path / "5")


def test_the_summary_has_the_sizes_of_both_encodings(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source")
    raw, jpeg = prepare_small(source, tmp_path / "raw"), prepare_small(source, tmp_path / "jpeg", encoding="jpeg")
    assert raw.raw_bytes == jpeg.raw_bytes == 60 * 16 * 16 * 3
    assert jpeg.jpeg_bytes / raw.jpeg_bytes == pytest.approx(1, abs=0.1)  # measured, estimated
    assert "encoding: raw 46.1 kB; the other encoding: JPEG" in str(raw)
    assert "60 pictures of 16x16 in 3 classes: train 54, val 6" in str(raw)
    assert "classes: class0 (20), class1 (20), class2 (20)" in str(raw)
    assert raw.class_counts == (20, 20, 20)


def test_unreadable_files_are_skipped_named_and_counted(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", broken=2)
    (source / "class1" / "005.jpg").unlink()
    (source / "class1" / "005.jpg").symlink_to(source / "nowhere")
    (source / "class1" / "notes.txt").touch()
    summary = prepare_small(source, tmp_path / "store", max_failures=0.1)
    lines = [json.loads(line) for line in (tmp_path / "store" / SKIPPED_FILE).read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == ["class0/000.png", "class0/001.jpg", "class1/005.jpg"]
    assert all(line["reason"] for line in lines)
    assert str(source) not in json.dumps(lines)
    assert summary.skipped == 3
    assert summary.ignored == {".txt": 1}
    assert sum(summary.counts.values()) == 57
    assert "skipped 3 unreadable files" in str(summary)
    assert "1 .txt" in str(summary)


def test_too_many_unreadable_files_stop_the_work(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", broken=6)
    with pytest.raises(ValueError, match=r"\d of 60 files are not readable pictures, but only 3 are allowed") as caught:
        prepare_small(source, tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "store" / SKIPPED_FILE).read_text().count("\n") >= 4
    # If more are allowed, the same store is resumed, and its bytes are those of one that was never stopped.
    assert prepare_small(source, tmp_path / "store", max_failures=0.2).skipped == 6
    prepare_small(source, tmp_path / "other", max_failures=0.2)
    assert read_files(tmp_path / "store") == read_files(tmp_path / "other")


def test_two_failures_never_stop_the_work_unless_none_is_allowed(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", each=3, broken=2)
    assert prepare_small(source, tmp_path / "a", seed=1).skipped == 2
    with pytest.raises(ValueError, match="1 of 9 files are not readable pictures, but only 0 are allowed"):
        prepare_small(source, tmp_path / "b", max_failures=0, seed=1)


def test_a_class_without_readable_pictures_is_refused(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", each=3, broken=3)
    with pytest.raises(ValueError, match=r"class 'class0' has no readable picture.*skipped\.jsonl.*prepare it again"):
        prepare_small(source, tmp_path / "store", max_failures=1)


def test_preparing_again_does_nothing_or_is_refused(tmp_path: Path) -> None:
    source, store = write_pictures(tmp_path / "source"), tmp_path / "store"
    first = prepare_small(source, store)
    before = read_files(store)
    again = prepare_small(source, store, workers=1, max_failures=0.5)
    assert again.already
    assert "complete already" in str(again)
    assert (again.counts, again.raw_bytes, again.jpeg_bytes) == (first.counts, first.raw_bytes, first.jpeg_bytes)
    for option in ({"size": 17}, {"encoding": "jpeg"}, {"seed": 1}, {"held_out": 0.5}, {"train_per_class": 3}):
        with pytest.raises(ValueError, match=f"prepared with {next(iter(option))}="):
            prepare_small(source, store, **option)
    (source / "class2" / "new.png").write_bytes((source / "class2" / "000.png").read_bytes())
    with pytest.raises(ValueError, match="added, removed or changed"):
        prepare_small(source, store)
    assert read_files(store) == before
    (store / PROGRESS_FILE).touch()  # killed between the last two steps
    (source / "class2" / "new.png").unlink()
    assert prepare_small(source, store).already
    assert read_files(store) == before


def stop_after(writes: int, source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    """Prepare, and fail after so many small files: the progress file, the record of each shard, skipped.jsonl."""
    calls = 0

    def write_and_count(path: Path, contents: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > writes:
            raise KeyboardInterrupt
        files.write_atomic(path, contents)

    with monkeypatch.context() as patch:
        for module in (record, resume, writer):
            patch.setattr(module, "write_atomic", write_and_count)
        with pytest.raises(KeyboardInterrupt):
            prepare_small(source, store, **options)


@pytest.mark.parametrize("writes", range(1, 10))
def test_a_store_stopped_anywhere_is_resumed_to_the_same_bytes(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pictures(tmp_path / "source", broken=2)
    prepare_small(source, tmp_path / "expected")
    stop_after(writes, source, tmp_path / "store", monkeypatch)
    with pytest.raises(ValueError, match="partly prepared"):
        Store(tmp_path / "store")
    with pytest.raises(ValueError, match="prepared with seed=0, not 1"):
        prepare_small(source, tmp_path / "store", seed=1)
    summary = prepare_small(source, tmp_path / "store", workers=3)
    assert summary.skipped == 2
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")


def test_a_killed_process_is_resumed_to_the_same_bytes(warm_python: str, tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", classes=4, each=40)
    code = (
        "import os, sys, time\n"
        "from alexnet.data.prepare import chunk, plan, prepare\n"
        "plan.SHARD_BYTES, plan.CHUNK_BYTES = 20 * 64 * 64 * 3, 4 * 64 * 64 * 3\n"
        "read_image = chunk.read_image\n"
        "def read_slowly(*args): time.sleep(float(sys.argv[3])); return read_image(*args)\n"
        "chunk.read_image = read_slowly\n"
        "print(os.getpid(), flush=True)\n"
        "prepare.prepare(sys.argv[1], sys.argv[2], size=64, progress=False)\n"
    )

    def start(store: Path, delay: float) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [warm_python, "-c", code, str(source), str(store), str(delay)], stdout=subprocess.PIPE, text=True
        )

    def shards() -> int:
        return len(list((tmp_path / "store").glob("*.arrow")))

    kills, status = 0, -signal.SIGKILL
    while status == -signal.SIGKILL:
        shards_before = shards()
        with start(tmp_path / "store", 0.01) as process:
            assert process.stdout
            pid = int(process.stdout.readline())
            while process.poll() is None and shards() < shards_before + 4:
                time.sleep(0.005)
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            status = process.wait()
    assert status == 0
    assert kills >= 1
    with start(tmp_path / "expected", 0) as process:
        assert process.wait() == 0
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")


def test_folders_of_other_files_are_refused(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", each=3)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"contains 'thesis\.tex', which is not part of a store"):
        prepare_small(source, tmp_path / "work")
    assert read_files(tmp_path / "work") == {"thesis.tex": b"mine"}
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / "train-00000.arrow").write_text("of another program")
    with pytest.raises(ValueError, match=r"contains 'train-00000\.arrow' but no progress"):
        prepare_small(source, tmp_path / "shard")
    with pytest.raises(ValueError, match="is inside the source"):
        prepare_small(source, source / "store")


def test_a_jpeg_store_of_another_quality_is_read_but_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pictures(tmp_path / "source", each=3)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "JPEG_QUALITY", 95)
        prepare_small(source, tmp_path / "store", encoding="jpeg")
    assert len(Store(tmp_path / "store").split("train")) == 6
    with pytest.raises(ValueError, match="prepared with quality=95, not 85"):
        prepare_small(source, tmp_path / "store", encoding="jpeg")


def test_two_calls_at_once_are_refused(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", each=3)
    with files.exclusive_lock(tmp_path / "store"), pytest.raises(ValueError, match="another process is using it"):
        prepare_small(source, tmp_path / "store")
    prepare_small(source, tmp_path / "store")


def test_a_full_disk_is_reported_and_the_work_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_pictures(tmp_path / "source", broken=2)
    prepare_small(source, tmp_path / "expected")
    real_fsync = os.fsync
    for successes in range(5):
        calls = 0

        def fsync_until_full(file: int, successes: int = successes) -> None:
            nonlocal calls
            calls += 1
            if calls > successes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real_fsync(file)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync_until_full)
            with pytest.raises(OSError, match="the disk is full; free some space") as caught:
                prepare_small(source, tmp_path / "store")
        assert caught.value.errno == errno.ENOSPC
        assert str(tmp_path / "store") in str(caught.value)
        assert not list((tmp_path / "store").glob("*.part"))
    prepare_small(source, tmp_path / "store")
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")


def test_too_little_space_is_reported_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"raw pictures need 13\.1 kB more and 1\.0 kB are free"):
        prepare_small(write_pictures(tmp_path / "source", each=3), tmp_path / "store")


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"encoding": "png"}, {"workers": 0}, {"max_failures": 1.5}, {"held_out": 2.0}]
)
def test_arguments_outside_their_range_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        prepare_small(write_pictures(tmp_path / "source", each=2), tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_without_a_terminal_progress_is_printed_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    prepare_small(write_pictures(tmp_path / "source", each=3), tmp_path / "store", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "of 9 pictures, " in err
    assert "left" in err


def test_an_error_in_a_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> np.ndarray:
        raise RuntimeError("a bug")

    monkeypatch.setattr(chunk, "read_image", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        prepare_small(write_pictures(tmp_path / "source", each=3), tmp_path / "store")


def test_a_complete_store_has_no_other_files(tmp_path: Path) -> None:
    prepare_small(write_pictures(tmp_path / "source", each=3), tmp_path / "store")
    assert set(read_files(tmp_path / "store")) == {
        "train-00000.arrow",
        "val-00000.arrow",
        STATISTICS_FILE,
        OFFSETS_FILE,
        CHECKSUMS_FILE,
        SKIPPED_FILE,
        DUPLICATES_FILE,
    }


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("key", r"progress\.safetensors: not written by .prepare"),
        (None, r"progress\.safetensors: not part of a store .* prepare the store again"),
        ("longest_shard", "partly prepared by another version of this program; remove it and prepare it again"),
    ],
)
def test_a_progress_file_of_another_program_or_version_is_refused(
    tmp_path: Path, missing: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_pictures(tmp_path / "source")
    stop_after(1, source, tmp_path / "store", monkeypatch)
    path = tmp_path / "store" / PROGRESS_FILE
    metadata = read_safetensors(path)[1]
    others = metadata.keys() - {missing, "checksums", "checksum"}
    changed: object = {name: metadata[name] for name in others} if missing else [1, 2]
    path.write_bytes(safetensors_bytes({}, metadata={METADATA_KEY: json.dumps(changed)}))
    with pytest.raises(ValueError, match=message):
        prepare_small(source, tmp_path / "store")


def test_a_damaged_record_is_reported_and_its_shard_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = write_pictures(tmp_path / "source"), tmp_path / "store"
    prepare_small(source, tmp_path / "expected")
    stop_after(3, source, store, monkeypatch)
    path = store / "train-00001.safetensors"
    contents = path.read_bytes()
    for damaged in (contents[:-1], safetensors_bytes({})):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-00001\.safetensors: damaged .* remove it and prepare again"):
            prepare_small(source, store)
    path.unlink()
    (store / "train-00000.arrow").unlink()
    prepare_small(source, store)
    assert read_files(store) == read_files(tmp_path / "expected")


def test_failures_of_an_earlier_call_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = write_pictures(tmp_path / "source", broken=2), tmp_path / "store"
    stop_after(8, source, store, monkeypatch)
    with pytest.raises(ValueError, match=r"of 60 files are not readable .* only 0 are allowed; the last is class0"):
        prepare_small(source, store, max_failures=0)
    assert json.loads((store / SKIPPED_FILE).read_text().splitlines()[0])["name"].startswith("class0/")


def test_a_store_that_prepare_did_not_write_is_refused(tmp_path: Path, store: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    with pytest.raises(ValueError, match="a store that `prepare` did not write; use another STORE"):
        prepare_small(write_pictures(tmp_path / "source"), copy)

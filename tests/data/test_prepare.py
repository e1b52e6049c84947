"""Preparing: the same bytes whatever the workers and however often killed; what is skipped, refused and resumed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

import alexnet.data.prepare.prepare as room
from alexnet.data.prepare import writer
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.prepare import Summary, prepare
from alexnet.data.store.format import (
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
    monkeypatch.setattr(room, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(room, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    monkeypatch.setattr(room, "JPEG_SHARE", 2)


def pictures(root: Path, classes: int = 3, each: int = 20, broken: int = 0) -> Path:
    """Draw JPEG and PNG files by class, the first `broken` of the first class being none."""
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


def make(source: Path, store: Path, **options: object) -> Summary:
    """Prepare 16x16 pictures quietly."""
    return prepare(source, store, **{"size": 16, "progress": False} | options)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_what_is_prepared(tmp_path: Path, encoding: str) -> None:
    source = pictures(tmp_path / "source")
    summary = make(source, tmp_path / "store", encoding=encoding)
    store = Store(tmp_path / "store")
    assert summary.counts == {"train": 54, "val": 6}
    assert store.classes == summary.classes == ("class0", "class1", "class2")
    seen = set()
    for split in store.splits:
        part = store.split(split)
        for index in range(len(part)):
            name = part.picture_name(index)
            seen.add(name)
            want = read_image(source / name, 16).astype(int)
            assert np.abs(part.image(index) - want).mean() <= (0 if encoding == "raw" else 20)  # noise, as JPEG
            assert store.classes[part.labels[index]] == name.split("/")[0]
    assert len(seen) == 60
    assert sorted(contents(tmp_path / "store"))[-1] == "val-00000.arrow"
    assert (tmp_path / "store" / SKIPPED_FILE).read_bytes() == b""


def test_statistics_are_those_of_the_training_part(tmp_path: Path) -> None:
    make(pictures(tmp_path / "source"), tmp_path / "store")
    store = Store(tmp_path / "store")
    train = store.split("train")
    images = np.stack([train.image(index) for index in range(len(train))])
    assert np.allclose(store.statistics.mean, images.mean(axis=0).transpose(2, 0, 1), atol=1e-4)
    assert np.allclose(store.statistics.covariance, np.cov(images.reshape(-1, 3).T, bias=True))
    assert store.statistics.count == len(train) == 54


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_same_bytes_whatever_the_workers(tmp_path: Path, encoding: str) -> None:
    source = pictures(tmp_path / "source", broken=2)
    for workers in (1, 2, 5):
        make(source, tmp_path / str(workers), workers=workers, encoding=encoding)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "5")


def test_both_sizes_are_told(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source")
    raw, jpeg = make(source, tmp_path / "raw"), make(source, tmp_path / "jpeg", encoding="jpeg")
    assert raw.raw_bytes == jpeg.raw_bytes == 60 * 16 * 16 * 3
    assert jpeg.jpeg_bytes / raw.jpeg_bytes == pytest.approx(1, abs=0.1)  # measured, estimated
    assert "kept as raw 0.0 MB; the other encoding: JPEG" in str(raw)
    assert "60 pictures of 16x16 in 3 classes: train 54, val 6" in str(raw)


def test_unreadable_files_are_skipped_named_and_counted(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", broken=2)
    (source / "class1" / "005.jpg").unlink()
    (source / "class1" / "005.jpg").symlink_to(source / "nowhere")
    (source / "class1" / "notes.txt").touch()
    summary = make(source, tmp_path / "store", max_failures=0.1)
    lines = [json.loads(line) for line in (tmp_path / "store" / SKIPPED_FILE).read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == ["class0/000.png", "class0/001.jpg", "class1/005.jpg"]
    assert all(line["reason"] for line in lines)
    assert str(source) not in json.dumps(lines)
    assert summary.skipped == 3
    assert summary.ignored == {".txt": 1}
    assert sum(summary.counts.values()) == 57
    assert "skipped 3 files" in str(summary)
    assert "1 .txt" in str(summary)


def test_too_many_unreadable_files_stop_it(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", broken=6)
    with pytest.raises(ValueError, match=r"\d files of 60 are no readable pictures, 3 are allowed") as caught:
        make(source, tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "store" / SKIPPED_FILE).read_text().count("\n") >= 4
    # More being allowed, the same store goes on; and its bytes are those of one that was never stopped.
    assert make(source, tmp_path / "store", max_failures=0.2).skipped == 6
    make(source, tmp_path / "other", max_failures=0.2)
    assert contents(tmp_path / "store") == contents(tmp_path / "other")


def test_two_failures_never_stop_it_unless_none_is_allowed(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", each=3, broken=2)
    assert make(source, tmp_path / "a", seed=1).skipped == 2
    with pytest.raises(ValueError, match="1 files of 9 are no readable pictures, 0 are allowed"):
        make(source, tmp_path / "b", max_failures=0, seed=1)


def test_a_class_left_without_pictures(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", each=3, broken=3)
    with pytest.raises(ValueError, match=r"class 'class0' has no readable picture.*skipped\.jsonl.*prepare it again"):
        make(source, tmp_path / "store", max_failures=1)


def test_preparing_again(tmp_path: Path) -> None:
    source, store = pictures(tmp_path / "source"), tmp_path / "store"
    first = make(source, store)
    before = contents(store)
    again = make(source, store, workers=1, max_failures=0.5)
    assert again.already
    assert "complete already" in str(again)
    assert (again.counts, again.raw_bytes, again.jpeg_bytes) == (first.counts, first.raw_bytes, first.jpeg_bytes)
    for other in ({"size": 17}, {"encoding": "jpeg"}, {"seed": 1}, {"held_out": 0.5}, {"train_per_class": 3}):
        with pytest.raises(ValueError, match=f"prepared with {next(iter(other))}="):
            make(source, store, **other)
    (source / "class2" / "new.png").write_bytes((source / "class2" / "000.png").read_bytes())
    with pytest.raises(ValueError, match="added, removed or changed"):
        make(source, store)
    assert contents(store) == before
    (store / PROGRESS_FILE).touch()  # killed between the last two steps
    (source / "class2" / "new.png").unlink()
    assert make(source, store).already
    assert contents(store) == before


def stopped_after(source: Path, store: Path, shards: int, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
    """Prepare and fail as the record of that many shards is written (0: the progress file, at the very start)."""
    calls = 0
    real = writer.write_atomic

    def write(path: Path, contents: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > shards:
            raise KeyboardInterrupt
        real(path, contents)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_atomic", write)
        with pytest.raises(KeyboardInterrupt):
            make(source, store, **options)


@pytest.mark.parametrize("shards", range(1, 10))
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "source", broken=2)
    make(source, tmp_path / "whole")
    stopped_after(source, tmp_path / "store", shards, monkeypatch)
    with pytest.raises(ValueError, match="partly prepared"):
        Store(tmp_path / "store")
    with pytest.raises(ValueError, match="prepared with seed=0, not 1"):
        make(source, tmp_path / "store", seed=1)
    summary = make(source, tmp_path / "store", workers=3)
    assert summary.skipped == 2
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_killed_for_real(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", classes=4, each=60)
    options = "size=64, progress=False"
    code = (
        "import sys, time, alexnet.data.prepare.prepare as room\n"
        "room.SHARD_BYTES, room.CHUNK_BYTES = 20 * 64 * 64 * 3, 4 * 64 * 64 * 3\n"
        "real = room.read_image\n"
        "def slow(*args): time.sleep(float(sys.argv[3])); return real(*args)\n"
        "room.read_image = slow\n"
        f"room.prepare(sys.argv[1], sys.argv[2], {options})\n"
    )

    def start(store: Path, delay: float) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(source), str(store), str(delay)])

    kills = 0
    while True:
        process = start(tmp_path / "store", 0.01)
        number = len(list((tmp_path / "store").glob("*.arrow"))) if kills else 0
        while process.poll() is None and len(list((tmp_path / "store").glob("*.arrow"))) < number + 4:
            time.sleep(0.005)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 1
    assert start(tmp_path / "whole", 0).wait() == 0
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", each=3)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis\.tex', which is no part of a store"):
        make(source, tmp_path / "work")
    assert contents(tmp_path / "work") == {"thesis.tex": b"mine"}
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "train-00000.arrow").write_text("whose?")
    with pytest.raises(ValueError, match=r"holds 'train-00000\.arrow' but no progress"):
        make(source, tmp_path / "part")
    with pytest.raises(ValueError, match="lies inside the source"):
        make(source, source / "store")


def test_a_jpeg_store_of_another_quality_is_read_but_not_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "source", each=3)
    with monkeypatch.context() as changed:
        changed.setattr(room, "JPEG_QUALITY", 95)
        make(source, tmp_path / "store", encoding="jpeg")
    assert len(Store(tmp_path / "store").split("train")) == 6
    with pytest.raises(ValueError, match="prepared with quality=95, not 85"):
        make(source, tmp_path / "store", encoding="jpeg")


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    source = pictures(tmp_path / "source", each=3)
    with files.exclusive_lock(tmp_path / "store"), pytest.raises(ValueError, match="another process is using it"):
        make(source, tmp_path / "store")
    make(source, tmp_path / "store")


def test_a_full_disk_is_named_and_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures(tmp_path / "source", broken=2)
    make(source, tmp_path / "whole")
    real = os.fsync
    for fails in range(5):
        calls = 0

        def full(file: int, fails: int = fails) -> None:
            nonlocal calls
            calls += 1
            if calls > fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="the disk is full; free some space") as caught:
                make(source, tmp_path / "store")
        assert caught.value.errno == errno.ENOSPC
        assert str(tmp_path / "store") in str(caught.value)
        assert not list((tmp_path / "store").glob("*.part"))
    make(source, tmp_path / "store")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_too_little_space_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"raw pictures need .* GB more"):
        make(pictures(tmp_path / "source", each=3), tmp_path / "store")


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"encoding": "png"}, {"workers": 0}, {"max_failures": 1.5}, {"held_out": 2.0}]
)
def test_arguments(tmp_path: Path, bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        make(pictures(tmp_path / "source", each=2), tmp_path / "store", **bad)
    assert not (tmp_path / "store").exists()


def test_plain_progress_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "PLAIN_SECONDS", 0.0)
    make(pictures(tmp_path / "source", each=3), tmp_path / "store", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "of 9 pictures, " in err
    assert "left" in err


def test_an_error_in_a_thread_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, __: int) -> np.ndarray:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(room, "read_image", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        make(pictures(tmp_path / "source", each=3), tmp_path / "store")


def test_the_store_is_named_complete_last(tmp_path: Path) -> None:
    make(pictures(tmp_path / "source", each=3), tmp_path / "store")
    assert set(contents(tmp_path / "store")) == {
        "train-00000.arrow",
        "val-00000.arrow",
        STATISTICS_FILE,
        OFFSETS_FILE,
        SKIPPED_FILE,
    }


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("key", r"progress\.safetensors: not .* prepare"),
        (None, r"progress\.safetensors: not .* prepare"),
        ("longest_shard", "half prepared by another version of this program; remove it and prepare it again"),
    ],
)
def test_a_progress_file_of_something_else_is_refused(
    tmp_path: Path, lost: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pictures(tmp_path / "source")
    stopped_after(source, tmp_path / "store", 1, monkeypatch)
    path = tmp_path / "store" / PROGRESS_FILE
    about = read_safetensors(path)[1]
    kept: object = {name: fact for name, fact in about.items() if name != lost} if lost else [1, 2]
    path.write_bytes(safetensors_bytes({}, metadata={METADATA_KEY: json.dumps(kept)}))
    with pytest.raises(ValueError, match=message):
        make(source, tmp_path / "store")


def test_a_damaged_record_is_named_and_its_shard_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = pictures(tmp_path / "source"), tmp_path / "store"
    make(source, tmp_path / "whole")
    stopped_after(source, store, 3, monkeypatch)
    record = store / "train-00001.safetensors"
    whole = record.read_bytes()
    for damaged in (whole[:-1], safetensors_bytes({})):
        record.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train-00001\.safetensors: damaged .* remove it and prepare again"):
            make(source, store)
    record.unlink()
    (store / "train-00000.arrow").unlink()
    make(source, store)
    assert contents(store) == contents(tmp_path / "whole")


def test_fewer_failures_allowed_than_there_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = pictures(tmp_path / "source", broken=2), tmp_path / "store"
    stopped_after(source, store, 8, monkeypatch)
    with pytest.raises(ValueError, match=r"files of 60 are no readable pictures, 0 are allowed; the last: class0"):
        make(source, store, max_failures=0)
    assert json.loads((store / SKIPPED_FILE).read_text().splitlines()[0])["name"].startswith("class0/")


def test_a_store_that_prepare_did_not_make_is_refused(tmp_path: Path, store: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    with pytest.raises(ValueError, match="a store that `prepare` did not make; use another STORE"):
        make(pictures(tmp_path / "source"), copy)

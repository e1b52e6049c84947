"""Prepare: files that change in place, with the same names and sizes, between a kill and the next call or after it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from test_prepare import prepare_small, read_files, stop_after

from alexnet.data.prepare import plan
from alexnet.utils.console import note_once


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of four raw 16x16 pictures, chunks of three; and every note is printed again."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 4 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    note_once.cache_clear()


def write_bitmaps(root: Path, seed: int = 0) -> Path:
    """Write ten bitmaps of the same size in two classes."""
    random = np.random.default_rng(seed)
    for number in range(10):
        path = root / f"class{number % 2}" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return root


def change_in_place(path: Path) -> None:
    """Change the last pixel of a bitmap; its name and size remain."""
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 255]))
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # a clock may be too coarse for a quick test


def test_a_file_that_changed_before_resuming_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bitmaps(tmp_path / "source")
    stop_after(3, source, tmp_path / "store", monkeypatch)  # the progress file and the records of two shards
    change_in_place(source / "class0" / "0.bmp")
    prepare_small(source, tmp_path / "store")
    assert "train-00000.arrow is written again: some of its files were modified" in capsys.readouterr().err
    prepare_small(source, tmp_path / "expected")
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")


def test_a_record_of_an_earlier_version_is_of_any_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, record = write_bitmaps(tmp_path / "source"), tmp_path / "store" / "train-00000.safetensors"
    stop_after(3, source, tmp_path / "store", monkeypatch)
    arrays = load_file(record)
    del arrays["modified"]
    save_file(arrays, record)
    prepare_small(source, tmp_path / "store")
    assert capsys.readouterr().err == ""


def test_the_summary_names_the_first_classes(tmp_path: Path) -> None:
    for number in range(9):
        for i in range(1 + number % 4):
            path = tmp_path / "source" / f"class{number}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 20, 3), 25 * number + i, np.uint8)).save(path)
    text = str(prepare_small(tmp_path / "source", tmp_path / "store", held_out=0))
    named = "class0 (1), class1 (2), class2 (3), class3 (4), class4 (1), class5 (2)"
    assert f"classes: {named} and 3 more; 1 to 4 pictures a class\n" in text


def test_the_advice_after_too_many_failures_can_be_followed(tmp_path: Path) -> None:
    source = write_bitmaps(tmp_path / "source")
    contents = {path: path.read_bytes() for path in sorted(source.rglob("*.bmp"))[:3]}
    for path in contents:
        path.write_bytes(b"BM")
    with pytest.raises(
        ValueError, match=r"raise `max_failures` .* or repair or remove them, remove the store and prepare"
    ):
        prepare_small(source, tmp_path / "store")
    for path, data in contents.items():
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a source of other files.*remove this one"):
        prepare_small(source, tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    assert prepare_small(source, tmp_path / "store").skipped == 0


def test_a_file_that_changed_after_the_store_was_complete_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_bitmaps(tmp_path / "source")
    prepare_small(source, tmp_path / "store")
    assert prepare_small(source, tmp_path / "store").already
    assert capsys.readouterr().err == ""
    before = read_files(tmp_path / "store")
    change_in_place(source / "class1" / "5.bmp")
    later = (tmp_path / "store" / "statistics.safetensors").stat().st_mtime_ns + 10**9
    os.utime(source / "class1" / "5.bmp", ns=(later, later))
    assert prepare_small(source, tmp_path / "store").already
    assert "1 file of 'source' changed after the store was written" in capsys.readouterr().err
    assert read_files(tmp_path / "store") == before

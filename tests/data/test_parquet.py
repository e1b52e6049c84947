"""Parquet files of pictures: the same stores as from class folders, splits from names, and what is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prepare import prepare_small, read_files, stop_after, write_pictures
from test_sources import picture_names

from alexnet.data.prepare import plan
from alexnet.data.sources import parquet
from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.kinds import open_source
from alexnet.utils.console import note_once

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = ("class0", "class1", "class2")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three; every note is printed again."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    note_once.cache_clear()


def hugging_face_metadata(names: Sequence[str]) -> dict[str, str]:
    """Return the metadata that Hugging Face's `datasets` writes for a column of pictures and one of classes."""
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write_parquet(path: Path, labels: Sequence[Any], names: Sequence[str] | None = None, **options: Any) -> Path:
    """Write small files, which need not be pictures, with their labels; `names` makes the labels classes."""
    images = [{"bytes": f"{path.stem} {n}".encode(), "path": None} for n in range(len(labels))]
    columns = {"image": pa.array(images, IMAGE), "label": pa.array(labels)}
    table = pa.table(columns, metadata=None if names is None else hugging_face_metadata(names))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def write_folder_as_parquet(folder: Path, path: Path, **options: Any) -> Path:
    """Write the pictures of class folders, in order, with their paths."""
    files = sorted(file for file in folder.rglob("*.*") if file.is_file())
    images = [{"bytes": file.read_bytes(), "path": str(file.relative_to(folder))} for file in files]
    labels = [CLASSES.index(file.parent.name) for file in files]
    columns = {"image": pa.array(images, IMAGE), "label": pa.array(labels)}
    pq.write_table(pa.table(columns, metadata=hugging_face_metadata(CLASSES)), path, **options)
    return path


def read_all(source: Source, split: str) -> list[bytes | np.ndarray]:
    """Return what the source reads of each picture of a split."""
    return [source.read(split, index) for index in range(len(source.splits[split]))]


def read_shards(store: Path) -> dict[str, list[Any]]:
    """Return the rows of each split's shards; their metadata have the name of the source."""
    shards = {path.name: path for path in sorted(store.glob("*.arrow"))}
    return {name: pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_pylist() for name, path in shards.items()}


@pytest.mark.parametrize("row_group_size", [5, 1000])
def test_the_store_is_that_of_class_folders(
    tmp_path: Path, row_group_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "set", each=8, broken=1)
    path = write_folder_as_parquet(folder, tmp_path / "set.parquet", row_group_size=row_group_size)
    prepare_small(folder, tmp_path / "expected")
    stop_after(2, path, tmp_path / "store", monkeypatch)
    prepare_small(path, tmp_path / "store", workers=3)
    assert read_shards(tmp_path / "store") == read_shards(tmp_path / "expected")
    prepare_small(path, tmp_path / "one", workers=1)
    assert read_files(tmp_path / "store") == read_files(tmp_path / "one")


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet", "test-00000-of-00001.parquet"],
        ["data/train-00000.parquet", "data/val-00000.parquet", "data/test-00000.parquet"],
        ["default/train/0000.parquet", "default/validation/0000.parquet", "default/test/0000.parquet"],
        ["train/0000.parquet", "dev/0000.parquet", "test/0000.parquet"],
    ],
)
def test_splits_are_in_the_names_of_files_or_folders(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write_parquet(tmp_path / name, [1, 0, 1, 0], ["cat", "dog"])
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert list(source.splits) == ["train", "val", "test"]
    for name, split in zip(names, source.splits, strict=True):
        assert source.splits[split].labels.tolist() == [1, 0, 1, 0]
        assert read_all(source, split) == [f"{Path(name).stem} {n}".encode() for n in range(4)]
        assert picture_names(source, split)[1] == f"{name}#1"


def test_several_files_and_row_groups_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PIECE_BYTES", 60)  # a few rows
    for number in range(3):
        write_parquet(tmp_path / f"train-{number}.parquet", ["b", "a"] * 10, row_group_size=7)
    source = open_source(tmp_path, SourceOptions(held_out=0.2))
    pictures = {
        name: dict(zip(picture_names(source, name), read_all(source, name), strict=True)) for name in ("train", "val")
    }
    both = pictures["train"] | pictures["val"]
    assert both == {f"train-{i}.parquet#{n}": f"train-{i} {n}".encode() for i in range(3) for n in range(20)}
    assert [len(part) for part in pictures.values()] == [48, 12]
    assert all(split.is_drawn for split in source.splits.values())
    rows = [(int(name[6]), int(name.rpartition("#")[2])) for name in pictures["train"]]
    assert rows == sorted(rows)  # not by class: a class is all over the files
    last = len(rows) - 1
    assert [source.read("train", index) for index in (last, 0, last)] == [
        list(pictures["train"].values())[index] for index in (last, 0, last)
    ]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["dog", " cat", "dog"], ("cat", "dog")),
        ([10, 2, 10], ("2", "10")),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), ("cat", "dog")),
        (pa.array(["dog", "cat", "dog"], pa.large_string()), ("cat", "dog")),
    ],
)
def test_without_metadata_the_labels_are_the_names(tmp_path: Path, labels: Any, classes: tuple[str, str]) -> None:
    source = open_source(write_parquet(tmp_path / "x.parquet", labels), SourceOptions(held_out=0))
    assert source.classes == classes
    assert source.splits["train"].labels.tolist() == [1, 0, 1]


def test_a_column_of_bytes_is_enough(tmp_path: Path) -> None:
    table = pa.table({"png": pa.array([b"1", b"2", b"3"], pa.large_binary()), "class": ["a", "b", "a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert read_all(open_source(tmp_path / "x.parquet", SourceOptions(held_out=0)), "train") == [b"1", b"2", b"3"]


def test_the_column_that_is_read_of_several_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {name: {"names": ["a", "b"], "_type": "ClassLabel"} for name in ("coarse_label", "fine_label")}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"img": pa.array([b"1", b"2"]), "coarse_label": [0, 0], "fine_label": [0, 1]}
    pq.write_table(pa.table(columns, metadata=metadata), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", SourceOptions(held_out=0))
    assert source.splits["train"].labels.tolist() == [0, 1]
    assert "of the columns fine_label and coarse_label, fine_label is read" in capsys.readouterr().err


def test_pictures_may_be_files_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "inside.jpg").write_bytes(b"inside")
    paths = ["inside.jpg", "../outside.jpg", "/etc/passwd", None]
    images = [{"bytes": None, "path": path} for path in paths]
    columns = {"image": pa.array(images, IMAGE), "label": ["a", "b", "a", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    source = open_source(tmp_path / "x.parquet", SourceOptions(held_out=0))
    assert picture_names(source, "train") == ["inside.jpg", "x.parquet#1", "x.parquet#2", "x.parquet#3"]
    assert source.read("train", 0) == b"inside"
    for index in (1, 2, 3):
        with pytest.raises(ValueError, match="neither its bytes nor a path in the folder"):
            source.read("train", index)


def test_a_split_without_labels_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 0, 1], ["a", "b"])
    write_parquet(tmp_path / "test.parquet", [-1, -1], ["a", "b"])
    assert list(open_source(tmp_path).splits) == ["train", "val"]
    assert "the 2 pictures of test have no labels: left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (
            [0, 1, 2],
            ["a", "b"],
            r"x\.parquet, row 2: has label 2, but there are names of 2 classes \(1 row in all\): correct",
        ),
        ([0, -1, 1], ["a", "b"], r"row 1: has no label"),
        ([0, None, 1], ["a", "b"], r"row 1: has no label"),
        ([0, 2**40, 1], ["a", "b"], r"row 1: has label 2147483647"),
        (["a", None, "b"], None, r"row 1: has no label"),
        ([1, -1], None, r"a label must be a name or a number of at least 0; got -1"),
        (["a", "a"], None, r"1 classes, at least 2 needed"),
        (["a", "A"], None, r"more than upper and lower case"),
        ([0, 1], ["a", "a"], r"more than upper and lower case; got 'a' and 'a'"),
        ([0, 1], ["a", "b", "c"], r"class 'c' has no pictures in train"),
        ([], ["a", "b"], r"has no pictures"),
        ([0.5, 1.5], None, r"must have a column of labels, called label, .* got image \(struct"),
    ],
)
def test_unsuitable_labels_are_refused_in_one_line(
    tmp_path: Path, labels: list[Any], names: list[str] | None, message: str
) -> None:
    path = write_parquet(tmp_path / "x.parquet", pa.array(labels) if labels else pa.array([], pa.int64()), names)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_tables_without_pictures_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"must have a column of pictures, the bytes of files; got text \(string\)"):
        open_source(tmp_path / "x.parquet")
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
    pq.write_table(pa.table({"image": ["a.jpg"], "label": [0]}, metadata=metadata), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="column image must be bytes or have a field of bytes; got string"):
        open_source(tmp_path / "x.parquet")


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], ["a", "b"])
    write_parquet(tmp_path / "test.parquet", [0, 1], ["b", "a"])
    with pytest.raises(ValueError, match=r"train\.parquet: must have the columns and classes of test\.parquet"):
        open_source(tmp_path)
    write_parquet(tmp_path / "test.parquet", [0, 1], ["a", "b"])
    write_parquet(tmp_path / "more.parquet", [0, 1], ["a", "b"])
    with pytest.raises(ValueError, match=r"more\.parquet has no word for its split in its name"):
        open_source(tmp_path)
    (tmp_path / "more.parquet").unlink()
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(ValueError, match="has test, but nothing to train on"):
        open_source(tmp_path)


@pytest.mark.parametrize("length", [0, 3, 50, -20])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, length: int) -> None:
    path = write_parquet(tmp_path / "x.parquet", [0, 1], ["a", "b"])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="not a readable Parquet file") as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_damaged_pictures_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "set", each=8)
    path = write_folder_as_parquet(folder, tmp_path / "set.parquet", row_group_size=8, compression="none")
    contents = bytearray(path.read_bytes())
    start = contents.index((folder / "class1" / "003.png").read_bytes())
    contents[start - 2] ^= 255  # in the length of this picture
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"of 24 files are not readable pictures.*; the last is class1/"):
        prepare_small(path, tmp_path / "store")

"""Lists of pictures: tables and JSON lines, their columns, labels and splits, and what is refused."""

import csv
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_prepare import prepare_small, read_files, stop_after, write_pictures
from test_sources import picture_names, write_files

from alexnet.data.prepare import plan
from alexnet.data.sources.base import SourceOptions
from alexnet.data.sources.kinds import open_source


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)


def write_list(path: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> Path:
    """Write a list as a table, or as JSON lines if its name ends so."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_pets(root: Path) -> list[dict[str, Any]]:
    """Write twelve files in one folder and return their rows: six of each class, a third of them of val."""
    rows = []
    for number in range(12):
        write_files(root, f"all/{number:02d}.jpg")
        split = "valid" if number % 3 == 0 else "train"
        rows.append({"path": f"all/{number:02d}.jpg", "label": ("dog", "cat")[number % 2], "split": split})
    return rows


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t"), ("a.jsonl", "")]
)
def test_lists_of_all_kinds_are_read(tmp_path: Path, name: str, delimiter: str) -> None:
    source = open_source(write_list(tmp_path / name, write_pets(tmp_path), delimiter))
    assert source.classes == ("cat", "dog")
    assert {split: len(pictures) for split, pictures in source.splits.items()} == {"train": 8, "val": 4}
    assert picture_names(source, "val") == [f"all/{n:02d}.jpg" for n in (3, 9, 0, 6)]
    assert source.splits["val"].labels.tolist() == [0, 0, 1, 1]
    assert source.read("val", 1) == b"all/09.jpg"
    with pytest.raises(ValueError, match="it has a val split of its own; leave `train_per_class=1` out"):
        open_source(tmp_path / name, SourceOptions(train_per_class=1))


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl", "metadata.csv", "metadata.jsonl"])
def test_the_store_is_that_of_class_folders_byte_for_byte(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "set", each=8, broken=1)
    prepare_small(folder, tmp_path / "expected")
    paths = sorted(folder.rglob("*.*"), reverse=True)
    rows = [{"file_name": str(path.relative_to(folder)), "class": path.parent.name} for path in paths]
    path = write_list(folder / name, rows)
    source = folder if name.startswith("metadata") else path
    stop_after(2, source, tmp_path / "store", monkeypatch)
    prepare_small(source, tmp_path / "store", workers=3)
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")


def test_a_list_in_the_folder_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = write_pets(tmp_path / split)
        write_list(
            tmp_path / split / "metadata.csv", [{"file_name": row["path"], "label": row["label"]} for row in rows]
        )
    source = open_source(tmp_path)
    assert {split: len(pictures) for split, pictures in source.splits.items()} == {"train": 12, "test": 12}
    assert picture_names(source, "test")[0] == "test/all/01.jpg"


def test_a_list_of_captions_does_not_replace_class_folders(tmp_path: Path) -> None:
    write_files(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    write_list(tmp_path / "metadata.csv", [{"file_name": "cat/1.jpg", "text": "a cat"}])
    assert open_source(tmp_path).ignored == {".csv": 1}


def test_numbers_are_ordered_by_value_and_without_splits_a_share_is_held_out(tmp_path: Path) -> None:
    rows = [{"Image Path": row["path"], "Label": 10 - n % 3 * 4} for n, row in enumerate(write_pets(tmp_path))]
    for name in ("a.csv", "a.jsonl"):
        source = open_source(
            write_list(tmp_path / name, [{"path": r["Image Path"], "Label": r["Label"]} for r in rows])
        )
        assert source.classes == ("2", "6", "10")
        assert {split: len(pictures) for split, pictures in source.splits.items()} == {"train": 9, "val": 3}
    assert open_source(write_list(tmp_path / "b.csv", rows)).classes == ("2", "6", "10")


def test_what_spreadsheets_and_windows_write_is_read(tmp_path: Path) -> None:
    """A byte order mark, quoted cells, an index column, empty lines, backslashes, two forms of Unicode."""
    write_files(tmp_path, "a, b/1.jpg", "a, b/2.jpg", "c/3.jpg", "c/4.jpg")
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    lines = [",File,Class", '0,"a, b\\1.jpg",bar', f"1,./c/3.jpg,{composed}", "", f"2,c//4.jpg, {decomposed} "]
    text = "\r\n".join([*lines, '3,"a, b/2.jpg",bar', ",,", ""])
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = open_source(tmp_path / "x.csv")
    assert source.classes == ("bar", composed)
    names = picture_names(source, "train") + picture_names(source, "val")
    assert sorted(names) == ["a, b/1.jpg", "a, b/2.jpg", "c/3.jpg", "c/4.jpg"]


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    write_files(tmp_path, "a.jpg", "c.jpg", "d.jpg")
    (tmp_path / "b\udcff.jpg").write_bytes(b"contents")
    (tmp_path / "x.csv").write_bytes(b"path,label\na.jpg,x\nb\xff.jpg,x\nc.jpg,y\nd.jpg,y\n")
    source = open_source(tmp_path / "x.csv")
    assert b"contents" in [source.read(split, index) for split in source.splits for index in range(2)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", "1.jpg,a", "2.jpg,b", "5.jpg,a"], r"line 4 names '5\.jpg', which is not in .*; 1 of 3 files"),
        (["path,label", "/etc/passwd,a"], r"line 2: a path must be relative .* got '/etc/passwd'"),
        (["path,label", "1.jpg,a", "a/../../2.jpg,b"], r"line 3: a path must be relative"),
        (["path,label", "1.jpg,a", "./1.jpg,b"], r"line 3: a picture must be named once; got '1\.jpg' again"),
        (["path,label", "1.jpg,"], r"line 2: the label is missing"),
        (["path,label", ",a"], r"line 2: the path is missing"),
        (["path,label,split", "1.jpg,a,train", "2.jpg,b,other"], r"line 3: the split must be train, val .* 'other'"),
        (["path,label,split", "1.jpg,a,train", "2.jpg,b"], r"line 3: the split must be train, val or test; got ''"),
        (["path,label,split", "1.jpg,a,val", "2.jpg,b,val"], r"no pictures of the split train"),
        (["path,label,split", "1.jpg,a,train", "2.jpg,b,train", "3.jpg,c,val"], r"only in val: c"),
        (["path,label", "1.jpg,1", "2.jpg,-1"], r"a label must be a name or a number of at least 0; got -1"),
        (["path,label", "1.jpg,a", "2.jpg,a"], r"1 classes, at least 2 needed"),
        (["path,label", "1.jpg,Cat", "2.jpg,cat", "3.jpg,cat"], r"more than upper and lower case; got 'Cat' and 'cat'"),
        (["path,label"], r"has no pictures of the split train"),
        (["name,kind", "1.jpg,a"], r"must have a column for the path, called path, .* got name, kind"),
        (["path,kind", "1.jpg,a"], r"must have a column for the label, called label"),
        ([""], r"column for the path"),
    ],
)
def test_unsuitable_tables_are_refused_in_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    write_files(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message) as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2: must be a JSON object \(Expecting"),
        ("[1]", r"line 2: must be a JSON object; got '\[1\]'"),
        ("[" * 100_000, r"line 2: must be a JSON object"),
        ('{"path": "2.jpg"}', r"line 2: must have a column for the label"),
        ('{"path": "2.jpg", "label": null, "split": "train"}', r"line 2: the label is missing"),
        ('{"path": "2.jpg", "label": 1.5, "split": "train"}', r"line 2: the label must be text or a whole number"),
        ('{"path": "2.jpg", "label": "b", "split": null}', r"line 2: the split must be train, val or test; got ''"),
        ('{"path": "2.jpg", "label": "b"}', r"line 2: all lines must have a split, or none"),
    ],
)
def test_unsuitable_json_lines_are_refused_in_one_line(tmp_path: Path, line: str, message: str) -> None:
    write_files(tmp_path, "1.jpg", "2.jpg")
    path = tmp_path / "x.jsonl"
    path.write_text('{"path": "1.jpg", "label": "a", "split": "train"}\n' + line)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_picture_under_the_name_of_a_list_is_refused(tmp_path: Path) -> None:
    picture = next(write_pictures(tmp_path / "set", each=2).rglob("*.png"))
    for name in ("x.csv", "x.jsonl"):
        (tmp_path / name).write_bytes(picture.read_bytes())
        with pytest.raises(ValueError, match=r"column for the path|JSON object") as caught:
            open_source(tmp_path / name)
        assert str(caught.value).isprintable()

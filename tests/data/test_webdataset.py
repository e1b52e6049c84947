"""WebDataset shards: the same stores as from class folders, patterns, labels, splits, and what is refused."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from test_parquet import read_all, read_shards
from test_prepare import prepare_small, stop_after, write_pictures
from test_sources import picture_names

from alexnet.data.prepare import plan
from alexnet.data.sources.base import SourceOptions
from alexnet.data.sources.kinds import open_source
from alexnet.utils.console import note_once

ALL = SourceOptions(held_out=0)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three; every note is printed again."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    note_once.cache_clear()


def write_tar(path: Path, members: Mapping[str, bytes | str]) -> Path:
    """Write a .tar with these members, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, contents in members.items():
            data = contents.encode() if isinstance(contents, str) else contents
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_shard(path: Path, labels: list[str]) -> Path:
    """Write a shard of small files, which need not be pictures, with their labels."""
    members = {}
    for number, label in enumerate(labels):
        members |= {f"{path.stem}_{number}.jpg": f"{path.stem} {number}", f"{path.stem}_{number}.cls": label}
    return write_tar(path, members)


@pytest.mark.parametrize("count", [1, 4])
def test_the_store_is_that_of_class_folders(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pictures(tmp_path / "set", each=8, broken=1)
    files = sorted(file for file in folder.rglob("*.*") if file.is_file())
    for shard in range(count):
        members: dict[str, bytes | str] = {}
        for file in files[shard * len(files) // count : (shard + 1) * len(files) // count]:
            name = str(file.relative_to(folder))
            members |= {name: file.read_bytes(), f"{name.rpartition('.')[0]}.cls": file.parent.name}
        write_tar(tmp_path / "shards" / f"part-{shard:06d}.tar", members)
    prepare_small(folder, tmp_path / "expected")
    for name, path in {
        "a": tmp_path / "shards",
        "b": tmp_path / "shards" / f"part-{{000000..{count - 1:06d}}}.tar",
    }.items():
        stop_after(2, path, tmp_path / name, monkeypatch)
        prepare_small(path, tmp_path / name, workers=3)
        assert read_shards(tmp_path / name) == read_shards(tmp_path / "expected")


def test_patterns_may_have_several_ranges_and_every_shard_must_be_there(tmp_path: Path) -> None:
    for name in ("a-0-08", "a-0-09", "a-0-10", "a-1-08", "a-1-09", "a-1-10"):
        write_shard(tmp_path / f"{name}.tar", ["0", "1"])
    source = open_source(tmp_path / "a-{0..1}-{08..10}.tar", ALL)
    assert picture_names(source, "train")[::2] == [f"a-{a}-{b}_0.jpg" for a in "01" for b in ("08", "09", "10")]
    with pytest.raises(FileNotFoundError, match=r"a-0-11\.tar: no such file; 2 of the 8 of .* are missing"):
        open_source(tmp_path / "a-{0..1}-{08..11}.tar")
    with pytest.raises(ValueError, match="must mean from 1 to 100,000 files; got 10,000,000,000"):
        open_source(tmp_path / "a-{0..99999}-{00000..99999}.tar")
    with pytest.raises(ValueError, match="must mean from 1 to 100,000 files; got 0"):
        open_source(tmp_path / "a-{5..4}.tar")


@pytest.mark.parametrize(
    "names",
    [["set-train-000.tar", "set-validation-000.tar"], ["train/0.tar", "val/0.tar"], ["Training/0.tar", "dev/0.tar"]],
)
def test_splits_are_in_the_names_of_shards_or_folders(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write_shard(tmp_path / name, ["1", "0"])
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert list(source.splits) == ["train", "val"]
    assert source.splits["val"].labels.tolist() == [1, 0]
    assert read_all(source, "val") == [f"{Path(names[1]).stem} {n}".encode() for n in range(2)]


def test_labels_are_in_cls_or_json_or_txt(tmp_path: Path) -> None:
    members = {
        "1.cls": "dog\n", "1.jpg": "1", "1.txt": "a caption", "1.json": "{}",
        "2.json": json.dumps({"width": 3, "label": "cat"}), "2.mask.png": "mask", "2.png": "2",
        "3.txt": "dog", "3.JPG": "3", "3.seg.npy": "",
        "notes.txt": "not a picture",
    }  # fmt: skip
    source = open_source(write_tar(tmp_path / "x.tar", members), ALL)
    assert source.classes == ("cat", "dog")
    assert picture_names(source, "train") == ["1.jpg", "2.png", "3.JPG"]
    assert source.splits["train"].labels.tolist() == [1, 0, 1]
    assert read_all(source, "train") == [b"1", b"2", b"3"]


def test_class_folders_with_other_files_are_no_shards(tmp_path: Path) -> None:
    members = {
        f"{name}/{n}.{ending}": "" for name in ("cat", "dog") for n in range(3) for ending in ("jpg", "json", "txt")
    }
    source = open_source(write_tar(tmp_path / "x.tar", members), ALL)
    assert source.classes == ("cat", "dog")
    assert source.ignored == {".json": 6, ".txt": 6}


def test_a_split_without_labels_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "train-0.tar", ["0", "1"])
    write_tar(tmp_path / "test-0.tar", {"a.jpg": "", "b.jpg": ""})
    write_shard(tmp_path / "val-0.tar", ["0", "1"])
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    # The first shard decides what the folder is.
    (tmp_path / "test-0.tar").rename(tmp_path / "z-test-0.tar")
    assert list(open_source(tmp_path).splits) == ["train", "val"]
    assert "the 2 pictures of test have no labels: left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"1.jpg": "", "1.cls": "0", "2.jpg": "", "2.cls": "2"},
            r"x\.tar, row 1: has label 2, but there are names of 2",
        ),
        ({"1.jpg": "", "1.cls": "0", "2.jpg": ""}, r"row 1: has no label"),
        (
            {"1.jpg": "", "1.cls": "0", "2.jpg": "", "2.cls": "cat"},
            r"x\.tar, member 2\.jpg: a label must be a whole .*'cat'",
        ),
        ({"1.jpg": "", "1.json": "{", "2.jpg": "", "2.json": "{}"}, r"x\.tar, member 1\.json: must be a JSON object"),
        ({"1.jpg": "", "1.json": " " * (2 << 20)}, r"member 1\.json: a label must have at most 1,048,576 bytes"),
        ({"1.jpg": "", "1.cls": "0", "../2.jpg": ""}, r"must be relative and stay within the archive; got '../2\.jpg'"),
        ({"1.jpg": "", "1.cls": "0", "/2.jpg": ""}, r"must be relative and stay within the archive; got '/2\.jpg'"),
    ],
)
def test_unsuitable_shards_are_refused_in_one_line(tmp_path: Path, members: dict[str, str], message: str) -> None:
    path = write_tar(tmp_path / "x.tar", members)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=message) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "x.tar", ["0", "1"] * 10)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="damaged archive") as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))

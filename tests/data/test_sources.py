"""Sources: which files and folders are accepted, how their pictures are split, and how anything else is refused."""

import gc
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.archive import TarTree, ZipTree
from alexnet.data.sources.base import Source, SourceOptions, fingerprint
from alexnet.data.sources.kinds import KINDS, open_source


def write_files(root: Path, *paths: str) -> Path:
    """Write a small file at each path. Sources do not look at the contents, so they need not be pictures."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def write_classes(root: Path, counts: dict[str, int]) -> Path:
    """Write the given number of files for each class."""
    return write_files(root, *(f"{name}/{number:03d}.jpg" for name, count in counts.items() for number in range(count)))


def picture_names(source: Source, split: str) -> list[str]:
    """Return the names of a split's pictures, in order."""
    pictures = source.splits[split]
    return [pictures.picture_name(index) for index in range(len(pictures))]


def test_every_kind_has_its_own_name_and_existing_options() -> None:
    options = {field.name for field in fields(SourceOptions)}
    assert len({kind.NAME for kind in KINDS}) == len(KINDS)
    assert all(set(kind.OPTIONS) <= options for kind in KINDS)


def test_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "pets", {"dog": 20, "cat": 10, "ox": 2, "yak": 1})
    source = open_source(root, SourceOptions(held_out=0.2))
    assert source.classes == ("cat", "dog", "ox", "yak")
    assert source.name == "pets"
    assert np.bincount(source.splits["val"].labels, minlength=4).tolist() == [2, 4, 1, 0]
    assert np.bincount(source.splits["train"].labels).tolist() == [8, 16, 1, 1]
    assert set(picture_names(source, "train")).isdisjoint(picture_names(source, "val"))
    assert picture_names(source, "train") == sorted(picture_names(source, "train"))
    first = source.splits["train"].picture_name(0)
    assert source.read("train", 0) == first.encode()


def test_the_choice_of_held_out_pictures_depends_on_the_seed_and_the_class_only(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 20, "b": 20})
    held_out = picture_names(open_source(root, SourceOptions(seed=1)), "val")
    assert held_out == picture_names(open_source(root, SourceOptions(seed=1)), "val")
    assert held_out != picture_names(open_source(root, SourceOptions(seed=2)), "val")
    write_classes(root, {"aa": 20})  # another class does not change the choice in the others
    with_aa = picture_names(open_source(root, SourceOptions(seed=1)), "val")
    assert [name for name in with_aa if not name.startswith("aa/")] == held_out


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(2, 12), min_size=2, max_size=4), st.floats(0.01, 0.99), st.integers(0, 9))
def test_every_picture_is_in_one_split(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], share: float, seed: int
) -> None:
    root = write_classes(tmp_path_factory.mktemp("s"), {f"c{i}": count for i, count in enumerate(counts)})
    source = open_source(root, SourceOptions(held_out=share, seed=seed))
    names = picture_names(source, "train") + picture_names(source, "val")
    assert sorted(names) == sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    for split in source.splits.values():
        assert len(np.unique(split.labels)) == len(counts)


@pytest.mark.parametrize(("share", "counts"), [(0.0, [0, 0, 0]), (0.25, [2, 4, 0]), (0.001, [1, 1, 0])])
def test_pictures_are_held_out_for_val_and_for_test(tmp_path: Path, share: float, counts: list[int]) -> None:
    root = write_classes(tmp_path, {"a": 8, "b": 16, "c": 1})
    source, alone = (open_source(root, SourceOptions(0.25, test=test)) for test in (share, 0))
    assert list(source.splits) == ["train", "val", *(["test"] if share else [])]
    assert np.bincount(source.splits["val"].labels, minlength=3).tolist() == [2, 4, 0]
    assert picture_names(source, "val") == picture_names(alone, "val")  # whatever share is held out for test
    if share:
        assert np.bincount(source.splits["test"].labels, minlength=3).tolist() == counts
    names = [name for split in source.splits for name in picture_names(source, split)]
    assert sorted(names) == sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))


def test_all_pictures_can_be_trained_on(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 1, "b": 1})
    source = open_source(root, SourceOptions(held_out=0))
    assert list(source.splits) == ["train"]
    assert picture_names(source, "train") == ["a/000.jpg", "b/000.jpg"]


def test_all_pictures_can_be_tested_on(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "one", {"a": 3})  # a single class is enough
    source = open_source(root, SourceOptions(test=1))
    assert list(source.splits) == ["test"]
    assert picture_names(source, "test") == ["a/000.jpg", "a/001.jpg", "a/002.jpg"]
    for split in ("val", "test"):
        write_classes(tmp_path / "two" / split, {"a": 2, "b": 1})
    source = open_source(tmp_path / "two", SourceOptions(test=1))  # there need be no train/
    assert {name: len(split) for name, split in source.splits.items()} == {"val": 3, "test": 3}
    with pytest.raises(ValueError, match="has test, val but no train folder"):
        open_source(tmp_path / "two")


def test_a_share_for_test_is_refused_where_it_cannot_be_drawn(tmp_path: Path) -> None:
    write_classes(tmp_path / "two", {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="at least 3 pictures, so that one can be held out as val and test; got at mo"):
        open_source(tmp_path / "two", SourceOptions(test=0.1))
    for split in ("train", "val"):
        write_classes(tmp_path / "own" / split, {"a": 2, "b": 2})
    with pytest.raises(ValueError, match=r"own: it has splits of its own; leave `test=0.1` out"):
        open_source(tmp_path / "own", SourceOptions(test=0.1))
    with pytest.raises(ValueError, match=r"`held_out` \+ `test` must be below 1, .*; got 1.1"):
        SourceOptions(held_out=0.6, test=0.5)
    for share in (0.5, 0.0):
        with pytest.raises(ValueError, match="test must be left out with `train_per_class`"):
            SourceOptions(test=share, train_per_class=3)


def test_a_share_of_none_is_refused_beside_a_split_of_the_source(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_classes(tmp_path / "own" / split, {"a": 2, "b": 2})
    with pytest.raises(ValueError, match=r"it has splits of its own; leave `test=0` out"):
        open_source(tmp_path / "own", SourceOptions(test=0))
    assert list(open_source(tmp_path / "own", SourceOptions(held_out=0)).splits) == [
        "train",
        "test",
    ]  # there is no val/
    with pytest.raises(ValueError, match=r"it has pictures to train on in a split of its own; leave `test=1` out"):
        prepare(tmp_path / "own", tmp_path / "store", test=1)
    with pytest.raises(ValueError, match="seed must be left out with `test=1`"):
        SourceOptions(test=1, seed=3)
    source = open_source(write_classes(tmp_path / "none", {"a": 2, "b": 2}), SourceOptions(held_out=0, test=0))
    assert list(source.splits) == ["train"]


def test_train_per_class_fixes_the_number_of_training_pictures(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 5, "b": 9})
    source = open_source(root, SourceOptions(train_per_class=4))
    assert list(source.splits) == ["train", "test"]
    assert np.bincount(source.splits["train"].labels).tolist() == [4, 4]
    assert np.bincount(source.splits["test"].labels).tolist() == [1, 5]
    with pytest.raises(ValueError, match=r"class 'a' has 5 pictures, so train_per_class=5 .*choose at most 4"):
        open_source(root, SourceOptions(train_per_class=5))


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "val"], ["train", "val"]),
        (["test", "train"], ["train", "test"]),
        (["Training", "validation", "testing"], ["train", "val", "test"]),
        (["train"], ["train", "val"]),  # a share of it is held out
    ],
)
def test_folders_named_after_splits_are_the_splits(tmp_path: Path, folders: list[str], splits: list[str]) -> None:
    for folder in folders:
        write_classes(tmp_path / folder, {"a": 3, "b": 2})
    source = open_source(tmp_path)
    assert list(source.splits) == splits
    assert source.classes == ("a", "b")
    if len(folders) > 1:
        assert all(len(split) == 5 for split in source.splits.values())
        with pytest.raises(ValueError, match="leave `train_per_class=1` out"):
            open_source(tmp_path, SourceOptions(train_per_class=1))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert open_source(write_classes(tmp_path, {"bus": 3, "car": 3, "train": 3})).classes == ("bus", "car", "train")


def test_nested_pictures_are_listed_and_hidden_and_other_files_are_not(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    write_files(
        root,
        "a/more/deep/x.PNG",
        "a/noending",
        "a/.hidden.jpg",
        "b/Thumbs.db",
        "b/notes.TXT",
        "loose.jpg",
        ".git/x.jpg",
    )
    write_files(root, "__MACOSX/a/000.jpg", "annotations/a.mat")
    source = open_source(root)
    assert source.classes == ("a", "b")
    assert sorted(picture_names(source, "train") + picture_names(source, "val")) == [
        "a/000.jpg", "a/001.jpg", "a/more/deep/x.PNG", "a/noending", "b/000.jpg", "b/001.jpg",
    ]  # fmt: skip
    assert source.ignored == {".db": 1, ".txt": 1, ".mat": 1, "outside a class folder": 1}


def test_folders_around_the_split_folders_are_skipped(tmp_path: Path) -> None:
    write_classes(tmp_path / "outer" / "inner" / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "outer" / "inner" / "val", {"a": 2, "b": 2})
    assert list(open_source(tmp_path).splits) == ["train", "val"]


def test_links_are_followed_except_into_a_folder_above(tmp_path: Path) -> None:
    elsewhere = write_classes(tmp_path / "elsewhere", {"a": 3})
    root = write_classes(tmp_path / "set", {"b": 3})
    (root / "a").symlink_to(elsewhere / "a")
    (root / "b" / "again").symlink_to(root)
    (root / "b" / "gone.jpg").symlink_to(root / "nothing")
    source = open_source(root)
    assert len(source.splits["train"]) + len(source.splits["val"]) == 7
    assert "b/gone.jpg" in picture_names(source, "train") + picture_names(source, "val")


def test_file_names_that_are_not_utf8_can_be_read(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 3, "b": 3})
    with open(os.fsencode(root) + b"/a/\xff.jpg", "wb") as file:  # noqa: PTH123 (bytes)
        file.write(b"contents")
    source = open_source(root, SourceOptions(held_out=0.01))
    contents = [source.read(split, i) for split in source.splits for i in range(len(source.splits[split]))]
    assert b"contents" in contents


def pack(root: Path, archive: Path) -> Path:
    """Pack a folder into an archive whose order differs from the sorted one."""
    files = sorted((path for path in root.rglob("*") if path.is_file()), reverse=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as target:
            for number, path in enumerate(files):
                method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
                target.write(path, path.relative_to(root.parent), method)
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else f"w:{archive.suffix[1:]}") as target:
            for path in files:
                target.add(path, f"./{path.relative_to(root.parent)}")
    return archive


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_a_zip_that_is_cut_off_is_damaged_and_not_unknown(tmp_path: Path, share: float) -> None:
    archive = pack(write_classes(tmp_path / "set", {"a": 5, "b": 4}), tmp_path / "set.zip")
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(ValueError, match=r"set\.zip: damaged archive \(cut off before .*; copy or download it again"):
        open_source(archive)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_are_read_in_place(tmp_path: Path, kind: str) -> None:
    root = write_classes(tmp_path / "set", {"a": 5, "b": 4})
    write_files(root, "b/.hidden.jpg", "b/notes.txt")
    folder, archive = open_source(root), open_source(pack(root, tmp_path / f"set.{kind}"))
    assert archive.name == f"set.{kind}"
    assert archive.ignored == folder.ignored == {".txt": 1}
    for split in ("train", "val"):
        # The choice is made from the sorted names, and so it is the same.
        assert picture_names(archive, split) == [f"set/{name}" for name in picture_names(folder, split)]
        for index in range(len(folder.splits[split])):
            assert archive.read(split, index) == folder.read(split, index)


def test_a_link_in_a_zip_is_called_one(tmp_path: Path) -> None:
    path = pack(write_classes(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "set.zip")
    link = zipfile.ZipInfo("set/a/link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16  # as `zip --symlinks` writes it
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    source = open_source(path)
    with pytest.raises(ValueError, match=r"a link in the \.zip: pack the file that it points to"):
        [source.read(split, i) for split in source.splits for i in range(len(source.splits[split]))]


def test_damage_in_a_zip_is_reported(tmp_path: Path) -> None:
    path = pack(write_classes(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "set.zip")
    data = bytearray(path.read_bytes())
    start = data.index(b"a/001.jpg", data.index(b"a/001.jpg") + 5)  # of the contents, which are the path
    data[start] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ValueError, match=r"damaged in the \.zip"):
        [source.read(split, i) for split in source.splits for i in range(len(source.splits[split]))]


def test_what_is_not_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_files(tmp_path / "flat", "a.jpg", "b.jpg")
    write_files(tmp_path / "one", "a/x.jpg", "a/y.jpg")
    write_files(tmp_path / "hollow", "a/x.jpg", "b/y.jpg")
    (tmp_path / "hollow" / "c").mkdir()
    write_files(tmp_path / "notrain", "val/a/x.jpg", "val/b/y.jpg", "test/a/x.jpg", "test/b/y.jpg")
    write_files(tmp_path / "beside", "train/a/x.jpg", "train/b/y.jpg", "val/a/x.jpg", "val/b/y.jpg", "other/z.jpg")
    write_files(tmp_path / "differ", "train/a/x.jpg", "train/b/y.jpg", "val/a/x.jpg", "val/c/y.jpg")
    write_files(tmp_path / "twice", "train/a/x.jpg", "val/a/x.jpg", "valid/a/x.jpg")
    write_files(tmp_path, "notes.txt")
    for name, message in {
        "empty": "0 classes, at least 2",
        "flat": "0 classes.*2 outside a class folder",
        "one": "1 classes, at least 2",
        "hollow": "class 'c' has no pictures",
        "notrain": "no train folder",
        "beside": "there is also a folder 'other'",
        "differ": "only in val: c; only in train: b",
        "twice": "two folders for one split",
        "notes.txt": "not a source that can be read; give a folder of class folders, a .tar .* or the name of",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            open_source(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        open_source(tmp_path / "nothing")


@pytest.mark.parametrize("bad", [{"held_out": -0.1}, {"held_out": 1.0}, {"test": 1.1}, {"seed": -1}])
def test_options_outside_their_range_are_refused(tmp_path: Path, bad: dict[str, float]) -> None:
    root = write_classes(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(ValueError, match=next(iter(bad))):
        open_source(root, SourceOptions(**bad))


def test_the_fingerprint_changes_with_file_sizes_and_names(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 3, "b": 3})
    first = fingerprint(open_source(root))
    assert fingerprint(open_source(root)) == first
    (root / "a" / "001.jpg").write_bytes(b"another size")
    second = fingerprint(open_source(root))
    write_files(root, "b/new.jpg")
    assert len({first, second, fingerprint(open_source(root))}) == 3


def test_a_damaged_tar_is_refused(tmp_path: Path) -> None:
    path = pack(write_classes(tmp_path / "set", {"a": 3, "b": 3}), tmp_path / "set.tar")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 10 + 300])  # within the header of the second file
    with pytest.raises(ValueError, match="damaged archive"):
        open_source(path)


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    """Write a .tar of four pictures in two classes, and further members without contents."""
    with tarfile.open(path, "w") as archive:
        for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
        for member in members:
            archive.addfile(member)
    return path


def tar_member(name: str, type: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Return a member of a .tar: a file, or a link to `target`."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = type, target
    return info


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (tar_member("/etc/x.jpg"), r"path of a member must be relative .* got '/etc/x\.jpg'"),
        (tar_member("a/../../x.jpg"), r"stay within the archive; got 'a/\.\./\.\./x\.jpg'"),
        (tar_member("a/x.jpg", tarfile.SYMTYPE, "../../x.jpg"), r"member 'a/x\.jpg' leads to '\.\./\.\./x\.jpg'"),
        (tar_member("a/x.jpg", tarfile.SYMTYPE, "/etc/x.jpg"), r"member 'a/x\.jpg' leads to '/etc/x\.jpg'"),
        (tar_member("a/x.jpg", tarfile.LNKTYPE, "../x.jpg"), r"member 'a/x\.jpg' leads to '\.\./x\.jpg'"),
    ],
)
def test_a_member_that_leads_out_of_an_archive_is_refused(
    tmp_path: Path, member: tarfile.TarInfo, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_source(write_tar(tmp_path / "set.tar", member))
    assert str(caught.value).startswith(str(tmp_path / "set.tar"))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a/../../x.jpg", b"")
    with pytest.raises(ValueError, match="stay within the archive"):
        open_source(tmp_path / "set.zip")


def test_the_last_member_of_a_path_counts(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar", tar_member("b/1.jpg"), tar_member("a/1.jpg"), tar_member("a/1.jpg"))
    source = open_source(path, SourceOptions(held_out=0))
    assert source.ignored == {"replaced by a later member of the same path": 3}
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "set", filter="data")
    folder = open_source(tmp_path / "set", SourceOptions(held_out=0))
    assert picture_names(source, "train") == picture_names(folder, "train") == sorted(picture_names(source, "train"))
    assert [source.read("train", i) for i in range(4)] == [folder.read("train", i) for i in range(4)]
    assert source.read("train", 0) == b""  # not that of the first member


def test_links_within_an_archive_are_not_pictures(tmp_path: Path) -> None:
    link = tar_member("b/3.jpg", tarfile.SYMTYPE, "../a/1.jpg")
    source = open_source(write_tar(tmp_path / "set.tar", link))
    assert sum(map(len, source.splits.values())) == 4


def test_hard_links_within_an_archive_are_pictures(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    os.link(root / "a" / "000.jpg", root / "b" / "link.jpg")
    source = open_source(pack(root, tmp_path / "set.tar"), SourceOptions(held_out=0))
    pictures = dict(zip(picture_names(source, "train"), [source.read("train", i) for i in range(5)], strict=True))
    assert pictures["set/b/link.jpg"] == pictures["set/a/000.jpg"] == b"a/000.jpg"


def test_listing_a_tar_does_not_keep_its_headers(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for number in range(6000):
            archive.addfile(tar_member(f"{number % 2}/{number:06d}.jpg"))
    tree = TarTree(tmp_path / "set.tar")
    tracemalloc.start()
    assert sum(1 for _ in tree.entries()) == 6000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # a header that is kept takes about a kilobyte


def test_classes_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:  # some file systems cannot have both folders
        for name in ("Dog/1.jpg", "Dog/2.jpg", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"):
            archive.addfile(tar_member(name))
    with pytest.raises(ValueError, match="more than upper and lower case; got 'Dog' and 'dog'"):
        open_source(tmp_path / "set.tar")


def test_classes_of_one_picture_each_leave_none_to_hold_out(tmp_path: Path) -> None:
    root = write_classes(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match=r"must have at least 2 pictures.* got at most 1 in each class: add"):
        open_source(root)
    write_files(root, "a/more.jpg")
    assert len(open_source(root).splits["val"]) == 1  # one class with two is enough


@pytest.mark.parametrize("tree", [TarTree, ZipTree])
def test_an_archive_that_cannot_be_opened_leaves_nothing_to_close(tmp_path: Path, tree: type) -> None:
    with pytest.raises(FileNotFoundError):
        tree(tmp_path / "nothing")
    gc.collect()  # pytest turns an exception in __del__ into an error

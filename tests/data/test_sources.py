"""What is taken for a source, how it is divided, and how what is no source is refused."""

import gc
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data.sources.base import Source, fingerprint
from alexnet.data.sources.cifar10 import CIFAR_TRAIN
from alexnet.data.sources.folder import open_source
from alexnet.data.sources.tree import Tar, Zip


def put(root: Path, *paths: str) -> Path:
    """Write a small file at each path; no source looks at what is in it."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def by_class(root: Path, counts: dict[str, int]) -> Path:
    """Write so many files for each class."""
    return put(root, *(f"{name}/{number:03d}.jpg" for name, count in counts.items() for number in range(count)))


def names(source: Source, split: str) -> list[str]:
    """The names of a split's pictures, in order."""
    part = source.parts[split]
    return [part.picture_name(index) for index in range(len(part))]


def cifar(root: Path, pictures: int = 3) -> dict[str, np.ndarray]:
    """Write a small set in CIFAR-10's layout; its records by file."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in (*CIFAR_TRAIN, "test_batch.bin"):
        rows = rng.integers(0, 256, (pictures, 3073), np.uint8)
        rows[:, 0] = rng.integers(0, 10, pictures)
        (root / name).write_bytes(rows.tobytes())
        files[name] = rows
    (root / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n\n")
    return files


def test_a_share_of_each_class_is_set_aside(tmp_path: Path) -> None:
    root = by_class(tmp_path / "pets", {"dog": 20, "cat": 10, "ox": 2, "yak": 1})
    source = open_source(root, held_out=0.2)
    assert source.classes == ("cat", "dog", "ox", "yak")
    assert source.name == "pets"
    assert np.bincount(source.parts["val"].labels, minlength=4).tolist() == [2, 4, 1, 0]
    assert np.bincount(source.parts["train"].labels).tolist() == [8, 16, 1, 1]
    assert set(names(source, "train")).isdisjoint(names(source, "val"))
    assert names(source, "train") == sorted(names(source, "train"))
    first = source.parts["train"].picture_name(0)
    assert source.read("train", 0) == first.encode()


def test_the_draw_follows_from_the_seed_and_the_class(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"a": 20, "b": 20})
    drawn = names(open_source(root, seed=1), "val")
    assert drawn == names(open_source(root, seed=1), "val")
    assert drawn != names(open_source(root, seed=2), "val")
    by_class(root, {"aa": 20})  # another class changes nothing in the others
    assert [name for name in names(open_source(root, seed=1), "val") if not name.startswith("aa/")] == drawn


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(2, 12), min_size=2, max_size=4), st.floats(0.01, 0.99), st.integers(0, 9))
def test_every_picture_is_in_one_part(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], share: float, seed: int
) -> None:
    root = by_class(tmp_path_factory.mktemp("s"), {f"c{i}": count for i, count in enumerate(counts)})
    source = open_source(root, held_out=share, seed=seed)
    both = names(source, "train") + names(source, "val")
    assert sorted(both) == sorted(str(path.relative_to(root)) for path in root.rglob("*.jpg"))
    for part in source.parts.values():
        assert len(np.unique(part.labels)) == len(counts)


def test_so_many_of_each_class_to_train_on(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"a": 5, "b": 9})
    source = open_source(root, train_per_class=4)
    assert list(source.parts) == ["train", "test"]
    assert np.bincount(source.parts["train"].labels).tolist() == [4, 4]
    assert np.bincount(source.parts["test"].labels).tolist() == [1, 5]
    with pytest.raises(ValueError, match=r"class 'a' has 5 pictures, train_per_class=5.*choose at most 4"):
        open_source(root, train_per_class=5)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "val"], ["train", "val"]),
        (["test", "train"], ["train", "test"]),
        (["Training", "validation", "testing"], ["train", "val", "test"]),
        (["train"], ["train", "val"]),  # a share of it is set aside
    ],
)
def test_split_folders(tmp_path: Path, folders: list[str], splits: list[str]) -> None:
    for folder in folders:
        by_class(tmp_path / folder, {"a": 3, "b": 2})
    source = open_source(tmp_path)
    assert list(source.parts) == splits
    assert source.classes == ("a", "b")
    if len(folders) > 1:
        assert all(len(part) == 5 for part in source.parts.values())
        with pytest.raises(ValueError, match="leave train_per_class=1 out"):
            open_source(tmp_path, train_per_class=1)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert open_source(by_class(tmp_path, {"bus": 3, "car": 3, "train": 3})).classes == ("bus", "car", "train")


def test_nested_hidden_and_other_files(tmp_path: Path) -> None:
    root = by_class(tmp_path / "set", {"a": 2, "b": 2})
    put(
        root,
        "a/more/deep/x.PNG",
        "a/noending",
        "a/.hidden.jpg",
        "b/Thumbs.db",
        "b/notes.TXT",
        "loose.jpg",
        ".git/x.jpg",
    )
    put(root, "__MACOSX/a/000.jpg", "annotations/a.mat")
    source = open_source(root)
    assert source.classes == ("a", "b")
    assert sorted(names(source, "train") + names(source, "val")) == [
        "a/000.jpg", "a/001.jpg", "a/more/deep/x.PNG", "a/noending", "b/000.jpg", "b/001.jpg",
    ]  # fmt: skip
    assert source.ignored == {".db": 1, ".txt": 1, ".mat": 1, "outside a class folder": 1}


def test_a_folder_round_the_classes(tmp_path: Path) -> None:
    by_class(tmp_path / "outer" / "inner" / "train", {"a": 2, "b": 2})
    by_class(tmp_path / "outer" / "inner" / "val", {"a": 2, "b": 2})
    assert list(open_source(tmp_path).parts) == ["train", "val"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = by_class(tmp_path / "elsewhere", {"a": 3})
    root = by_class(tmp_path / "set", {"b": 3})
    (root / "a").symlink_to(elsewhere / "a")
    (root / "b" / "again").symlink_to(root)
    (root / "b" / "gone.jpg").symlink_to(root / "nothing")
    source = open_source(root)
    assert len(source.parts["train"]) + len(source.parts["val"]) == 7
    assert "b/gone.jpg" in names(source, "train") + names(source, "val")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"a": 3, "b": 3})
    with open(os.fsencode(root) + b"/a/\xff.jpg", "wb") as file:  # noqa: PTH123 (bytes)
        file.write(b"here")
    source = open_source(root, held_out=0.01)
    read = [source.read(split, i) for split in source.parts for i in range(len(source.parts[split]))]
    assert b"here" in read


def packed(root: Path, archive: Path) -> Path:
    """Pack a folder, in an order of its own."""
    files = sorted((path for path in root.rglob("*") if path.is_file()), reverse=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as target:
            for number, path in enumerate(files):
                target.write(
                    path, path.relative_to(root.parent), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
                )
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else f"w:{archive.suffix[1:]}") as target:
            for path in files:
                target.add(path, f"./{path.relative_to(root.parent)}")
    return archive


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_are_read_in_place(tmp_path: Path, kind: str) -> None:
    root = by_class(tmp_path / "set", {"a": 5, "b": 4})
    put(root, "b/.hidden.jpg", "b/notes.txt")
    folder, archive = open_source(root), open_source(packed(root, tmp_path / f"set.{kind}"))
    assert archive.name == f"set.{kind}"
    assert archive.ignored == folder.ignored == {".txt": 1}
    for split in ("train", "val"):
        # The draw is by place in the sorted names, and so the same.
        assert names(archive, split) == [f"set/{name}" for name in names(folder, split)]
        for index in range(len(folder.parts[split])):
            assert archive.read(split, index) == folder.read(split, index)


def test_damage_in_a_zip(tmp_path: Path) -> None:
    path = packed(by_class(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "set.zip")
    data = bytearray(path.read_bytes())
    place = data.index(b"a/001.jpg", data.index(b"a/001.jpg") + 5)  # the contents, which are the path
    data[place] ^= 1
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ValueError, match=r"damaged in the \.zip"):
        [source.read(split, i) for split in source.parts for i in range(len(source.parts[split]))]
    (tmp_path / "cut.zip").write_bytes(data[:40])
    with pytest.raises(ValueError, match="neither a folder nor"):
        open_source(tmp_path / "cut.zip")


def test_a_compressed_tar_of_pictures_must_be_unpacked(tmp_path: Path) -> None:
    path = packed(by_class(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "set.gz")
    with pytest.raises(ValueError, match=r"compressed \.tar.*tar -xf set\.gz"):
        open_source(path)


@pytest.mark.parametrize("kind", ["folder", "folder above", "tar", "gz", "xz"])
def test_cifar10(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "cifar-10-batches-bin"
    files = cifar(root)
    path = {"folder": root, "folder above": tmp_path}.get(kind) or packed(root, tmp_path / f"cifar.{kind}")
    source = open_source(path)
    assert source.size == 32
    assert source.classes == tuple(f"class{number}" for number in range(10))
    rows = np.concatenate([files[name] for name in CIFAR_TRAIN])
    assert source.parts["train"].labels.tolist() == rows[:, 0].tolist()
    assert source.parts["test"].labels.tolist() == files["test_batch.bin"][:, 0].tolist()
    assert names(source, "train")[3:5] == ["data_batch_2.bin#0", "data_batch_2.bin#1"]
    picture = source.read("train", 7)
    assert (picture[:, :, 2].ravel() == rows[7, 1 + 2048 :]).all()
    assert picture.shape == (32, 32, 3)
    with pytest.raises(ValueError, match="train_per_class"):
        open_source(path, train_per_class=3)


def test_what_is_no_cifar10(tmp_path: Path) -> None:
    cifar(tmp_path / "a")
    (tmp_path / "a" / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has 5 bytes"):
        open_source(tmp_path / "a")
    (tmp_path / "a" / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"without data_batch_3\.bin"):
        open_source(tmp_path / "a")
    put(tmp_path / "python", "data_batch_1", "batches.meta")
    with pytest.raises(ValueError, match="binary version"):
        open_source(tmp_path / "python")
    cifar(tmp_path / "cut")
    whole = packed(tmp_path / "cut", tmp_path / "cut.xz").read_bytes()
    (tmp_path / "cut.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged archive"):
        open_source(tmp_path / "cut.xz")


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "flat", "a.jpg", "b.jpg")
    put(tmp_path / "one", "a/x.jpg", "a/y.jpg")
    put(tmp_path / "hollow", "a/x.jpg", "b/y.jpg")
    (tmp_path / "hollow" / "c").mkdir()
    put(tmp_path / "notrain", "val/a/x.jpg", "val/b/y.jpg", "test/a/x.jpg", "test/b/y.jpg")
    put(tmp_path / "beside", "train/a/x.jpg", "train/b/y.jpg", "val/a/x.jpg", "val/b/y.jpg", "other/z.jpg")
    put(tmp_path / "differ", "train/a/x.jpg", "train/b/y.jpg", "val/a/x.jpg", "val/c/y.jpg")
    put(tmp_path / "twice", "train/a/x.jpg", "val/a/x.jpg", "valid/a/x.jpg")
    put(tmp_path, "notes.txt")
    for name, says in {
        "empty": "0 classes, at least 2",
        "flat": "0 classes.*2 outside a class folder",
        "one": "1 classes, at least 2",
        "hollow": "class 'c' has no pictures",
        "notrain": "no train folder",
        "beside": "'other' lies beside",
        "differ": "only in val: c; only in train: b",
        "twice": "two folders for one split",
        "notes.txt": "neither a folder nor",
    }.items():
        with pytest.raises(ValueError, match=says) as caught:
            open_source(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such folder or archive"):
        open_source(tmp_path / "nothing")


@pytest.mark.parametrize("bad", [{"held_out": 0.0}, {"held_out": 1.0}, {"train_per_class": 0}, {"seed": -1}])
def test_arguments(tmp_path: Path, bad: dict[str, float]) -> None:
    root = by_class(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(ValueError, match=next(iter(bad))):
        open_source(root, **bad)


def test_the_fingerprint_sees_what_changed(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"a": 3, "b": 3})
    first = fingerprint(open_source(root))
    assert fingerprint(open_source(root)) == first
    (root / "a" / "001.jpg").write_bytes(b"another size")
    second = fingerprint(open_source(root))
    put(root, "b/new.jpg")
    assert len({first, second, fingerprint(open_source(root))}) == 3


def test_a_damaged_tar(tmp_path: Path) -> None:
    path = packed(by_class(tmp_path / "set", {"a": 3, "b": 3}), tmp_path / "set.tar")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 10 + 300])  # within the header of the second file
    with pytest.raises(ValueError, match="damaged archive"):
        open_source(path)


def test_classes_of_one_picture_each_leave_none_to_set_aside(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match=r"must have 2 pictures .* got 1 in each class: add some"):
        open_source(root)
    put(root, "a/more.jpg")
    assert len(open_source(root).parts["val"]) == 1  # one class with two is enough


@pytest.mark.parametrize("archive", [Tar, Zip])
def test_an_archive_that_cannot_be_opened_leaves_nothing_to_close(tmp_path: Path, archive: type[Tar | Zip]) -> None:
    with pytest.raises(FileNotFoundError):
        archive(tmp_path / "nothing")
    gc.collect()  # pytest makes an error of one in __del__


@pytest.mark.parametrize("batch", [1, 5])
def test_a_training_batch_of_cifar10_can_be_the_one_to_validate_on(tmp_path: Path, batch: int) -> None:
    files = cifar(tmp_path)
    source = open_source(tmp_path, val_batch=batch)
    assert list(source.parts) == ["train", "val", "test"]
    kept = [name for name in CIFAR_TRAIN if name != f"data_batch_{batch}.bin"]
    for split, names in (("train", kept), ("val", [f"data_batch_{batch}.bin"]), ("test", ["test_batch.bin"])):
        rows = np.concatenate([files[name] for name in names])
        assert source.parts[split].labels.tolist() == rows[:, 0].tolist()
        for n, row in enumerate(rows):
            assert (source.read(split, n) == row[1:].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        assert source.parts[split].names[0].as_py() == f"{names[0]}#0".encode()


def test_a_batch_to_validate_on_must_exist(tmp_path: Path, picture_folder: Path) -> None:
    cifar(tmp_path)
    for batch in (0, 6):
        with pytest.raises(
            ValueError, match=f"val_batch must be from 1 to 5, CIFAR-10's training batches; got {batch}"
        ):
            open_source(tmp_path, val_batch=batch)
    with pytest.raises(ValueError, match="no CIFAR-10, which alone has batches; leave val_batch=5 out"):
        open_source(picture_folder, val_batch=5)

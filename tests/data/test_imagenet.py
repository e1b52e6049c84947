"""ImageNet as it comes: the same store as from sorted folders, resumed after a kill, and what is refused."""

import gzip
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imagenet_files import (
    CLASSES,
    SYNSETS,
    draw_jpeg,
    numbered_pictures,
    synset_tars,
    tar_bytes,
    unpack_ilsvrc2012,
    write_devkit,
    write_ilsvrc2010,
    write_ilsvrc2012,
    write_meta,
)
from PIL import Image

from alexnet import cli
from alexnet.data.prepare import plan
from alexnet.data.prepare.prepare import Summary, prepare
from alexnet.data.sources import devkit as devkit_module
from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.devkit import read_devkit
from alexnet.data.sources.imagenet_archives import find_imagenet_archives
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.store import Store

REAL_DEVKITS = Path(os.environ.get("ALEXNET_SHARED", "/work/shared")) / "data"


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of eight raw 16x16 pictures, chunks of three."""
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder with the archives of a challenge of four classes."""
    return write_ilsvrc2012(tmp_path / "archives" / "imagenet")


def prepare_small(source: Path, store: Path, **options: object) -> Summary:
    """Prepare 16x16 pictures without showing progress."""
    return prepare(source, store, **{"size": 16, "progress": False} | options)


def read_files(store: Path) -> dict[str, bytes]:
    """Return the contents of every file of a store."""
    return {path.name: path.read_bytes() for path in store.iterdir()}


def read_all(source: Source) -> dict[str, bytes]:
    """Return the contents of every picture of a source, by name."""
    return {
        split.picture_name(index): source.read(name, index)
        for name, split in source.splits.items()
        for index in range(len(split))
    }


def names_by_class(source: Source, split: str) -> dict[str, list[str]]:
    """Return the names of the pictures of each class, without folders."""
    pictures = source.splits[split]
    names: dict[str, list[str]] = {name: [] for name in source.classes}
    for index, label in enumerate(pictures.labels):
        names[source.classes[label]].append(pictures.picture_name(index).rpartition("/")[2])
    return names


# ---- Challenges -----------------------------------------------------------------------------------------------------


def test_a_challenge_is_recognised_by_its_archives(archives: Path) -> None:
    source = open_source(archives)
    assert source.classes == CLASSES
    assert source.class_ids == ClassIds("ILSVRC2012", (1, 2, 3, 4))
    assert list(source.splits) == ["train", "val"]
    assert names_by_class(source, "train")["n02123045 tabby cat"] == [f"n02123045_{n}.JPEG" for n in range(1, 6)]
    assert names_by_class(source, "val") == {
        "n02119789 kit fox": ["ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00000005.JPEG"],
        "n02100735 English setter": ["ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000007.JPEG"],
        "n02123045 tabby cat": ["ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000006.JPEG"],
        "n01440764 tench": ["ILSVRC2012_val_00000004.JPEG", "ILSVRC2012_val_00000008.JPEG"],
    }
    contents = read_all(source)
    assert contents["train/n02123045/n02123045_3.JPEG"] == draw_jpeg(2123045 + 3)
    assert contents["val/n01440764/ILSVRC2012_val_00000004.JPEG"] == draw_jpeg(4)
    assert source.ignored == {"archive of test pictures, since it has no labels (ILSVRC2012_img_test.tar)": 1}


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("without_val", [False, True])
def test_the_store_is_that_of_the_sorted_folders(
    archives: Path, tmp_path: Path, encoding: str, without_val: bool
) -> None:
    folders = unpack_ilsvrc2012(archives, tmp_path / "folders" / "imagenet")
    if without_val:  # a share of each class is held out
        (archives / "ILSVRC2012_img_val.tar").unlink()
        shutil.rmtree(folders / "val")
    for name, source in (("a", archives), ("b", folders)):
        prepare_small(source, tmp_path / name, encoding=encoding, workers=2)
    assert read_files(tmp_path / "a") == read_files(tmp_path / "b")
    store = Store(tmp_path / "a")
    assert store.classes == CLASSES
    assert store.class_ids == ClassIds("ILSVRC2012", (1, 2, 3, 4))
    # Against plain class folders, which know nothing of ImageNet: the same pictures, under the synsets in their order.
    shutil.rmtree(folders / "ILSVRC2012_devkit_t12")
    prepare_small(folders, tmp_path / "c", encoding=encoding)
    plain = Store(tmp_path / "c")
    assert plain.classes == tuple(sorted(SYNSETS))
    assert plain.class_ids is None
    if not without_val:
        order = [plain.classes.index(name.split()[0]) for name in store.classes]
        for split in ("train", "val"):
            ours, theirs = store.split(split), plain.split(split)
            indices = np.concatenate([np.flatnonzero(theirs.labels == label) for label in order])
            assert [order[label] for label in ours.labels] == theirs.labels[indices].tolist()
            assert all(np.array_equal(ours.image(i), theirs.image(j)) for i, j in enumerate(indices))


def test_one_archive_or_folders_beside_archives_are_read_too(archives: Path, tmp_path: Path) -> None:
    train = open_source(archives / "ILSVRC2012_img_train.tar", SourceOptions(held_out=0.4))
    assert train.classes == CLASSES
    assert {name: len(split) for name, split in train.splits.items()} == {"train": 12, "val": 8}
    assert all("_val_" not in name for name in read_all(train))
    expected = open_source(archives)
    folders = unpack_ilsvrc2012(archives, tmp_path / "folders")
    shutil.copy(archives / "ILSVRC2012_img_train.tar", folders / "my_train.tar")
    assert open_source(folders / "my_train.tar").classes == CLASSES  # by its contents, and the kit beside it
    shutil.rmtree(folders / "val")
    with tarfile.open(archives / "ILSVRC2012_img_val.tar") as archive:
        archive.extractall(folders / "val", filter="data")  # not sorted into folders
    source = open_source(folders)
    assert read_all(source) == read_all(expected)
    assert names_by_class(source, "val") == names_by_class(expected, "val")


def test_ilsvrc2010_has_test_labels_and_corrections(tmp_path: Path) -> None:
    archives = write_ilsvrc2010(tmp_path / "ILSVRC2010")
    tars = synset_tars(dict.fromkeys(SYNSETS, 3))
    with tarfile.open(fileobj=io.BytesIO(tars["n02123045.tar"])) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    files["n02123045_2.JPEG"] = gzip.compress(files["n02123045_2.JPEG"])
    tars["n02123045.tar"] = tar_bytes(files)
    train = {f"train/{name}": contents for name, contents in tars.items()}
    (archives / "ILSVRC2010_images_train.tar").write_bytes(tar_bytes(train))
    names = ("train/n02119789_1.JPEG", "val/ILSVRC2010_val_00000002.JPEG", "test/ILSVRC2010_test_00000006.JPEG")
    corrections = {f"patch_images/{name}": draw_jpeg(900 + number) for number, name in enumerate(names)}
    (archives / "patch_images.tar").write_bytes(tar_bytes(corrections))
    source = open_source(archives)
    assert source.classes == CLASSES
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 12, "val": 4, "test": 6}
    assert source.splits["test"].labels.tolist() == [0, 1, 2, 2, 3, 3]
    assert source.ignored == {}
    contents = read_all(source)
    assert contents["train/n02119789/n02119789_1.JPEG"] == draw_jpeg(900)
    assert contents["val/n02100735/ILSVRC2010_val_00000002.JPEG"] == draw_jpeg(901)
    assert contents["test/n02123045/ILSVRC2010_test_00000006.JPEG"] == draw_jpeg(902)
    assert contents["test/n01440764/ILSVRC2010_test_00000001.JPEG"] == draw_jpeg(1)
    assert prepare_small(archives, tmp_path / "store").skipped == 0


def test_png_and_cmyk_pictures_with_the_ending_of_jpeg_are_read_right(archives: Path, tmp_path: Path) -> None:
    """ImageNet has one PNG file, n02105855_2933.JPEG, and about two dozen CMYK ones."""
    colours = {"PNG": (200, 40, 90), "CMYK": (20, 120, 220)}
    files = {}
    for number, (kind, colour) in enumerate(colours.items()):
        picture, file = Image.new("RGB", (30, 40), colour), io.BytesIO()
        if kind == "CMYK":
            picture.convert("CMYK").save(file, "JPEG", quality=95)
        else:
            picture.save(file, "PNG")
        files[f"n02119789_{number}.JPEG"] = file.getvalue()
    tars = synset_tars(dict.fromkeys(SYNSETS, 2)) | {"n02119789.tar": tar_bytes(files)}
    (archives / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(tars))
    assert prepare_small(archives, tmp_path / "store").skipped == 0
    train = Store(tmp_path / "store").split("train")
    for index, colour in enumerate(colours.values()):
        assert np.abs(train.image(index).astype(int) - colour).max() <= 3


def test_part_of_a_challenge_is_prepared_and_the_rest_is_named(archives: Path, tmp_path: Path) -> None:
    two = {name: tar for name, tar in synset_tars(dict.fromkeys(SYNSETS, 3)).items() if name < "n0211"}
    (archives / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(two))
    (archives / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(numbered_pictures("ILSVRC2012_val", 5)))
    source = open_source(archives)
    assert source.classes == ("n02100735 English setter", "n01440764 tench")
    assert source.class_ids == ClassIds("ILSVRC2012", (2, 4))
    assert [len(split) for split in source.splits.values()] == [6, 2]
    (archives / "ILSVRC2012_img_test.tar").unlink()
    assert open_source(archives).ignored == {
        "synsets of the development kit without a picture": 2,
        "labels of val without a picture": 2,
    }
    text = str(prepare_small(archives, tmp_path / "store"))
    assert "not used: 2 labels of val without a picture, 2 synsets of the development kit without a picture" in text


def test_validation_pictures_alone_are_tested_on(archives: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"img_test\.tar: has no training pictures .*`alexnet submit` takes"):
        open_source(archives / "ILSVRC2012_img_test.tar")
    source = open_source(archives / "ILSVRC2012_img_val.tar", SourceOptions(test=1))
    assert source.classes == CLASSES
    assert source.class_ids == ClassIds("ILSVRC2012", (1, 2, 3, 4))
    assert [len(split) for split in source.splits.values()] == [8]
    prepare_small(archives / "ILSVRC2012_img_val.tar", tmp_path / "store", test=1)
    assert len(Store(tmp_path / "store").validation()) == 8


def test_a_list_chooses_synsets_and_the_others_are_not_even_read(archives: Path, tmp_path: Path) -> None:
    path = archives / "ILSVRC2012_img_train.tar"
    data = bytearray(path.read_bytes())
    start = data.index(b"n02119789_5.JPEG")
    data[start : start + 200] = bytes(range(200))  # damage in a synset that is not chosen
    path.write_bytes(data)
    (tmp_path / "list.txt").write_text("# two of them\nn01440764 tench\n\nn02123045\n")
    source = open_source(archives, SourceOptions(synsets=tmp_path / "list.txt"))
    assert source.classes == ("n02123045 tabby cat", "n01440764 tench")
    assert source.class_ids == ClassIds("ILSVRC2012", (3, 4))
    assert [len(split) for split in source.splits.values()] == [10, 4]
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_train\.tar, member n02119789\.tar: damaged archive"):
        open_source(archives)
    folders = unpack_ilsvrc2012(write_ilsvrc2012(tmp_path / "whole"), tmp_path / "folders")
    assert read_all(open_source(folders, SourceOptions(synsets=tmp_path / "list.txt"))) == read_all(source)
    for text, message in {
        "n01440764\nn99999999\n": r"list\.txt, line 2: a synset must be one of those of .*train.*; got 'n99999999'",
        "n01440764\n": "a list of 2 synsets or more, one a line; got '1 synsets'",
    }.items():
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_source(archives, SourceOptions(synsets=tmp_path / "list.txt"))


def test_a_kill_inside_a_tar_is_resumed_to_the_same_bytes(warm_python: str, tmp_path: Path) -> None:
    archives, store = write_ilsvrc2012(tmp_path / "imagenet", each=25), tmp_path / "store"
    code = (
        "import os, sys, time\n"
        "from alexnet.data.prepare import chunk, plan, prepare\n"
        f"plan.SHARD_BYTES, plan.CHUNK_BYTES = {plan.SHARD_BYTES}, {plan.CHUNK_BYTES}\n"
        "read_image = chunk.read_image\n"
        "def read_slowly(*args): time.sleep(0.02); return read_image(*args)\n"
        "chunk.read_image = read_slowly\n"
        "print(os.getpid(), flush=True)\n"
        "prepare.prepare(sys.argv[1], sys.argv[2], size=16, progress=False)\n"
    )
    command = [warm_python, "-c", code, str(archives), str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        while process.poll() is None and len(list(store.glob("*.arrow"))) < 4:
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 4 <= len(list(store.glob("*.arrow"))) < 13
    prepare_small(archives, store)
    prepare_small(archives, tmp_path / "expected")
    assert read_files(store) == read_files(tmp_path / "expected")


# ---- Releases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder of tars", "one tar", "folder with one tar"])
def test_a_release_gives_the_store_of_its_folders(tmp_path: Path, layout: str) -> None:
    tars = synset_tars({"n02119789": 6, "n01440764": 4, "n00004475": 3})
    folders = tmp_path / "a" / "fall09"
    for name, tar in tars.items():
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(folders / name.removesuffix(".tar"), filter="data")
    source = tmp_path / "b" / "fall09"
    source.mkdir(parents=True)
    if layout == "folder of tars":
        for name, tar in tars.items():
            (source / name).write_bytes(tar)
    elif layout == "one tar":
        source.rmdir()
        source.write_bytes(tar_bytes(tars))
    else:
        (source / "fall11_whole.tar").write_bytes(tar_bytes(tars))
    for name, path in (("from folders", folders), ("from archives", source)):
        prepare_small(path, tmp_path / name, held_out=0.5, seed=3)
    assert read_files(tmp_path / "from folders") == read_files(tmp_path / "from archives")
    store = Store(tmp_path / "from archives")
    assert store.classes == ("n00004475", "n01440764", "n02119789")
    assert np.bincount(store.split("val").labels).tolist() == [2, 2, 3]
    # With words.txt the classes have words, from archives and from folders.
    for folder in (folders, source if source.is_dir() else source.parent):
        (folder / "words.txt").write_text("n00004475\torganism, being\nn01440764\ttench, Tinca tinca\n")
    assert open_source(source).classes == ("n00004475 organism", "n01440764 tench", "n02119789")
    assert open_source(folders).classes == open_source(source).classes
    (tmp_path / "list.txt").write_text("n02119789\nn00004475\n")
    source_of_two = open_source(source, SourceOptions(synsets=tmp_path / "list.txt"))
    assert source_of_two.classes == ("n00004475 organism", "n02119789")


def test_more_archives_than_open_files_can_be_read(tmp_path: Path) -> None:
    tars = synset_tars({f"n{number:08d}": 2 for number in range(100)})
    for name, tar in tars.items():
        (tmp_path / name).write_bytes(tar)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0  # noqa: PTH208
    contents = read_all(open_source(tmp_path))
    assert len(contents) == 200
    if before:
        assert len(os.listdir("/proc/self/fd")) < before + 10  # noqa: PTH208


# ---- Development kits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kit", "year", "train_count", "first", "synonyms"),
    [
        ("ILSVRC2012_devkit_t12.tar.gz", 2012, 1_281_167, "n02119789 kit fox", "n02123045 tabby cat"),
        ("ILSVRC2010_devkit-1.0.tar.gz", 2010, 1_261_406, "n07711080 french fries", "n02123045 tabby cat"),
    ],
)
def test_the_true_development_kits_are_read(kit: str, year: int, train_count: int, first: str, synonyms: str) -> None:
    if not (REAL_DEVKITS / kit).is_file():
        pytest.skip(f"no {REAL_DEVKITS / kit}")
    devkit = read_devkit(REAL_DEVKITS / kit)
    assert devkit.year == year
    assert [synset.id for synset in devkit.synsets] == list(range(1, 1001))
    assert sum(synset.train_count for synset in devkit.synsets) == train_count
    assert devkit.synsets[0].class_name == first
    assert synonyms in {synset.class_name for synset in devkit.synsets}
    assert np.bincount(devkit.val_ids)[1:].tolist() == [50] * 1000
    wnids = [synset.wnid for synset in devkit.synsets]
    assert wnids != sorted(wnids)


def test_a_class_is_named_by_its_first_synonym_or_one_that_completes_it() -> None:
    for words, name in {
        "kit fox, Vulpes macrotis": "n1 kit fox",
        "tabby, tabby cat": "n1 tabby cat",
        "Cardigan, Cardigan Welsh corgi": "n1 Cardigan Welsh corgi",
        "washer, automatic washer, washing machine": "n1 washer",
        "crane": "n1 crane",
        "": "n1",
    }.items():
        assert devkit_module.name_class("n1", words) == name


def test_a_development_kit_without_scipy_names_the_extra(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ValueError, match=r"needs packages: pip install 'alexnet\[imagenet\]'"):
        open_source(archives)


# ---- Bad input ------------------------------------------------------------------------------------------------------


def _truncate(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def _edit_train(folder: Path, **changes: bytes) -> None:
    """Replace or add the .tar of synsets."""
    tars = synset_tars(dict.fromkeys(SYNSETS, 3)) | {f"{name}.tar": contents for name, contents in changes.items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(tars))


def _write_labels(folder: Path, text: str) -> None:
    (folder / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def _pack_devkit(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC2012_devkit_t12")
    write_devkit(folder, [1, 2, 3, 4], packed=True)


def _other_year(folder: Path) -> None:
    shutil.rmtree(folder / "ILSVRC2012_devkit_t12")
    write_devkit(folder, [1, 2, 3, 4], year=2010)


META = Path("ILSVRC2012_devkit_t12/data/meta.mat")
BAD_INPUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "outer cut": (
        lambda d: _truncate(d / "ILSVRC2012_img_train.tar", 0.6),
        r"img_train\.tar: damaged archive \(cut off in member 'n0\d+\.tar'\)",
    ),
    "inner cut": (
        lambda d: _edit_train(d, n02123045=synset_tars({"n02123045": 3})["n02123045.tar"][:1000]),
        r"img_train\.tar, member n02123045\.tar: damaged archive \(cut off in member 'n02123045_3\.JPEG'\)",
    ),
    "inner cut in a header": (
        lambda d: _edit_train(d, n02123045=synset_tars({"n02123045": 3})["n02123045.tar"][:2000]),
        r"img_train\.tar, member n02123045\.tar: damaged archive \(at byte 1,536\)",
    ),
    "val cut": (
        lambda d: _truncate(d / "ILSVRC2012_img_val.tar", 0.27),
        r"img_val\.tar: damaged archive",
    ),
    "no kit": (
        lambda d: shutil.rmtree(d / "ILSVRC2012_devkit_t12"),
        r"development kit is missing.*download ILSVRC2012_devkit_t12\.tar\.gz",
    ),
    "no train": (
        lambda d: (d / "ILSVRC2012_img_train.tar").unlink(),
        r"no training pictures \(ILSVRC2012_img_train\.tar\)",
    ),
    "wrong checksum": (
        _pack_devkit,
        r"devkit_t12\.tar\.gz must have the MD5 checksum fa75699e90414af021442c21a62c3abf; got \w{32}: download",
    ),
    "kit of another year": (
        _other_year,
        r"devkit-1\.0: is the development kit of ILSVRC2010, but the pictures are of ILSVRC2012",
    ),
    "two challenges": (
        lambda d: (d / "ILSVRC2010_images_val.tar").write_bytes(b""),
        r"must be of one challenge; ILSVRC2010_images_val\.tar is of ILSVRC2010",
    ),
    "unknown synset": (
        lambda d: _edit_train(d, n99999999=tar_bytes({"x.JPEG": b"x"})),
        r"the synset of n99999999\.tar must be in .*devkit_t12; it is not",
    ),
    "not a synset": (
        lambda d: _edit_train(d, N02123045=b"x"),
        r"must have only the \.tar of a synset.*got 'N02123045\.tar'",
    ),
    "synset twice": (
        lambda d: (d / "ILSVRC2012_img_train.tar").write_bytes(
            tar_bytes({"n02123045.tar": b"", "a/n02123045.tar": b""})
        ),
        r"must have only one \.tar for each synset; got 'a/n02123045\.tar'",
    ),
    "empty class": (
        lambda d: _edit_train(d, n02123045=tar_bytes({})),
        r"member n02123045\.tar: the \.tar of a synset must have pictures; it is empty",
    ),
    "not a tar": (
        lambda d: _edit_train(d, n02123045=b"no tar" * 100),
        r"member n02123045\.tar: damaged archive",
    ),
    "absolute path": (
        lambda d: _edit_train(d, n02123045=tar_bytes({"/x.JPEG": b"x"})),
        r"member n02123045\.tar: the path of a member must be relative .* got '/x\.JPEG'",
    ),
    "path above": (
        lambda d: _edit_train(d, n02123045=tar_bytes({"../x.JPEG": b"x"})),
        r"member n02123045\.tar: the path.* got '\.\./x\.JPEG'",
    ),
    "label too large": (
        lambda d: _write_labels(d, "3\n1\n2\n5\n1\n3\n2\n4\n"),
        r"ground_truth\.txt, line 4: a label must be a number from 1 to 4; got '5': take the file of this challenge",
    ),
    "label of 0": (
        lambda d: _write_labels(d, "0\n"),
        "line 1: a label must be a number from 1 to 4; got '0'",
    ),
    "no number": (
        lambda d: _write_labels(d, "3\n\n1\n"),
        "line 2: a label must be a number from 1 to 4; got ''",
    ),
    "fewer labels": (
        lambda d: _write_labels(d, "3\n1\n"),
        r"img_val\.tar: a picture must have a number from 1 to 2, the number of labels; got '\w+\.JPEG'",
    ),
    "text as meta.mat": (
        lambda d: (d / META).write_text("hello"),
        r"meta\.mat must have the challenge's synsets; it cannot be read",
    ),
    "no meta.mat": (
        lambda d: (d / META).unlink(),
        r"a development kit must have data/meta\.mat; it has none",
    ),
    "no WNID": (
        lambda d: write_meta(d / META, {"n02119789": "a", "n0211978x": "b"}),
        r"a WNID must be of the form n02123045; got 'n0211978x'",
    ),
}


@pytest.mark.parametrize("problem", BAD_INPUT)
def test_bad_input_is_one_line_that_names_the_member(
    problem: str, archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = BAD_INPUT[problem]
    change(archives)
    assert cli.main(["prepare", str(archives), str(tmp_path / "store"), "--size", "16"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "store").exists()


def test_an_archive_that_is_cut_later_keeps_what_was_done(archives: Path, tmp_path: Path) -> None:
    """The disk of the archives fails while they are read."""
    source = open_source(archives)
    _truncate(archives / "ILSVRC2012_img_train.tar", 0.5)
    with pytest.raises(ValueError, match=r"files are not readable pictures.*cut off in ILSVRC2012_img_train\.tar"):
        prepare_small(source, tmp_path / "store")  # type: ignore[arg-type]
    kept = read_files(tmp_path / "store")
    assert any(name.endswith(".arrow") for name in kept)


def test_published_checksums_are_compared_where_asked_for(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SourceOptions(verify_archives=True)
    with pytest.raises(ValueError, match="must have the MD5 checksum 1d675b47d978889d74fa0da5fadfb00e; got"):
        open_source(archives, options)
    monkeypatch.setattr(devkit_module, "PUBLISHED_MD5", {})
    monkeypatch.setattr("alexnet.data.sources.imagenet_archives.PUBLISHED_MD5", {})
    assert open_source(archives, options).classes == CLASSES
    assert "ILSVRC2012_img_train.tar has no published checksum; it is not verified" in capsys.readouterr().err
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"`verify_archives` is an option for the archives of an ImageNet challenge, but"
    ):
        open_source(tmp_path / "pets", options)


def test_files_of_other_challenges_do_not_disturb_other_sources(archives: Path) -> None:
    (archives / "ILSVRC2010_images_val.tar").write_bytes(b"")
    (archives / "test_list.txt").write_text("ILSVRC2012_test_00000001.JPEG 0\n")  # Caffe's, no labels
    pictures = archives / "pictures.tar"
    pictures.write_bytes(tar_bytes({f"{name}/{n}.jpg": b"x" for name in ("a", "b") for n in range(3)}))
    assert open_source(pictures).classes == ("a", "b")
    assert open_source(archives / "ILSVRC2012_img_train.tar").classes == CLASSES
    with pytest.raises(ValueError, match="must be of one challenge"):
        open_source(archives)
    (archives / "ILSVRC2010_images_val.tar").unlink()
    assert open_source(archives).classes == CLASSES


def test_what_is_there_and_what_is_missing_are_told(archives: Path, tmp_path: Path) -> None:
    found = find_imagenet_archives(archives)
    assert found is not None
    assert found.year == 2012
    assert set(found.present) == {"devkit", "train", "val", "test"}
    assert found.missing == {}
    (tmp_path / "2010").mkdir()
    (tmp_path / "2010" / "ILSVRC2010_images_val.tar").write_bytes(b"")
    found = find_imagenet_archives(tmp_path / "2010")
    assert found is not None
    assert found.missing == {
        "train": "ILSVRC2010_images_train.tar",
        "test": "ILSVRC2010_images_test.tar",
        "devkit": "ILSVRC2010_devkit-1.0.tar.gz",
        "test_labels": "ILSVRC2010_test_ground_truth.txt",
        "corrections": "patch_images.tar",
    }
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "ILSVRC2012_img_train_t3.tar").write_bytes(b"")  # of another task
    assert find_imagenet_archives(tmp_path / "dogs") is None

"""Layouts of folders: which folders are splits, classes or neither, and Tiny ImageNet's layout."""

import unicodedata
from pathlib import Path

import pytest
from test_sources import picture_names, write_classes, write_files

from alexnet.data.sources.kinds import open_source
from alexnet.data.sources.split_names import find_split_names, split_in_name
from alexnet.utils.console import note_once


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["seg_train", "seg_test"], ["train", "test"]),
        (["training_set", "test_set"], ["train", "test"]),
        (["train", "dev"], ["train", "val"]),
        (["training", "testing"], ["train", "test"]),
        (["train", "eval"], ["train", "val"]),
        (["train", "valid"], ["train", "val"]),
        (["Train Images", "Validation Images", "Test Images"], ["train", "val", "test"]),
    ],
)
def test_splits_under_other_names_are_recognised_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folders: list[str], splits: list[str]
) -> None:
    for folder in folders:
        write_classes(tmp_path / "set" / folder, {"cat": 3, "dog": 2})
    note_once.cache_clear()
    source = open_source(tmp_path / "set")
    assert source.classes == ("cat", "dog")
    assert list(source.splits) == splits
    for folder, split in zip(folders, splits, strict=True):
        assert picture_names(source, split)[0] == f"{folder}/cat/000.jpg"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folders[0]}/ is read as train" in line


def test_a_split_folder_inside_itself_and_pictures_to_predict_are_no_classes(tmp_path: Path) -> None:
    """The layout of a set of landscapes that many people have: seg_train/seg_train/<class>/."""
    for split in ("train", "test"):
        write_classes(tmp_path / f"seg_{split}" / f"seg_{split}", {"sea": 3, "street": 2})
    write_files(tmp_path / "seg_pred" / "seg_pred", "1.jpg", "2.jpg")
    source = open_source(tmp_path)
    assert source.classes == ("sea", "street")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 5, "test": 5}
    assert source.ignored == {"in folders of pictures without classes": 2}


@pytest.mark.parametrize(
    "names", [["train", "bus", "car"], ["dev", "ops"], ["test tube", "flask"], ["steam train", "test tube"]]
)
def test_classes_with_words_for_splits_in_their_names_remain_classes(tmp_path: Path, names: list[str]) -> None:
    assert open_source(write_classes(tmp_path, dict.fromkeys(names, 3))).classes == tuple(sorted(names))


def test_words_for_splits_in_names() -> None:
    assert split_in_name("imagenet1k-validation-00.tar") == "val"
    assert split_in_name("train-00000-of-00005.parquet") == "train"
    assert split_in_name("trainer") is split_in_name("train_test") is None
    assert find_split_names(["a_train", "a_test", "b_train", "b_test"]) == {}


def test_folders_of_other_programs_are_never_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 3, "dog": 3})
    write_files(tmp_path, "@eaDir/x.jpg", "cat/@eaDir/000.jpg/SYNOPHOTO_THUMB_M.jpg", "$RECYCLE.BIN/S-1-5/y.jpg")
    write_files(tmp_path, "__MACOSX/cat/._000.jpg", ".thumbnails/z.jpg", "System Volume Information/v.jpg")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert sum(map(len, source.splits.values())) == 6
    assert source.ignored == {}


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_classes(tmp_path / "train", {composed: 3, "bar": 2})
    write_classes(tmp_path / "val", {decomposed: 2, "bar": 2})
    source = open_source(tmp_path)
    assert source.classes == ("bar", composed)
    assert source.splits["val"].labels.tolist() == [0, 0, 1, 1]
    both = write_classes(tmp_path / "both", {composed: 3, "bar": 2})
    write_files(both, f"{decomposed}/other.jpg")
    assert sum(map(len, open_source(both).splits.values())) == 6


def test_a_class_may_have_no_pictures_in_val_but_must_have_some_in_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "train", {"a": 3, "b": 2, "c": 2})
    write_classes(tmp_path / "val", {"a": 3})
    (tmp_path / "val" / "b").mkdir()
    note_once.cache_clear()
    source = open_source(tmp_path)
    assert source.splits["val"].labels.tolist() == [0, 0, 0]
    assert "val has no pictures of 'b', 'c'" in capsys.readouterr().err
    (tmp_path / "train" / "d").mkdir()
    with pytest.raises(ValueError, match="class 'd' has no pictures in train; add some or remove the class from all"):
        open_source(tmp_path)


def test_an_empty_folder_in_val_is_no_class_that_train_lacks(tmp_path: Path) -> None:
    """Who follows the advice and removes an empty class from train need not remove its empty folder in val."""
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"a": 3, "b": 2})
    (tmp_path / "val" / "d").mkdir()
    assert open_source(tmp_path).classes == ("a", "b")
    write_classes(tmp_path / "val", {"d": 1})
    with pytest.raises(ValueError, match="only in val: d"):
        open_source(tmp_path)


def test_a_class_that_may_be_a_split_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes(tmp_path / "train", {"a": 3, "b": 2})
    write_classes(tmp_path, {"others": 3})
    note_once.cache_clear()
    assert open_source(tmp_path).classes == ("others", "train")
    assert "train/ and the folders beside it are read as classes" in capsys.readouterr().err


@pytest.mark.parametrize("paths", [["1.jpg", "2.jpg"], ["unknown/1.jpg", "unknown/2.jpg"]])
def test_pictures_to_test_on_without_classes_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], paths: list[str]
) -> None:
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"a": 3, "b": 2})
    write_files(tmp_path / "test", *paths)
    note_once.cache_clear()
    assert list(open_source(tmp_path).splits) == ["train", "val"]
    assert "the 2 pictures in test/ have no classes: left out" in capsys.readouterr().err


def write_tiny_imagenet(root: Path) -> Path:
    """Write small files in Tiny ImageNet's layout: two classes, three pictures of each in train/ and two in val/."""
    wnids = ("n01443537", "n01629819")
    for wnid in wnids:
        write_files(root, *(f"train/{wnid}/images/{wnid}_{number}.JPEG" for number in range(3)))
        write_files(root, f"train/{wnid}/{wnid}_boxes.txt")
    write_files(root, *(f"val/images/val_{number}.JPEG" for number in range(4)), "test/images/test_0.JPEG")
    lines = [f"val_{number}.JPEG\t{wnids[number % 2]}\t0\t32\t44\t62\n" for number in range(4)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in reversed(wnids)))
    words = {"n00001740": "entity", "n01443537": "goldfish, Carassius auratus", "n01629819": "European fire salamander"}
    (root / "words.txt").write_text("".join(f"{wnid}\t{text}\n" for wnid, text in words.items()))
    return root


def test_tiny_imagenet_has_its_words_and_the_classes_of_its_annotations(tmp_path: Path) -> None:
    source = open_source(write_tiny_imagenet(tmp_path / "tiny-imagenet-200"))
    assert source.classes == ("n01443537 goldfish, Carassius auratus", "n01629819 European fire salamander")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 6, "val": 4}
    assert picture_names(source, "val") == [f"val/images/val_{number}.JPEG" for number in (0, 2, 1, 3)]
    assert source.splits["val"].labels.tolist() == [0, 0, 1, 1]
    assert source.read("val", 1) == b"val/images/val_2.JPEG"
    assert source.ignored == {".txt": 2}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("val/val_annotations.txt", "val_2.J", "val_9.J", r"line 3 must name a picture in val/.* got 'val_9.JPEG'"),
        ("val/val_annotations.txt", "val_2.J", "val_0.J", r"line 3 must name a picture in val/, each once"),
        ("val/val_annotations.txt", "\t", " ", r"line 1 must be a file, a tab and a class"),
        ("val/val_annotations.txt", "n01629819", "n9", r"line 2 must name one of the 2 classes of train; got 'n9'"),
        ("val/val_annotations.txt", "val_1.J", "\nval_9.J", r"line 3 must name a picture in val/"),
        ("wnids.txt", "n01629819", "n01629820", r"must be those of wnids\.txt; n01629819 is only in the folders"),
    ],
)
def test_damaged_annotations_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, old: str, new: str, message: str
) -> None:
    path = write_tiny_imagenet(tmp_path) / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        open_source(tmp_path)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""  # no note before the error


def test_a_picture_without_annotation_is_refused(tmp_path: Path) -> None:
    write_files(write_tiny_imagenet(tmp_path), "val/images/val_4.JPEG")
    with pytest.raises(ValueError, match=r"no line for 1 pictures; the first is 'val_4\.JPEG'"):
        open_source(tmp_path)

"""The contest's numbers of the classes: from the development kit, a list or the store, and never from a sorted list."""

from dataclasses import replace
from pathlib import Path

import pytest
from imagenet_files import CLASSES, SYNSETS, numbered_pictures, tar_bytes, write_devkit, write_ilsvrc2012

from alexnet import cli
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.subset import StoreSubset
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results import submission
from alexnet.results.classifier import Classifier
from alexnet.results.contest_ids import read_class_ids
from alexnet.training.checkpoint import load_best
from alexnet.training.train import train

WNIDS = tuple(SYNSETS)


@pytest.mark.parametrize("kind", ["packed", "folder", "meta.mat"])
def test_the_numbers_are_those_of_the_development_kit(tmp_path: Path, kind: str) -> None:
    kit = write_devkit(tmp_path, [1, 2], year=2010, packed=kind == "packed")
    path = kit / "data" / "meta.mat" if kind == "meta.mat" else kit
    classes = (CLASSES[2], CLASSES[0], WNIDS[3])  # by WordNet ID, with words or without
    assert read_class_ids(path, classes) == ClassIds("ILSVRC2010", (3, 1, 4))
    with pytest.raises(ValueError, match="must have a number for every class of the run; 'n00000001 x' is missing"):
        read_class_ids(path, ("n00000001 x", CLASSES[0]))


def test_names_with_blanks_are_found_in_a_list(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("sea lion\nsea snake\ntabby and other cats\nsea\nox\n")
    assert read_class_ids(ids, ("ox", "sea snake", "sea lion")).ids == (5, 2, 1)
    assert read_class_ids(ids, ("sea", "tabby")).ids == (4, 3)
    with pytest.raises(ValueError, match="'tabby cat' is missing"):
        read_class_ids(ids, ("tabby cat", "ox"))
    ids.write_text("sea lion\nsea snake\n")
    with pytest.raises(ValueError, match="'sea' is missing"):  # the first word of both
        read_class_ids(ids, ("sea", "sea lion"))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\n")
    with pytest.raises(ValueError, match=r"photo\.jpg must have a number for every class of the run; 'cat' is missing"):
        read_class_ids(tmp_path / "photo.jpg", ["cat", "dog"])


def test_a_list_that_is_merely_sorted_is_refused(tmp_path: Path) -> None:
    ids = tmp_path / "synsets.txt"
    ids.write_text("".join(f"{wnid} {SYNSETS[wnid]}\n" for wnid in WNIDS))
    assert read_class_ids(ids, tuple(sorted(CLASSES))).ids == (4, 2, 1, 3)
    ids.write_text("".join(f"{wnid}\n" for wnid in sorted(WNIDS)))
    with pytest.raises(ValueError, match="lines are merely sorted by WordNet ID: give the contest's development kit"):
        read_class_ids(ids, CLASSES)
    ids.write_text("")
    with pytest.raises(ValueError, match="and 3 more"):
        read_class_ids(ids, CLASSES)


@pytest.mark.usefixtures("one_thread")
def test_a_net_of_the_contest_s_pictures_is_submitted_without_a_list(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(submission, "GUESSES", 3)
    archives = write_ilsvrc2012(tmp_path / "imagenet")
    prepare(archives, tmp_path / "store", size=recipe.store_size, progress=False)
    train(tmp_path / "store", tmp_path / "run", replace(recipe, epochs=1), progress=False)
    assert load_best(tmp_path / "run").class_ids == ClassIds("ILSVRC2012", (1, 2, 3, 4))
    written = []
    for pictures in (archives, archives / "ILSVRC2012_img_test.tar"):
        file = tmp_path / f"{pictures.name}.txt"
        assert cli.main(["submit", str(tmp_path / "run"), str(pictures), str(file)]) == 0
        written.append(file.read_text())
    assert written[0] == written[1]
    classifier = Classifier.load(tmp_path / "run")
    pictures = numbered_pictures("ILSVRC2012_test", 6)
    for line, name in zip(written[0].splitlines(), sorted(pictures), strict=True):
        guesses = classifier.predict(pictures[name], top=3)
        assert [int(number) for number in line.split()] == [CLASSES.index(guess) + 1 for guess, _ in guesses]
    # Numbers of another contest, and a store without numbers.
    other = tmp_path / "ILSVRC2010_images_test.tar"
    other.write_bytes(tar_bytes(numbered_pictures("ILSVRC2010_test", 2, "test/")))
    capsys.readouterr()
    assert cli.main(["submit", str(tmp_path / "run"), str(other), str(tmp_path / "out.txt")]) == 2
    assert "must be those of ILSVRC2010, as the picture test/ILSVRC2010_test_00000001.JPEG" in capsys.readouterr().err
    checkpoint = replace(load_best(tmp_path / "run"), class_ids=None)
    monkeypatch.setattr(submission, "load_best", lambda _: checkpoint)
    assert cli.main(["submit", str(tmp_path / "run"), str(archives), str(tmp_path / "out.txt")]) == 2
    assert "name the kit with --ids ILSVRC2012_devkit_t12.tar.gz" in capsys.readouterr().err
    assert not (tmp_path / "out.txt").exists()


def test_a_smaller_store_keeps_the_numbers(tmp_path: Path) -> None:
    prepare(write_ilsvrc2012(tmp_path / "imagenet"), tmp_path / "store", size=16, progress=False)
    store = Store(tmp_path / "store")
    subset = StoreSubset(store, (CLASSES[3], CLASSES[1]), {})
    assert subset.class_ids == ClassIds("ILSVRC2012", (4, 2))

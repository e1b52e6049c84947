"""Pictures in place of a store: prepared beside the run, used again, made anew when they change; what is measured."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import CLASSES, draw_pictures, small_recipe
from PIL import Image

from alexnet.data.prepare.on_demand import are_pictures, open_training_store, store_to_train_on
from alexnet.data.store.format import STATISTICS_FILE
from alexnet.data.store.store import Store
from alexnet.results.evaluate import evaluate
from alexnet.results.measured_pictures import open_measured_store, store_to_measure
from alexnet.results.retrieval import build_index
from alexnet.training.train import train
from alexnet.utils.console import note_once

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _notes_again() -> None:
    """Print every note again in each test."""
    note_once.cache_clear()


def write_pictures(root: Path, count: int, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write pictures of 40 x 40 by class."""
    for number, (picture, label) in enumerate(zip(*draw_pictures(count, 40, seed), strict=True)):
        if CLASSES[label] in classes:
            path = root / CLASSES[label] / f"{seed}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    return root


def measured_names(location: Path, run: Path, split: str = "test") -> set[str]:
    """Return the names of the pictures that are measured."""
    pictures = open_measured_store(location, run).split(split)
    return {pictures.picture_name(index) for index in range(len(pictures))}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 pictures in three classes; tests must not write to it."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "shapes", 30)


@pytest.fixture(scope="module")
def run(pictures: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A run that was trained on `pictures`, not on a store."""
    path = tmp_path_factory.mktemp("runs") / "shapes"
    assert train(pictures, path, small_recipe(), progress=False).finished
    return path


def test_a_store_is_prepared_beside_the_run_and_used_again(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_to_train_on(pictures, tmp_path / "run", 32)
    assert isinstance(store, Path)
    assert store.parent == tmp_path / ".stores"
    assert f"shapes: preparing 30 pictures in {store}, to be used again next time" in capsys.readouterr().err
    assert Store(store).size == 32
    assert not (tmp_path / "run").exists()  # `train` wants it new or empty
    written = (store / STATISTICS_FILE).stat().st_mtime_ns
    assert store_to_train_on(pictures, tmp_path / "other", 32) == store
    assert "using the store" in capsys.readouterr().err
    assert (store / STATISTICS_FILE).stat().st_mtime_ns == written
    assert store_to_train_on(pictures, tmp_path / "run", 24) != store
    assert store_to_train_on(store, tmp_path / "run", 24) == store  # a store is taken as it is
    assert store_to_train_on(opened := Store(store), tmp_path / "run") is opened


@pytest.mark.parametrize("change", ["add", "remove", "touch", "rewrite"])
def test_changed_pictures_are_prepared_anew(tmp_path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_pictures(tmp_path / "shapes", 30)
    store = store_to_train_on(source, tmp_path / "runs" / "a", 32)
    path = source / CLASSES[0] / "0-0.png"
    if change == "add":
        shutil.copy(path, path.with_name("new.png"))
    elif change == "remove":
        path.unlink()
    elif change == "touch":
        path.touch()
    else:
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    other = store_to_train_on(source, tmp_path / "runs" / "a", 32)
    assert other != store
    assert [folder.name for folder in (tmp_path / "runs" / ".stores").iterdir()] == [Path(str(other)).name]
    assert "has changed: removing the store" in capsys.readouterr().err


def test_a_preparation_that_was_stopped_is_resumed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = store_to_train_on(pictures, tmp_path / "expected" / "run", 32)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alexnet.data.prepare.prepare.complete_store", stop)
        with pytest.raises(KeyboardInterrupt):
            store_to_train_on(pictures, tmp_path / "run", 32)
    store = store_to_train_on(pictures, tmp_path / "run", 32)
    for path in Path(str(expected)).iterdir():
        assert (Path(str(store)) / path.name).read_bytes() == path.read_bytes()


def test_the_pictures_held_out_of_the_training_are_measured(run: Path, pictures: Path) -> None:
    store = open_training_store(pictures, run)
    assert evaluate(run, pictures)["images"] == len(store.split("val")) == 3
    assert evaluate(run, pictures)["split"] == "val"


def test_a_change_of_the_pictures_since_the_training_is_noted(
    run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(pictures.rglob("*.png"))
    for change, is_noted in ((0, False), (1_000_000_000, True), (-1_000_000_000, False)):
        note_once.cache_clear()
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + change))
        store_to_measure(pictures, [run])
        assert ("has changed since the training" in capsys.readouterr().err) == is_noted


def test_all_other_pictures_are_measured(run: Path, tmp_path: Path) -> None:
    other = write_pictures(tmp_path / "other", 12, seed=5)
    result = evaluate(run, other)
    assert (result["images"], result["split"]) == (12, "test")
    # The oracle: the same pictures as a store with the run's classes.
    assert measured_names(other, run) == {str(path.relative_to(other)) for path in other.rglob("*.png")}


def test_pictures_of_some_classes_are_measured(run: Path, tmp_path: Path) -> None:
    whole = write_pictures(tmp_path / "whole", 12, seed=5)
    parts = [write_pictures(tmp_path / name, 12, seed=5, classes=(name,)) for name in CLASSES]
    results = [evaluate(run, part) for part in parts]
    assert [result["images"] for result in results] == [4, 4, 4]
    assert sum(result["top1_error"] for result in results) / 3 == pytest.approx(evaluate(run, whole)["top1_error"])
    assert Store(open_measured_store(parts[1], run).path).classes == CLASSES


def test_an_unknown_class_is_named(run: Path, tmp_path: Path) -> None:
    other = write_pictures(tmp_path / "other", 12, seed=5)
    shutil.copytree(other / CLASSES[0], other / "zebra")
    with pytest.raises(
        ValueError, match=r"other: its classes must be among the run's 3 .*; got 'zebra': rename or rem"
    ):
        evaluate(run, other)


@pytest.mark.parametrize(("folders", "split", "seeds"), [(["train", "val"], "val", [6]), (["test"], "test", [5])])
def test_parts_of_their_own_are_measured(
    run: Path, tmp_path: Path, folders: list[str], split: str, seeds: list[int]
) -> None:
    for seed, folder in enumerate(folders, 5):
        write_pictures(tmp_path / "own" / folder, 9, seed)
    result = evaluate(run, tmp_path / "own")
    assert (result["images"], result["split"]) == (9, split)
    store = open_measured_store(tmp_path / "own", run)
    assert store.splits == (split,)  # the training pictures are not prepared for nothing
    assert all(int(name.rpartition("/")[2][0]) in seeds for name in measured_names(tmp_path / "own", run, split))


def test_pictures_that_the_run_was_trained_on_are_noted(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures, tmp_path / "shapes")
    assert evaluate(run, tmp_path / "shapes")["images"] == 30
    assert "27 of the 30 pictures in" in (error := capsys.readouterr().err)
    assert "have the names of pictures that" in error


def test_an_index_has_the_training_pictures(run: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    build_index(tmp_path / "run", pictures, bits=8, progress=False)
    assert (tmp_path / ".stores").is_dir()
    assert (tmp_path / "run" / "index" / "names.json").read_text().count("png") == 27


def test_what_is_neither_a_store_nor_pictures_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no archive")
    assert not are_pictures("s3://bucket/store")
    assert are_pictures("hf:owner/name")
    assert are_pictures(tmp_path / "shard-{00..05}.tar")
    for name, reason in {
        "empty": "0 classes",
        "text.tar": "not a source that can be read",
        "none": "no such store",
    }.items():
        for use in (lambda path: evaluate(run, path), lambda path: train(path, tmp_path / "run", small_recipe())):
            with pytest.raises((ValueError, FileNotFoundError), match=reason):
                use(tmp_path / name)
    with pytest.raises(ValueError, match=r"run .* must have a recipe.json, or be given a recipe"):
        train(write_pictures(tmp_path / "shapes", 6), tmp_path / "run")
    with pytest.raises(ValueError, match=r"is inside the pictures .*; choose a RUN outside"):
        train(tmp_path / "shapes", tmp_path / "shapes" / "run", small_recipe())
    assert not (tmp_path / "run").exists()

"""What is refused before a training starts: recipes, stores and folders that do not fit."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import small_recipe, write_store

from alexnet.recipe import Recipe
from alexnet.training.train import train
from alexnet.utils.files import exclusive_lock

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = small_recipe()


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(keep: int, store: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"keep must be at least 1.*; got {keep}$"):
        train(store, tmp_path / "run", recipe, keep=keep)


def test_another_recipe_in_the_same_run_is_refused(store: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    other = replace(RECIPE, learning_rate=0.02, seed=7)
    with pytest.raises(
        ValueError,
        match=r"begun with another recipe, learning_rate 0.01, not 0.02; seed 0, not 7: leave these out to go on",
    ):
        train(store, uninterrupted, other, progress=False)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_another_store_in_the_same_run_is_refused(store: Path, recipe: Recipe, tmp_path: Path, after_step: Any) -> None:
    run = tmp_path / "run"
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 3 else None)
    train(store, run, recipe, progress=False)
    for name, values in {
        "other": {"seed": 9, "train": 48},
        "smaller": {"train": 20},
        "size": {"size": 40, "train": 48},
    }.items():
        other = write_store(tmp_path / name, **values, val=20)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"with the store it was begun with; .* other|store_size 32; got 40"):
            train(other, run, recipe, progress=False)


def test_a_store_of_another_size_is_refused_and_leaves_no_run(recipe: Recipe, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", size=40, train=10, val=5)
    with pytest.raises(ValueError, match=r"store_size 32; got 40: prepare .*size=32.*store_size=40") as caught:
        train(store, tmp_path / "run", recipe, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    advised = replace(recipe, store_size=40, epochs=1)
    train(store, tmp_path / "run", advised, progress=False)
    # Nor is it taken by a run that was stopped before its first checkpoint.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    with pytest.raises(ValueError, match="store_size 32; got 40"):
        train(store, tmp_path / "begun", progress=False)


def test_a_folder_that_holds_other_files_is_refused(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"run .* must be a new or empty folder.*holds other files"):
        train(store, tmp_path, recipe, progress=False)
    with pytest.raises(ValueError, match=r"run .* must be a folder; it is a file"):
        train(store, tmp_path / "holiday.jpg", recipe, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_new_run_needs_a_recipe(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have a recipe.json, or be given a recipe; it has none: name a recipe"):
        train(store, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_two_trainings_in_one_run_are_refused(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        exclusive_lock(run),
        pytest.raises(ValueError, match="another process is using it; wait for that process or stop it"),
    ):
        train(store, run, RECIPE, progress=False)
    assert train(store, run, RECIPE, progress=False).finished


def test_a_store_without_training_pictures_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", test=6)
    with pytest.raises(ValueError, match="must have train pictures; it has test: prepare another"):
        train(store, tmp_path / "run", recipe, progress=False)
    assert not (tmp_path / "run").exists()


def test_folding_needs_validation_pictures(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", train=12, test=6)
    with pytest.raises(ValueError, match='must have val pictures for schedule "fold"; it has train, test'):
        train(store, tmp_path / "run", replace(RECIPE, schedule="fold"), progress=False)
    assert not (tmp_path / "run").exists()

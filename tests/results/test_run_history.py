"""Reading the recipe and the metrics of a run."""

import shutil
from pathlib import Path

import pytest
from conftest import write_store
from metrics_lines import START, epoch, step, write_run

from alexnet.data.store.store import Store
from alexnet.results.run_history import RunHistory
from alexnet.training.consistency import describe_pictures


def test_a_history_is_read_in_order(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START, step(5), epoch(1), step(15), epoch(2)))
    assert history.start == START
    assert [line["step"] for line in history.steps] == [5, 15]
    assert [line["epoch"] for line in history.epochs] == [1, 2]
    assert history.epoch_of({"step": 18}) == 1.5  # 100 pictures in batches of 9: 12 steps
    assert history.epoch_of({"step": 18, "epoch": 1.25}) == 1.25


def test_a_step_or_an_epoch_that_was_repeated_counts_once(tmp_path: Path) -> None:
    lines = [START, step(5), epoch(1), step(15, loss=7.0), epoch(2, train_loss=9.0), step(15, loss=6.0), epoch(2)]
    history = RunHistory.read(write_run(tmp_path, *lines))
    assert [line["loss"] for line in history.steps] == [0.6, 6.0]
    assert [line["train_loss"] for line in history.epochs] == [2.0, 1.0]


def test_an_incomplete_line_is_left_out(tmp_path: Path) -> None:
    history = RunHistory.read(write_run(tmp_path, START, epoch(1), end='{"event": "ep'))
    assert [line["epoch"] for line in history.epochs] == [1]


@pytest.mark.parametrize(
    ("end", "message"), [("3\n", "line 2 must be an event"), ("{]\n", "line 2"), ("[]\n", "line 2")]
)
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, end: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunHistory.read(write_run(tmp_path, START, end=end))


def test_a_folder_without_a_recipe_or_a_start_event_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must have a recipe\.json"):
        RunHistory.read(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"recipe\.json: recipe must be a JSON object"
    ):  # not: metrics.jsonl is missing
        RunHistory.read(tmp_path)
    with pytest.raises(ValueError, match="must begin with a line of event"):
        RunHistory.read(write_run(tmp_path, epoch(1)))


def test_the_store_that_chose_the_epoch_is_recognised_by_its_address_or_its_pictures(
    tmp_path: Path, store: Path
) -> None:
    shutil.copytree(store, tmp_path / "copy")
    other = write_store(tmp_path / "other", seed=5, train=48, val=20)  # the same numbers and labels, other pixels
    pictures = {"pictures": describe_pictures(Store(store))}
    moved, old = (
        RunHistory.read(write_run(tmp_path / name, START | {"store": str(address)} | fields, epoch(1)))
        for name, address, fields in (("moved", tmp_path / "gone", pictures), ("old", store, {}))
    )
    stores = (store, tmp_path / "copy", other)
    assert [moved.is_chosen_on(Store(path), "val") for path in stores] == [True, True, False]
    assert not moved.is_chosen_on(Store(store), "train")
    assert [old.is_chosen_on(Store(path), "val") for path in stores] == [True, False, False]

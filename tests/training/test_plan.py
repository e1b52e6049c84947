"""A training that is planned to end in a time, that stops early, and what a training says of itself."""

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import small_recipe
from runs import load_last, read_metrics

from alexnet.recipe import Recipe
from alexnet.training.plan import EpochTimes
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = small_recipe()


def test_the_epochs_that_fit_into_a_time() -> None:
    times = EpochTimes(first=10, later=2, first_count=4, end=5)
    for epochs in (1, 3, 4, 5, 30):
        assert times.epochs_within(times.of_training(epochs)) == epochs
        assert times.epochs_within(times.of_training(epochs) - 0.1) == epochs - 1
    assert times.of_training(6) == 4 * 10 + 2 * 2 + 5
    assert times.epochs_within(3) == 0


def test_a_planned_training_is_that_of_the_recipe_with_fewer_epochs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_step: Callable[..., None]
) -> None:
    """To the bit, although it has made steps before; and after a stop it keeps its plan, whatever the time is then."""
    direct, planned = tmp_path / "direct", tmp_path / "planned"
    train(store, direct, RECIPE.with_epochs(2), progress=False)
    monkeypatch.setattr(EpochTimes, "epochs_within", lambda *_: 2)
    after_step(lambda n: os.kill(os.getpid(), signal.SIGINT) if n == 8 + 7 else None)  # eight are the rehearsal's
    assert not train(store, planned, RECIPE, hours=1, progress=False).finished
    monkeypatch.setattr(EpochTimes, "epochs_within", lambda *_: 3)
    with pytest.raises(
        ValueError, match=r"hours must be those that .* planned for; it was begun with `hours=1`; got 2"
    ):
        train(store, planned, RECIPE, hours=2, progress=False)
    assert train(store, planned, RECIPE, hours=1, progress=False).epoch == 2
    assert Recipe.load(planned / "recipe.json") == RECIPE.with_epochs(2)
    for name, tensor in load_last(direct).tensors.items():
        assert torch.equal(load_last(planned).tensors[name], tensor), name
    start, *lines = read_metrics(planned)
    assert start.pop("hours") == 1
    assert [start, *lines] == read_metrics(direct)


def test_frozen_layers_make_later_epochs_shorter(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[EpochTimes] = []
    epochs_within = EpochTimes.epochs_within
    monkeypatch.setattr(EpochTimes, "epochs_within", lambda t, s: (measured.append(t), epochs_within(t, s))[1])
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5")
    train(store, tmp_path / "run", replace(RECIPE, frozen=layers, augmentations=1, epochs=2), hours=1)
    (times,) = measured
    assert (times.first_count, times.later < times.first) == (1, True)
    assert "planned for 1 h: 2 of the recipe's 2 epochs, about " in capsys.readouterr().err


def test_a_time_that_is_too_short_is_refused_and_leaves_no_run(store: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"hours must be at least 0\.\d+ for one epoch, of about .*; got 1e-06"
    ) as caught:
        train(store, tmp_path / "run", RECIPE, hours=1e-6, progress=False)
    assert not (tmp_path / "run").exists()
    (least,) = re.findall(r"at least (\S+) for", str(caught.value))
    train(store, tmp_path / "run", RECIPE, hours=3 * float(least), progress=False)
    with pytest.raises(ValueError, match='hours must be left out with schedule "fold"'):
        train(store, tmp_path / "fold", replace(RECIPE, schedule="fold"), hours=1, progress=False)


def test_a_training_stops_early_and_says_why(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], after_step: Callable[..., None]
) -> None:
    recipe = replace(RECIPE, learning_rate=1e-12, decay=0.0, patience=2, early_stopping=True, epochs=9)
    after_step(lambda n: os.kill(os.getpid(), signal.SIGINT) if n == 12 else None)
    assert not train(store, tmp_path / "run", recipe, progress=False).finished  # what is resumed goes on counting
    outcome = train(store, tmp_path / "run", recipe)
    assert (outcome.finished, outcome.epoch) == (True, 3)  # the first epoch is the best one
    (end,) = read_metrics(tmp_path / "run", "end")
    assert re.fullmatch(r"for 2 epochs the validation error was not lower than \d+\.\d%", end["reason"])
    err = capsys.readouterr().err
    assert f"ended after epoch 3: {end['reason']}\n" in err
    assert "at most 9 epochs, fewer once the validation error was not lower for 2 epochs; 5 steps an epoch" in err
    assert "resumes from step 12, in epoch 3\n" in err


def test_test_pictures_stop_no_training(recipe: Recipe, tmp_path: Path) -> None:
    from conftest import write_store

    store = write_store(tmp_path / "store", train=10, test=5)
    with pytest.raises(ValueError, match="must have val pictures for early_stopping"):
        train(store, tmp_path / "run", replace(recipe, early_stopping=True), progress=False)


def test_a_start_that_fails_does_not_occupy_the_run(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must stay finite.*such as `learning_rate="):
        train(store, tmp_path / "run", replace(RECIPE, learning_rate=1e30), progress=False)
    assert (tmp_path / "run" / "recipe.json").exists()
    recipe = replace(RECIPE, epochs=1)
    assert train(store, tmp_path / "run", recipe, progress=False).finished
    assert Recipe.load(tmp_path / "run" / "recipe.json") == recipe
    assert [line["event"] for line in read_metrics(tmp_path / "run")] == ["start", "epoch", "end"]


def test_a_training_says_what_it_trains_and_how_long_it_takes(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.utils.progress.LINE_SECONDS", 0.0)
    run = tmp_path / "run"
    train(store, run, replace(RECIPE, epochs=5, precision="float32"))
    lines = capsys.readouterr().err.splitlines()
    assert re.match(rf"{run}: recipe tiny, with .*net.image_size 24 \(56\).* and \d+ more \(recipe.json\)", lines[0])
    assert lines[1] == f"{store}: 48 training and 20 validation pictures, 3 classes"
    assert lines[2] == "device cpu (1 thread), float32"
    assert lines[3] == "5 epochs; 5 steps an epoch"
    assert re.match(r"epoch 1/5: 1 of 5 batches, loss \d\.\d{3}, \d+ s left", lines[4])
    assert any(re.match(r"epoch 1, val: 20 of 20 pictures", line) for line in lines)
    (estimate,) = [line for line in lines if line.startswith("after 20 steps: ")]
    assert re.match(r"after 20 steps: an epoch takes about \d+ s, the training about \d+ s from here", estimate)
    assert lines[-1] == "ended after epoch 5: all epochs are done"
    train(store, run)
    assert "was finished before, after 5 epochs and 25 steps: nothing is left to do" in capsys.readouterr().err

"""Losses, weights and predictions that are not finite."""

import json
import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import assert_same_run, checkpoint_steps, load_last, read_metrics

from alexnet.cli import main
from alexnet.data.loading.sampler import epoch_order
from alexnet.data.store.format import STATISTICS_FILE
from alexnet.data.store.store import Store
from alexnet.recipe import Change, Recipe
from alexnet.training.checkpoint import TrainState, load_checkpoint
from alexnet.training.divergence import DivergenceError, advise_lower_rate
from alexnet.training.error_rates import error_rates
from alexnet.training.sgd import SGD
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


def explode(recipe: Recipe, epoch: float) -> Recipe:
    """Return a recipe that diverges from `epoch` on."""
    return replace(recipe, schedule="changes", changes=(Change(epoch=epoch, learning_rate=1e30),))


def assert_checkpoints_are_finite(run: Path, steps: list[int]) -> None:
    """Check that the checkpoints are those of these steps, and that all weights in them are finite."""
    assert checkpoint_steps(run) == steps
    for path in (run / "checkpoints").iterdir():
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path).with_prefix("net").values())
    assert all(line["event"] in {"start", "step", "epoch"} for line in read_metrics(run))


def test_a_loss_that_is_not_finite_ends_the_training_with_step_rate_and_advice(
    store: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DivergenceError) as caught:
        train(store, run, explode(recipe, 1.2), progress=False)  # the seventh step; the eighth sees it
    message = str(caught.value)
    assert "loss must stay finite; got " in message
    assert "in epoch 2, step 8, at learning rate 1e+30" in message
    assert "`learning_rate=" in message
    assert "\n" not in message
    assert issubclass(DivergenceError, ValueError)
    assert_checkpoints_are_finite(run, [5])


def test_weights_that_are_not_finite_are_never_saved(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    # They diverge in the fifth step, the last of the epoch: no later loss shows it before the epoch's checkpoint.
    run = tmp_path / "run"
    with pytest.raises(DivergenceError, match=r"step 5\b.*rate"):
        train(store, run, explode(recipe, 0.8), progress=False)
    assert_checkpoints_are_finite(run, [])
    assert not (run / "checkpoints" / "best.safetensors").exists()
    with pytest.raises(DivergenceError, match=r"step \d+\b.*rate"):
        train(store, tmp_path / "often", explode(recipe, 0.4), checkpoint_minutes=0, progress=False)
    assert checkpoint_steps(tmp_path / "often")[-1] <= 3
    for path in (tmp_path / "often" / "checkpoints").iterdir():
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path).with_prefix("net").values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_finite_count_as_errors(value: float) -> None:
    predicted = torch.full((4, 10), 0.1)
    predicted[:3] = math.nan if math.isnan(value) else (value * torch.ones(3, 10) / value)
    errors = error_rates(predicted, torch.tensor([0, 1, 2, 0]))
    assert (errors.top1_error, errors.top5_error) == (0.75, 0.75)


# ---- What is not finite, and the batch ------------------------------------------------------------------------------


def spoil(monkeypatch: pytest.MonkeyPatch, is_due: Callable[[SGD, int], bool], value: float, layer: int = 0) -> None:
    """Let the optimiser write a value that is not finite into a weight, after the steps that `is_due` names."""
    original, count = SGD.step, 0

    def step(self: SGD) -> None:
        nonlocal count
        original(self)
        count += 1
        if is_due(self, count):
            self.param_groups[layer]["params"][0].data[(0,) * (self.param_groups[layer]["params"][0].ndim - 1)][1] = (
                value
            )

    monkeypatch.setattr(SGD, "step", step)


@pytest.mark.parametrize("layer", range(8))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_found_at_the_next_step_with_its_batch(
    value: float, layer: int, store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    spoil(monkeypatch, lambda _, count: count == 2, value, layer)
    with pytest.raises(DivergenceError, match=r"in epoch 1, step 3,"):
        # In bfloat16 the layers compute with copies of the weights, which the update writes, and `spoil` does not.
        train(store, run, replace(recipe, precision="float32"), progress=False)
    record = json.loads((run / "divergence.json").read_text())
    name = list(recipe.net.layers())[layer]
    assert (record["step"], record["weights_not_finite"], record["split"]) == (3, [f"{name}.weight"], "train")
    split = Store(store).split("train")
    indices = epoch_order(len(split), seed=recipe.seed, epoch=0)[20:30]
    assert record["pictures"] == [split.picture_name(index) for index in indices.tolist()]


def test_statistics_that_are_not_finite_are_refused(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "store")
    statistics = Store(copy).statistics
    statistics.mean[0, 5, 5] = np.nan
    statistics.save(copy / STATISTICS_FILE, {"counts": {"train": 48, "val": 20}})
    with pytest.raises(ValueError, match="must have finite statistics; mean is not: prepare the store again"):
        train(copy, tmp_path / "run", recipe, progress=False)


# ---- Going back -----------------------------------------------------------------------------------------------------


def fragile(recipe: Recipe, epoch: float) -> Recipe:
    """Return a recipe with another rate from `epoch` on, at which `spoil_full_rate` lets the training diverge."""
    return replace(recipe, schedule="changes", changes=(Change(epoch=epoch, learning_rate=0.03),))


def spoil_full_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda optimiser, _: optimiser.param_groups[0]["rate"] == 0.03, math.nan)


@pytest.mark.parametrize(("epoch", "steps"), [(1.4, (6, 8, 9)), (0.4, (1, 2, 4))])
def test_a_retried_training_that_was_stopped_ends_the_same(
    epoch: float, steps: tuple[int, ...], store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_full_rate(monkeypatch)
    settings: dict[str, Any] = {"progress": False, "on_divergence": "retry", "checkpoint_minutes": 0}
    assert train(store, tmp_path / "run", fragile(recipe, epoch), **settings).finished
    lines = read_metrics(tmp_path / "run", "retry")
    back = {1.4: 5, 0.4: 0}[epoch]
    assert lines == [{"event": "retry", "step": back, "retry": 1, "rate_factor": 0.5}]
    assert read_metrics(tmp_path / "run", "epoch")[-1]["rate"] == 0.015
    state = load_last(tmp_path / "run").state
    assert (state.retries, state.rate_factor) == (1, 0.5)

    original, requested = SGD.step, []

    def stop_once(self: SGD) -> None:
        original(self)
        requested.append(None)
        if len(requested) in steps:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SGD, "step", stop_once)
    for _ in range(9):
        if train(store, tmp_path / "stopped", fragile(recipe, epoch), **settings | {"checkpoint_minutes": 10}).finished:
            break
    assert_same_run(tmp_path / "stopped", tmp_path / "run")


@pytest.mark.parametrize(("rate", "lower"), [(50, "10"), (0.02, "0.004"), (0.01, "0.002")])
def test_the_advised_rate_is_written_as_a_user_writes_it(rate: float, lower: str) -> None:
    assert f"such as `learning_rate={lower}`" in advise_lower_rate(Recipe(learning_rate=rate), TrainState())


def test_a_training_goes_back_at_most_three_times(
    store: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DivergenceError, match="loss must stay finite"):
        train(store, run, explode(recipe, 1.2), on_divergence="retry")
    assert [line["rate_factor"] for line in read_metrics(run, "retry")] == [0.5, 0.25, 0.125]
    lines = [line for line in capsys.readouterr().err.splitlines() if "going back" in line]
    assert len(lines) == 3
    assert lines[2].endswith("; going back to step 5, with 0.125 times the learning rate (try 3 of 3)")
    assert "start a new run" not in "".join(lines)  # no advice: it goes on by itself
    assert load_last(run).state.retries == 3
    assert main(["train", str(store), str(run), "--on-divergence", "retry"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "loss must stay finite" in error
    assert "retry" not in error  # it may not go back once more

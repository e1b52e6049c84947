"""Losses, weights and predictions that are not finite."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import checkpoint_steps, read_metrics

from alexnet.recipe import Change, Recipe
from alexnet.training.checkpoint import load_checkpoint
from alexnet.training.divergence import DivergenceError
from alexnet.training.error_rates import error_rates
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
    assert "--set learning_rate=" in message
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

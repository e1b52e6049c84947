"""The error of a training whose loss or weights are not finite any more, and the batch at which that was found."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import TrainState
from alexnet.utils.checksums import BLANK_CHECKSUM, seal
from alexnet.utils.files import write_atomic

MAX_RETRIES = 3  # how often a training may go back after a divergence
_BATCH_FILE = "divergence.json"


class DivergenceError(ValueError):
    """The loss or a weight is not finite any more.

    Args:
        finding: What is not finite.
        step: Number of the step at which it was found.
        advice: What to do.
    """

    def __init__(self, finding: str, step: int = 0, advice: str = "") -> None:
        super().__init__(f"{finding}: {advice}" if advice else finding)
        self.finding, self.step = finding, step


def check_finite(name: str, value: float, recipe: Recipe, state: TrainState, *, step: int, rate: float) -> None:
    """Raise a DivergenceError unless a value is finite.

    Args:
        name: What the value is.
        value: The value.
        recipe: The recipe, for the advice.
        state: The state of the training.
        step: Number of the step that gave the value.
        rate: Learning rate of that step.
    """
    if not math.isfinite(value):
        place = f"in epoch {state.epoch + 1}, step {step}, at learning rate {rate:g}"
        raise DivergenceError(f"{name} must stay finite; got {value} {place}", step, advise_lower_rate(recipe, state))


def advise_lower_rate(recipe: Recipe, state: TrainState) -> str:
    """Return what to try after a divergence."""
    lower = f"such as `learning_rate={float(f'{recipe.learning_rate * state.rate_factor / 5:.1g}'):g}`"
    advice = f"start a new run with a lower rate, {lower}"
    return f"{advice}, or go on with `on_divergence='retry'`" if state.retries < MAX_RETRIES else advice


def weights_not_finite(net: AlexNet) -> list[str]:
    """Return the names of the weights and biases with values that are not finite."""
    return [name for name, weight in net.weights().items() if not weight.isfinite().all()]


def save_batch(run: Path, error: DivergenceError, weights: Sequence[str], split: str, pictures: Sequence[str]) -> None:
    """Write the batch at which a divergence was found to RUN/divergence.json.

    Args:
        run: The run's folder.
        error: The divergence.
        weights: The weights that are not finite; after the update of that step on a GPU, before it on a CPU.
        split: The split of the pictures.
        pictures: The names of the pictures of the batch.
    """
    contents = {"step": error.step, "message": str(error), "weights_not_finite": list(weights), "split": split}
    contents |= {"pictures": list(pictures), "checksum": BLANK_CHECKSUM}
    write_atomic(run / _BATCH_FILE, seal(json.dumps(contents, indent=1, ensure_ascii=False).encode() + b"\n"))

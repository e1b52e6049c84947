"""The error of a training whose loss or weights are not finite any more."""

import math

from alexnet.recipe import Recipe


class DivergenceError(ValueError):
    """The loss or a weight is not finite any more."""


def check_finite(name: str, value: float, recipe: Recipe, *, epoch: int, step: int, rate: float) -> None:
    """Raise a DivergenceError unless a value is finite.

    Args:
        name: What the value is.
        value: The value.
        recipe: The recipe, for the advice.
        epoch: Epochs done.
        step: Number of the step that gave the value.
        rate: Learning rate of that step.
    """
    if not math.isfinite(value):
        raise DivergenceError(
            f"{name} must stay finite; got {value} in epoch {epoch + 1}, step {step}, at learning rate {rate:g}: "
            f"{advise_lower_rate(recipe)}"
        )


def advise_lower_rate(recipe: Recipe) -> str:
    """Return what to try after a divergence."""
    return f"start a new run with a lower rate, such as --set learning_rate={recipe.learning_rate / 5:.1g}"

"""The rate over time: divided by ten on a plateau, changed at given epochs, or along a cosine (section 6)."""

import dataclasses
import math
from dataclasses import dataclass

from alexnet.recipe import Recipe


@dataclass
class Plateau:
    """Divides the rate by ten when the validation error has stopped improving (section 6).

    Args:
        patience: Epochs without a new best error that count as having stopped.
        falls: How often the rate is divided before the next plateau ends the training.
    """

    patience: int
    falls: int
    best: float | None = None
    since: int = 0
    fallen: int = 0
    ended: bool = False

    def observe(self, error: float) -> bool:
        """Take in the validation error of an epoch; whether the rate falls, or the training ends, now."""
        if self.best is None or error < self.best:
            self.best, self.since = error, 0
            return False
        self.since += 1
        if self.since < self.patience:
            return False
        self.since = 0
        self.ended = self.fallen == self.falls
        self.fallen += not self.ended
        return True

    def state(self) -> dict[str, float | int | bool]:
        """What a checkpoint keeps of it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Rates:
    """What holds for one step: rates of weights and biases by layer, and whether colours are shifted."""

    weights: dict[str, float]
    biases: dict[str, float]
    colour_shift: bool


def rates(recipe: Recipe, epoch: float, plateau: Plateau | None = None) -> Rates:
    """The rates `epoch` epochs after the start.

    Args:
        recipe: Rates, schedule and changes.
        epoch: Epochs since the start, with the fraction done of the current one.
        plateau: The plateaus so far, where the recipe's schedule is "plateau".

    Returns:
        The rates of every layer, and whether the colours are shifted.
    """
    common = recipe.learning_rate
    if recipe.schedule == "plateau" and plateau is not None:
        common = recipe.learning_rate / 10**plateau.fallen
    elif recipe.schedule == "cosine":
        done = (epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9)
        common *= 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
    weights = dict.fromkeys(recipe.net.layers(), common)
    colour = True
    for change in recipe.changes:
        if epoch < change.epoch:
            break
        if change.learning_rate is not None:
            weights.update(dict.fromkeys(change.layers or weights, change.learning_rate))
        if change.colour_shift is not None:
            colour = change.colour_shift
    biases = {
        name: rate if recipe.bias_rate is None or rate == 0 else recipe.bias_rate for name, rate in weights.items()
    }
    if epoch < recipe.warmup:
        share = max(epoch / recipe.warmup, 1e-3)  # not 0, which would freeze
        weights, biases = ({name: rate * share for name, rate in of.items()} for of in (weights, biases))
    return Rates(weights, biases, colour)

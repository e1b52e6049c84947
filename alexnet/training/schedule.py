"""Schedules: what changes over the epochs of a training, first of all the learning rate (section 6).

Time is given as the number of epochs done since the start and the fraction done of the current one.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.recipe import Change, Recipe
from alexnet.utils.console import count_of


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of one step, of the weights and of the biases of each layer that learns, by its name."""

    weights: dict[str, float]
    biases: dict[str, float]

    @property
    def highest(self) -> float:
        """The highest rate of any weights: the one that messages and metrics give."""
        return max(self.weights.values())

    def scaled(self, factor: float) -> "LearningRates":
        """Return all rates times a factor."""
        weights, biases = ({name: factor * r for name, r in rates.items()} for rates in (self.weights, self.biases))
        return LearningRates(weights, biases)


@dataclass
class Plateau:
    """Watches for the validation error to stop improving, and counts how often it has (section 6).

    Args:
        patience: Epochs without a new best error after which it counts as stopped.
        falls: How often the rate is divided by ten before the next plateau ends the training.
        best: The best error so far.
        since: Epochs since the best error, or since the last fall.
        fallen: How often the rate has been divided.
        ended: Whether the last plateau has been reached.
    """

    patience: int
    falls: int
    best: float | None = None
    since: int = 0
    fallen: int = 0
    ended: bool = False

    def observe(self, error: float) -> bool:
        """Take the validation error of an epoch, and return whether the rate falls, or the training ends, now."""
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

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments that make the same object again."""
        return dataclasses.asdict(self)


class Schedule:
    """What a schedule decides. This class has what all schedules share; each one overrides what it does otherwise.

    Args:
        recipe: The recipe.
        plateau: State of the plateaus, as a checkpoint has it; none at the start.
        folded: Epochs done when the validation pictures were folded into the training set; None before, and always with
            a schedule that does not do this.
    """

    def __init__(self, recipe: Recipe, plateau: Mapping[str, Any] | None = None, folded: int | None = None) -> None:
        self.recipe, self.folded = recipe, folded
        # Each schedule has one, since each checkpoint does; only two of them use it.
        self.plateau = Plateau(**plateau) if plateau else Plateau(recipe.patience, self._falls())

    def rates_at(self, epoch: float, fraction: float = 0.0) -> LearningRates:
        """Return the learning rates of a step, with the recipe's changes, factors and warm-up."""
        recipe, time = self.recipe, self._elapsed(epoch, fraction)
        weights = dict.fromkeys(recipe.trained_layers, self._common_rate(time))
        for change in self._changes_until(time):
            if change.learning_rate is not None:
                changed = [name for name in change.layers or weights if name in weights]
                weights.update(dict.fromkeys(changed, change.learning_rate))
        biases = {
            name: rate if recipe.bias_rate is None or rate == 0 else recipe.bias_rate for name, rate in weights.items()
        }
        for name, factor in recipe.rate_factors.items():
            if name in weights:
                weights[name], biases[name] = factor * weights[name], factor * biases[name]
        if time < recipe.warmup:
            factor = max(time / recipe.warmup, 1e-3)  # not 0, which would freeze the layers
            weights, biases = ({name: rate * factor for name, rate in rates.items()} for rates in (weights, biases))
        return LearningRates(weights, biases)

    def shifts_colours_at(self, epoch: float, fraction: float = 0.0) -> bool:
        """Return whether the colours of training pictures are shifted (5.1)."""
        changes = self._changes_until(self._elapsed(epoch, fraction))
        return ([True] + [change.colour_shift for change in changes if change.colour_shift is not None])[-1]

    def image_size_in(self, epoch: int) -> int:
        """Return the side of the training crops in an epoch, in pixels.

        If the epochs cannot be divided equally, the later sizes have more.
        """
        sizes, net = self.recipe.image_sizes, self.recipe.net
        if not sizes or self.recipe.frozen:
            return net.image_size
        return min(sizes[((epoch + 1) * len(sizes) - 1) // self.recipe.epochs], net.image_size)

    def splits_for_epoch(self, store: Store) -> tuple[Split, Split]:
        """Return the pictures to train on in the coming epoch, and those to validate on after it."""
        return store.split("train"), store.validation()

    def observe(self, epoch: int, error: float) -> None:  # noqa: ARG002, overridden
        """Take the validation error (of a store without "val": the test error) after so many epochs."""
        if self.recipe.early_stopping:
            self.plateau.observe(error)

    def may_select_best(self, validation: Split) -> bool:
        """Return whether the lowest error on this split selects the net to predict with, rather than the last epoch.

        Test pictures select no net.
        """
        return validation.name == "val"

    def end_reason(self, epoch: int, train_error: float) -> str | None:
        """Return why the training ends after so many epochs, the last of which had this training error, or None."""
        recipe, target = self.recipe, self.recipe.until_train_error
        if target is not None and train_error <= target:
            return f"the training error is at most {target:.0%}"
        if self.plateau.ended and recipe.early_stopping:
            epochs = count_of(recipe.patience, "epoch")
            return f"for {epochs} the validation error was not lower than {self.plateau.best:.1%}"
        return "all epochs are done" if self._elapsed(epoch) >= recipe.epochs else None

    def may_end_early(self) -> bool:
        """Return whether the training may end before its last epoch."""
        return self.recipe.early_stopping or self.recipe.until_train_error is not None

    def describe_length(self) -> str:
        """Return in words how many epochs the training takes at most."""
        recipe, target = self.recipe, self.recipe.until_train_error
        ends = [f"once the training error is at most {target:.0%}"] if target is not None else []
        if recipe.early_stopping:
            ends.append(f"once the validation error was not lower for {count_of(recipe.patience, 'epoch')}")
        epochs = f"{'at most ' if ends else ''}{count_of(recipe.epochs, 'epoch')}"
        return f"{epochs}, fewer {' or '.join(ends)}" if ends else epochs

    def total_epochs(self) -> int | None:
        """Return how many epochs the training takes at most; None while that is not known."""
        return self.recipe.epochs

    def state_dict(self) -> dict[str, Any]:
        """Return the arguments, beside the recipe, that make the same schedule again."""
        return {"plateau": self.plateau.state_dict(), "folded": self.folded}

    def _falls(self) -> int:
        """How often a plateau lowers the rate before the next one ends the training."""
        return 0 if self.recipe.early_stopping else self.recipe.falls

    def _elapsed(self, epoch: float, fraction: float = 0.0) -> float:
        """The time, in epochs, from which the recipe's changes, warm-up and end are counted."""
        return epoch + fraction

    def _common_rate(self, time: float) -> float:  # noqa: ARG002, overridden
        """The rate that all weights have before the recipe's changes and warm-up."""
        return self.recipe.learning_rate

    def _changes_until(self, time: float) -> Iterator[Change]:
        """The recipe's changes that have been made at this time."""
        return (change for change in self.recipe.changes if change.epoch <= time)  # they are in order


class PlateauSchedule(Schedule):
    """Divides the rate by ten each time that the validation error has stopped improving (section 6)."""

    def _common_rate(self, time: float) -> float:  # noqa: ARG002, it depends on the errors
        rate: float = self.recipe.learning_rate / 10**self.plateau.fallen
        return rate

    def observe(self, epoch: int, error: float) -> None:  # noqa: ARG002
        """Take the validation error."""
        self.plateau.observe(error)

    def end_reason(self, epoch: int, train_error: float) -> str | None:
        """Return why the training ends: the last plateau, the last epoch or the target has been reached."""
        if self.plateau.ended:
            return f"the validation error has stopped improving, after {self.plateau.fallen} falls of the rate"
        return super().end_reason(epoch, train_error)

    def may_end_early(self) -> bool:
        """Return True: the last plateau may come at any time."""
        return True

    def describe_length(self) -> str:
        """Return in words how many epochs the training takes at most."""
        recipe = self.recipe
        epochs, patience = count_of(recipe.epochs, "epoch"), count_of(recipe.patience, "epoch")
        return (
            f"at most {epochs}; the rate falls each time that the validation error was not lower for {patience}, "
            f"{count_of(recipe.falls, 'time')} before the end"
        )


class ChangesSchedule(Schedule):
    """Changes the rate at the epochs that the recipe gives, and nowhere else."""


class CosineSchedule(Schedule):
    """Lowers the rate to 0 along half a cosine, from the end of the warm-up to the last epoch."""

    def _common_rate(self, time: float) -> float:
        recipe = self.recipe
        done = (time - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9)
        return recipe.learning_rate * (0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))))


class FoldInSchedule(Schedule):
    """Adds the validation pictures to the training set when their error stops improving (fold-in).

    From then on, the recipe's epochs and changes are counted (the 2012 program's nets for CIFAR-10 with translations).
    """

    def splits_for_epoch(self, store: Store) -> tuple[Split, Split]:
        """Return the pictures to train and validate on; once folded in, the test pictures show how training goes."""
        if self.folded is None:
            return super().splits_for_epoch(store)
        return store.train_and_val(), store.split("test" if "test" in store.splits else "val")

    def observe(self, epoch: int, error: float) -> None:
        """Take the validation error, and fold the pictures in if it has stopped improving."""
        if self.folded is None:
            self.plateau.observe(error)
            if self.plateau.ended:
                self.folded = epoch

    def may_select_best(self, validation: Split) -> bool:  # noqa: ARG002
        """Return False: pictures that will be trained on select no net."""
        return False

    def describe_length(self) -> str:
        """Return in words how many epochs the training takes: before the folding their number is not known."""
        recipe = self.recipe
        if self.folded is not None:
            return f"{recipe.epochs} epochs from epoch {self.folded} on, with the validation pictures"
        return (
            f"as many epochs as it takes until the validation error was not lower for {recipe.patience}, and then "
            f"{recipe.epochs} more with the validation pictures (schedule fold)"
        )

    def total_epochs(self) -> int | None:
        """Return the epochs up to the folding and after it; None before."""
        return None if self.folded is None else self.folded + self.recipe.epochs

    def _falls(self) -> int:
        return 0

    def _elapsed(self, epoch: float, fraction: float = 0.0) -> float:
        return 0.0 if self.folded is None else epoch - self.folded + fraction


SCHEDULES: dict[str, type[Schedule]] = {
    "plateau": PlateauSchedule,
    "changes": ChangesSchedule,
    "cosine": CosineSchedule,
    "fold": FoldInSchedule,
}


def make_schedule(recipe: Recipe, plateau: Mapping[str, Any] | None = None, folded: int | None = None) -> Schedule:
    """Return the schedule that a recipe names, in the state that a checkpoint has; at its start by default.

    Args:
        recipe: The recipe.
        plateau, folded: What `Schedule.state_dict` returned.
    """
    return SCHEDULES[recipe.schedule](recipe, plateau, folded)

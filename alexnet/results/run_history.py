"""The history of a run: its recipe, its settings at the start, and its losses and errors from metrics.jsonl."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.data.store.location import parse_location
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.training.consistency import describe_pictures
from alexnet.training.schedule import make_schedule

_RATES = 400  # points of the curve of the learning rate


@dataclass(frozen=True)
class RunHistory:
    """The recipe and the metrics of a run so far.

    Args:
        recipe: The recipe of the run.
        start: The first line of metrics.jsonl: store, number of pictures, device and so on.
        steps: The lines of event "step", in order: step, rate, loss.
        epochs: The lines of event "epoch", in order; see `alexnet.training.metrics.epoch_metrics`.
        retries: The lines of event "retry", in order: step, rate_factor.
    """

    recipe: Recipe
    start: dict[str, Any]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    retries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def origin(self) -> dict[str, str]:
        """Where an imported run comes from: its file, that file's SHA-256, its format; empty for a trained one."""
        origin: dict[str, str] = self.start.get("imported", {})
        return origin

    def epoch_of(self, line: dict[str, Any]) -> float:
        """Return the number of epochs that were done when a line was written."""
        # Version 0.1 wrote the step only.
        steps_per_epoch = math.ceil(int(self.start["train_pictures"]) / self.recipe.batch_size)
        return float(line.get("epoch", line["step"] / steps_per_epoch))

    def split_of(self, line: dict[str, Any]) -> str:
        """Return the split whose errors a line of event "epoch" has."""
        # Earlier versions wrote the split at the start only.
        return str(line.get("split", self.start.get("validation_split", "val")))

    def learning_rates(self) -> list[tuple[float, float]]:
        """Return the learning rates of the steps so far: (epochs done, highest rate of any weights).

        They are computed from the schedule, which sees the errors of the epochs as in training: metrics.jsonl has too
        few lines for a warm-up or a short training. There are up to about _RATES points, and two or more in each epoch.
        """
        last = max((self.epoch_of(line) for line in (*self.steps, *self.epochs)), default=0.0)
        schedule = make_schedule(self.recipe)
        errors = {line["epoch"]: line["val_top1_error"] for line in self.epochs}
        steps = max(1, math.ceil(int(self.start["train_pictures"]) / self.recipe.batch_size))  # of an epoch
        count = min(steps, max(2, round(_RATES / max(last, 1))))
        fractions = [round(point * (steps - 1) / max(count - 1, 1)) / steps for point in range(count)]
        rates: list[tuple[float, float]] = []
        for epoch in range(math.ceil(last)):
            done = [fraction for fraction in fractions if epoch + fraction <= last]
            for fraction in done:
                rate = schedule.rates_at(epoch, fraction).highest
                rates.append((epoch + fraction, rate * self._rate_factor((epoch + fraction) * steps)))
            if epoch + 1 in errors:
                schedule.observe(epoch + 1, errors[epoch + 1])
        return rates[1:] if self.recipe.warmup else rates  # a warm-up begins near 0

    def _rate_factor(self, step: float) -> float:
        """Return the factor on the learning rates after so many steps: a retry after a divergence lowers them."""
        factors = [line["rate_factor"] for line in self.retries if line["step"] <= step + 0.5]
        return float(factors[-1]) if factors else 1.0

    def is_chosen_on(self, store: Store, split: str) -> bool:
        """Return whether the epoch of the net was chosen by the error on this split of a store; it is then too low.

        A store that was moved or copied is recognised by its pictures, unless the run is of a version that did not
        write down which they were.
        """
        if split != "val" or self.recipe.folds_in_validation or self.origin:
            return False
        if store.path.resolve() == parse_location(self.start["store"]).resolve():
            return True
        return self.start.get("pictures") == describe_pictures(store)

    @classmethod
    def read(cls, run: Path) -> "RunHistory":
        """Read RUN/recipe.json and RUN/metrics.jsonl; the run may be in the middle of its training.

        A training that was killed and resumed may write a step or an epoch twice: the last line counts. A line that is
        not complete yet is left out.

        Raises:
            FileNotFoundError: There is no recipe.json or no metrics.jsonl.
            ValueError: A line is not an event, or the start event is missing.
        """
        path = run / "metrics.jsonl"
        _check_exists(run / "recipe.json")
        recipe = Recipe.load(run / "recipe.json")  # first: a run with a damaged recipe may have no metrics either
        _check_exists(path)
        start: dict[str, Any] = {}
        steps: dict[int, dict[str, Any]] = {}
        epochs: dict[int, dict[str, Any]] = {}
        retries: list[dict[str, Any]] = []
        complete_lines, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
        for number, text in enumerate(complete_lines.splitlines(), 1):
            line = _parse_line(path, number, text)
            if line["event"] == "start":
                start = line
            elif line["event"] == "step":
                steps[line["step"]] = line
            elif line["event"] == "epoch":
                epochs[line["epoch"]] = line
            elif line["event"] == "retry":
                retries.append(line)
        if not start:
            raise ValueError(
                f'{path} must begin with a line of event "start"; there is none: train in a new RUN folder'
            )
        return cls(recipe, start, [steps[n] for n in sorted(steps)], [epochs[n] for n in sorted(epochs)], retries)


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(
            f"run {path.parent} must have a {path.name}; there is none: start the run with `alexnet train`"
        )


def _parse_line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
        counter = line["event"] if line["event"] in ("step", "epoch") else None
        if counter and not isinstance(line[counter], (int, float)):
            raise TypeError(f"{counter} must be a number")
    except (ValueError, RecursionError, TypeError, KeyError) as error:
        raise ValueError(f"{path}, line {number} must be an event; got {text[:60]!r}: remove it") from error
    return line

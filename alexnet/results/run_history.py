"""What a run tells of its training: its recipe, the facts of its start, and its losses and errors (metrics.jsonl)."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet.recipe import Recipe


@dataclass(frozen=True)
class RunHistory:
    """A training so far.

    Args:
        recipe: What it does.
        start: The facts of its first line: store, pictures, device and so on.
        steps: Lines of losses within the epochs, by step: step, rate, loss.
        epochs: A line per epoch, by epoch; see `alexnet.training.metrics.epoch_metrics`.
    """

    recipe: Recipe
    start: dict[str, Any]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]

    def place(self, line: dict[str, Any]) -> float:
        """How many epochs were done at a line; runs of version 0.1 counted only steps."""
        per_epoch = math.ceil(int(self.start["train_pictures"]) / self.recipe.batch_size)
        return float(line.get("epoch", line["step"] / per_epoch))

    @classmethod
    def read(cls, run: Path) -> "RunHistory":
        """Read RUN/recipe.json and RUN/metrics.jsonl, while that is being written too.

        A training that was killed and went on may repeat a step or an epoch: its last account counts. The line that
        is being written at this moment is left out.

        Raises:
            FileNotFoundError: There is no recipe.json or no metrics.jsonl.
            ValueError: A line is no event, or the first one is missing.
        """
        path = run / "metrics.jsonl"
        for needed in (run / "recipe.json", path):
            if not needed.exists():
                raise FileNotFoundError(
                    f"run {run} must hold {needed.name}; there is none: start it with `alexnet train`"
                )
        start: dict[str, Any] = {}
        steps: dict[int, dict[str, Any]] = {}
        epochs: dict[int, dict[str, Any]] = {}
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        for number, text in enumerate(whole.splitlines(), 1):
            try:
                line = json.loads(text)
                event = line["event"]
            except (json.JSONDecodeError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number} must be an event; got {text[:60]!r}: remove it") from error
            if event == "start":
                start = line
            elif event == "step":
                steps[line["step"]] = line
            elif event == "epoch":
                epochs[line["epoch"]] = line
        if not start:
            raise ValueError(
                f'{path} must begin with a line of event "start"; there is none: train in a new RUN folder'
            )
        recipe = Recipe.from_json((run / "recipe.json").read_text(encoding="utf-8"))
        return cls(recipe, start, [steps[n] for n in sorted(steps)], [epochs[n] for n in sorted(epochs)])

"""Lines of metrics.jsonl, and runs that have only these and a recipe."""

import json
from pathlib import Path
from typing import Any

from alexnet.recipe import Recipe

START = {"event": "start", "train_pictures": 100, "classes": 10, "store": "somewhere"}


def epoch(number: int, **values: Any) -> dict[str, Any]:
    """Return a line of event "epoch"."""
    line = {"event": "epoch", "epoch": number, "step": 10 * number, "rate": 0.01, "train_loss": 2.0 / number}
    line |= {"train_error": 0.9 / number, "val_top1_error": 0.8 / number, "val_top5_error": 0.2, "val_log_prob": 1.9}
    return line | values


def step(number: int, **values: Any) -> dict[str, Any]:
    """Return a line of event "step"."""
    return {"event": "step", "step": number, "rate": 0.01, "loss": 3.0 / number} | values


def write_run(path: Path, *lines: dict[str, Any], end: str = "") -> Path:
    """Write a run of five epochs with these lines, and return its folder."""
    path.mkdir(exist_ok=True)
    (path / "recipe.json").write_text(Recipe(batch_size=9, epochs=5).to_json())
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return path

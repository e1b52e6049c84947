"""What several files of tests read of a run: its metrics and its checkpoints."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import Checkpoint, load_best, load_checkpoint

TIMES = {"pictures_per_second", "waited_seconds", "seconds"}  # fields that differ from run to run


def refuse_constant(name: str) -> None:
    """Fail on NaN and infinity, which Python's parser accepts."""
    raise AssertionError(f"{name} is not JSON")


def read_metrics(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of metrics.jsonl, or those of one event, without the measured times."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    lines = [json.loads(line, parse_constant=refuse_constant) for line in text.splitlines()]
    # A run that was stopped has lines "resume" that another has not; they are read by name only.
    selected = [line for line in lines if event == line["event"] or (event is None and line["event"] != "resume")]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in selected]


def checkpoint_steps(run: Path) -> list[int]:
    """Return the steps of the checkpoints from which a run can be resumed."""
    return [int(path.stem.removeprefix("step-")) for path in list_checkpoints(run)]


def load_last(run: Path) -> Checkpoint:
    """Read the last checkpoint of a run."""
    return load_checkpoint(list_checkpoints(run)[-1])


def assert_same_run(run: Path, expected: Path) -> None:
    """Check that two runs have the same weights, velocities, random state, best net and metrics, bit for bit."""
    for actual, other in ((load_last(run), load_last(expected)), (load_best(run), load_best(expected))):
        assert actual.tensors.keys() == other.tensors.keys()
        for name, tensor in other.tensors.items():
            assert torch.equal(actual.tensors[name], tensor), name
        states = [(s.step, s.epoch, s.batch, s.totals, s.error, s.finished) for s in (actual.state, other.state)]
        assert states[0] == states[1]
    assert load_last(run).state.plateau == load_last(expected).state.plateau
    assert read_metrics(run) == read_metrics(expected)


def plateau_recipe(recipe: Recipe) -> Recipe:
    """Return a training that cannot improve: the rate is too small to change any prediction."""
    return replace(recipe, schedule="plateau", learning_rate=1e-12, decay=0.0, patience=2, falls=2, epochs=50)

"""What a training says at its start, on standard error: what is trained, on what, for how long at most."""

import json
import math
import sys
from pathlib import Path

import torch

from alexnet.distributed.team import Team
from alexnet.recipes import closest_recipe
from alexnet.training.checkpoint import TrainState
from alexnet.training.checkpointer import Checkpointer
from alexnet.training.error_rates import split_adjective
from alexnet.training.finetune import Taken
from alexnet.training.precision import uses_bfloat16
from alexnet.training.schedule import Schedule
from alexnet.utils.console import count_of

_NAMED_FIELDS = 8


def print_start(
    checkpointer: Checkpointer, schedule: Schedule, state: TrainState, taken: Taken, start_from: str | Path | None
) -> None:
    """Print what is trained, on what, and for how long at most.

    Args:
        checkpointer: It has the run's folder, and what is trained.
        schedule, state: When the training ends, and how far it is.
        taken, start_from: The start values that were taken from another run, and this run.
    """
    run, recipe, store, team = checkpointer.run, checkpointer.recipe, checkpointer.store, checkpointer.team
    name, differences = closest_recipe(recipe)
    lines = [f"{run}: recipe {name}{', unchanged' if not differences else ', with'}"]
    if differences:
        fields = [f"{path} {_format(new)} ({_format(old)})" for path, old, new in differences[:_NAMED_FIELDS]]
        more = len(differences) - _NAMED_FIELDS
        lines[0] += f" {', '.join(fields)}" + (f" and {more} more (recipe.json)" if more > 0 else "")
    train, validation = len(store.split("train")), store.validation()
    lines.append(
        f"{store.path}: {train:,} training and {len(validation):,} {split_adjective(validation.name)} pictures, "
        f"{len(store.classes):,} classes"
    )
    lines.append(f"{_describe_device(team)}, {'bfloat16' if uses_bfloat16(team.device, recipe) else 'float32'}")
    steps = math.ceil(train / recipe.batch_size)
    lines.append(f"{schedule.describe_length()}; {count_of(steps, 'step')} an epoch")
    if state.finished:
        lines.append(
            f"was finished before, after {count_of(state.epoch, 'epoch')} and {count_of(state.step, 'step')}: "
            "nothing is left to do"
        )
    elif state.step:
        lines.append(f"resumes from step {state.step:,}, in epoch {state.epoch + 1}")
    if taken.layers:
        lines.append(taken.describe(str(start_from), len(store.classes)))
        random = [layer for layer in recipe.frozen if layer not in taken.layers]
        if random:
            lines.append(f"frozen at random start values, as they are not taken: {', '.join(random)}")
    print("\n".join(lines), file=sys.stderr)


def _describe_device(team: Team) -> str:
    """Return what computes."""
    device = f"device {team.device}"
    if team.device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(team.device)})"
    else:
        device += f" ({count_of(torch.get_num_threads(), 'thread')})"
    return device if team.world_size == 1 else f"{team.world_size} processes ({team.scheme}), {device}"


def _format(value: object) -> str:
    """Return a field's value as `--set` takes it; one that is longer than a list of all layers is cut off."""
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Going back to an earlier checkpoint after a divergence, at half the learning rate (`train --on-divergence retry`).

A training goes back to the end of its last epoch, or to its start. Unlike the latest checkpoint, whose time depends on
the speed of the machine, this one is the same in each run with the same seed. So a training that was stopped ends with
the same bits as one that was not, also after a divergence.
"""

import dataclasses
import json
import os
from pathlib import Path

from alexnet.models.weight_files import list_checkpoints
from alexnet.training.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from alexnet.training.divergence import MAX_RETRIES, DivergenceError
from alexnet.utils.checksums import checksum


def go_back(run: Path, error: DivergenceError, epoch_step: int) -> str | None:
    """Make the last epoch's checkpoint the latest one, with half its learning rate, and record it in metrics.jsonl.

    A kill at any place leaves a run that diverges again, and then goes back in the same way.

    Args:
        run: The run's folder, which no other process uses.
        error: The divergence.
        epoch_step: Steps done at the end of the last epoch.

    Returns:
        What was done, in a line; None if the training has gone back too often, or there is no checkpoint.
    """
    paths = list_checkpoints(run)
    target = run / "checkpoints" / checkpoint_name(epoch_step)
    target = target if target in paths or not paths else paths[0]  # a run that was begun without `retry` may lack it
    if not paths:
        return None
    checkpoint = load_checkpoint(target)
    state = checkpoint.state
    if state.retries >= MAX_RETRIES:
        return None
    for path in reversed(paths):
        if path > target:
            path.unlink()
    state = dataclasses.replace(state, retries=state.retries + 1, rate_factor=state.rate_factor / 2)
    # Not the step of the divergence: a checkpoint, written after ten minutes, finds it one step before the loss does.
    line = {"event": "retry", "step": state.step, "retry": state.retries, "rate_factor": state.rate_factor}
    state.metrics_bytes = _append(run / "metrics.jsonl", state.metrics_bytes, f"{json.dumps(line)}\n".encode())
    files = {name: (run / name).read_bytes() for name in ("recipe.json", "metrics.jsonl")}
    save_checkpoint(
        target,
        {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("statistics.")},
        recipe=checkpoint.recipe,
        classes=checkpoint.classes,
        statistics=checkpoint.statistics,
        state=state,
        class_ids=checkpoint.class_ids,
        files={name: checksum(contents) for name, contents in files.items()},
    )
    return (
        f"{error.finding}; going back to step {state.step}, with {state.rate_factor:g} times the learning rate (try "
        f"{state.retries} of {MAX_RETRIES})"
    )


def _append(path: Path, length: int, line: bytes) -> int:
    """Cut a file off at a length, append a line, and return the new length."""
    with path.open("r+b") as file:
        file.truncate(length)
        file.seek(0, os.SEEK_END)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()

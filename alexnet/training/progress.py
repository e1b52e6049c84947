"""What a training shows on standard error: the time it will take, a bar within an epoch, and a line after it."""

import sys
import time
from datetime import timedelta
from typing import Any

from tqdm import tqdm

from alexnet.data.store.store import Store
from alexnet.training.checkpoint import TrainState
from alexnet.training.error_rates import split_adjective
from alexnet.training.estimate import FORWARD_SHARE
from alexnet.training.schedule import Schedule
from alexnet.utils.console import format_duration
from alexnet.utils.intervals import format_error_rate
from alexnet.utils.progress import Progress

_UNTIMED_STEPS, _TIMED_STEPS = 5, 20  # the first steps compile and allocate


def epoch_progress(state: TrainState, total_epochs: int | None, batches: int, *, shown: bool) -> Progress:
    """Return the progress of the rest of an epoch.

    Args:
        state: The state of the training.
        total_epochs: Epochs of the whole training; None if not known.
        batches: Batches of the epoch.
        shown: Whether to show it.
    """
    label = f"epoch {state.epoch + 1}/{total_epochs or '?'}"
    return Progress(label, batches, "batches", done=state.batch, shown=shown)


class TimeLeft:
    """Says how long the training will take, once, from the time of the first steps of this call.

    Args:
        schedule: The schedule of the training.
        store: The pictures.
        is_upper_bound: Whether later epochs take less time than the first ones.
        shown: Whether to say anything.
    """

    def __init__(self, schedule: Schedule, store: Store, *, is_upper_bound: bool, shown: bool) -> None:
        self._schedule = schedule
        self._validation_share = len(store.validation()) / len(store.split("train"))
        self._is_upper_bound, self._shown = is_upper_bound or schedule.may_end_early(), shown
        self._steps, self._start_time = 0, 0.0

    def count_step(self, state: TrainState, batches: int) -> None:
        """Count a step, of an epoch with so many batches; after the last one that is timed, print the time left."""
        self._steps += 1
        if self._steps == _UNTIMED_STEPS:
            self._start_time = time.monotonic()
        if self._steps != _TIMED_STEPS or not self._shown:
            return
        seconds = (time.monotonic() - self._start_time) / (_TIMED_STEPS - _UNTIMED_STEPS)
        epoch_seconds = seconds * batches * (1 + FORWARD_SHARE * self._validation_share)
        tqdm.write(f"after {_TIMED_STEPS} steps: {self._describe(state, batches, epoch_seconds)}", file=sys.stderr)

    def _describe(self, state: TrainState, batches: int, epoch_seconds: float) -> str:
        """Return the time that is left, in a line, given the time of an epoch with crops of the current size."""
        line = f"an epoch takes about {format_duration(epoch_seconds)}"
        total = self._schedule.total_epochs()
        if total is None:
            return f"{line}; how many there will be depends on the validation error"
        size = self._schedule.image_size_in(state.epoch)
        epochs = sum((self._schedule.image_size_in(epoch) / size) ** 2 for epoch in range(state.epoch, total))
        left = format_duration((epochs - state.batch / batches) * epoch_seconds)
        return f"{line}, the training {'at most about ' if self._is_upper_bound else 'about '}{left} from here"


def print_epoch(metrics: dict[str, Any], classes: int, total_epochs: int | None, end_reason: str | None = None) -> None:
    """Print a line for an epoch on standard error.

    Args:
        metrics: What `epoch_metrics` returned.
        classes: The number of classes; the top-5 error is not printed if five guesses name them all.
        total_epochs: Epochs of the whole training; None if not known.
        end_reason: Why the training ends after it, which is printed, too.
    """
    left: timedelta | str = "?"
    if total_epochs is not None:
        seconds_per_epoch = metrics["seconds"] / metrics["epoch"]
        left = timedelta(seconds=round(seconds_per_epoch * (total_epochs - metrics["epoch"])))
    images = metrics["images"]
    top5 = f", top-5 {format_error_rate(metrics['val_top5_error'], images)}" if classes > 5 else ""
    tqdm.write(
        f"epoch {metrics['epoch']:3d}/{total_epochs or '?'}  rate {metrics['rate']:.3g}  "
        f"loss {metrics['train_loss']:.4f}  "
        f"training error {format_error_rate(metrics['train_error'], metrics['train_images'])}  "
        f"{split_adjective(metrics['split'])} error {format_error_rate(metrics['val_top1_error'], images)}{top5}  "
        f"{metrics['pictures_per_second']:.0f} pictures/s  {left} left",
        file=sys.stderr,
    )
    if end_reason is not None:
        tqdm.write(f"ended after epoch {metrics['epoch']}: {end_reason}", file=sys.stderr)

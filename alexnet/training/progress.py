"""What a training shows on standard error: a bar within an epoch, and a line after it."""

import sys
from datetime import timedelta
from typing import Any

from tqdm import tqdm

from alexnet.training.checkpoint import TrainState
from alexnet.training.error_rates import split_adjective
from alexnet.utils.intervals import format_error_rate


def progress_bar(state: TrainState, total_epochs: int | None, batches: int, *, shown: bool) -> Any:
    """Return a bar for the rest of the epoch. It is shown on a terminal only, and removed at the end of the epoch.

    Args:
        state: The state of the training.
        total_epochs: Epochs of the whole training; None if not known.
        batches: Batches of the epoch.
        shown: Whether to show it.
    """
    return tqdm(
        desc=f"epoch {state.epoch + 1}/{total_epochs or '?'}",
        total=batches,
        initial=state.batch,
        unit="batch",
        leave=False,
        disable=not (shown and sys.stderr.isatty()),
    )


def print_epoch(metrics: dict[str, Any], total_epochs: int | None) -> None:
    """Print a line for an epoch on standard error.

    Args:
        metrics: What `epoch_metrics` returned.
        total_epochs: Epochs of the whole training; None if not known.
    """
    left: timedelta | str = "?"
    if total_epochs is not None:
        seconds_per_epoch = metrics["seconds"] / metrics["epoch"]
        left = timedelta(seconds=round(seconds_per_epoch * (total_epochs - metrics["epoch"])))
    images = metrics["images"]
    tqdm.write(
        f"epoch {metrics['epoch']:3d}/{total_epochs or '?'}  rate {metrics['rate']:.2g}  "
        f"loss {metrics['train_loss']:.4f}  "
        f"training error {format_error_rate(metrics['train_error'], metrics['train_images'])}  "
        f"{split_adjective(metrics['split'])} error {format_error_rate(metrics['val_top1_error'], images)}, "
        f"top-5 {format_error_rate(metrics['val_top5_error'], images)}  "
        f"{metrics['pictures_per_second']:.0f} pictures/s  {left} left",
        file=sys.stderr,
    )

"""What a training tells: metrics.jsonl, TensorBoard's files, and lines on standard error."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import torch
from tqdm import tqdm

from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import TrainState
from alexnet.training.error_rates import ErrorRates
from alexnet.training.precision import uses_bfloat16
from alexnet.training.schedule import LearningRates


class MetricsWriter:
    """metrics.jsonl, a line per event, cut to what the checkpoint knows of; TensorBoard's files beside it if asked.

    Without a run nothing is written: of several processes one tells.
    """

    def __init__(self, run: Path | None, length: int, step: int, *, tensorboard: bool) -> None:
        self.board: Any = None
        self.path = run / "metrics.jsonl" if run else Path(os.devnull)
        if run is None:
            self.file: TextIO = self.path.open("a", encoding="utf-8")
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError("--tensorboard needs a package: pip install tensorboard") from error
            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step)
        self.file = self.path.open("a", encoding="utf-8")
        # Lines after the checkpoint are cut off; a file that has lost some stays as it is.
        self.file.truncate(min(length, self.length()))

    def write(self, event: str, **values: Any) -> None:
        """Add a line."""
        self.file.write(json.dumps({"event": event, **values}) + "\n")
        self.file.flush()
        for name, value in values.items() if self.board else ():
            if isinstance(value, (int, float)) and name != "step":
                self.board.add_scalar(f"{event}/{name}", value, values.get("step", 0))

    def length(self) -> int:
        """Bytes written."""
        return self.path.stat().st_size

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def progress_bar(at: TrainState, total_epochs: int | None, batches: int, *, shown: bool) -> Any:
    """A bar for the rest of the epoch, on a terminal only; it is gone when the epoch's line is printed."""
    return tqdm(
        desc=f"epoch {at.epoch + 1}/{total_epochs or '?'}",
        total=batches,
        initial=at.batch,
        unit="batch",
        leave=False,
        disable=not (shown and sys.stderr.isatty()),
    )


def describe_start(recipe: Recipe, store: Store, team: Team) -> dict[str, Any]:
    """The facts of the first line of metrics.jsonl."""
    with torch.device("meta"):  # the whole net, of which a process may have a part
        net = AlexNet(len(store.classes), recipe.net)
    return {
        "store": str(store.path.resolve()),
        "classes": len(store.classes),
        "train_pictures": len(store.split("train")),
        "validation_pictures": len(store.validation()),
        "validation_split": store.validation().name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "device": str(team.device),
        "parallel": team.scheme,
        "processes": team.world_size,
        "threads": torch.get_num_threads(),
        "bfloat16": uses_bfloat16(team.device, recipe),
        "torch": torch.__version__,
        "seed": recipe.seed,
    }


def epoch_metrics(at: TrainState, now: LearningRates, found: ErrorRates, speed: float, waited: float) -> dict[str, Any]:
    """What an epoch's line of metrics.jsonl says."""
    return {
        "epoch": at.epoch,
        "step": at.step,
        "rate": now.highest,
        "train_loss": at.totals["loss"] / at.totals["pictures"],
        "train_error": at.totals["errors"] / at.totals["pictures"],
        "val_top1_error": found.top1_error,
        "val_top5_error": found.top5_error,
        "val_log_prob": found.log_prob,
        "pictures_per_second": speed,
        "waited_seconds": waited,
        "seconds": at.seconds,
    }


def print_epoch(line: dict[str, Any], total: int | None) -> None:
    """Print an epoch's progress line on standard error; `total` epochs are to be done, if that is known."""
    left: timedelta | str = "?"
    if total is not None:
        left = timedelta(seconds=round(line["seconds"] / line["epoch"] * (total - line["epoch"])))
    tqdm.write(
        f"epoch {line['epoch']:3d}/{total or '?'}  rate {line['rate']:.2g}  loss {line['train_loss']:.4f}  "
        f"train error {line['train_error']:.2%}  validation error {line['val_top1_error']:.2%} "
        f"(top-5 {line['val_top5_error']:.2%})  {line['pictures_per_second']:.0f} pictures/s  "
        f"{left} left",
        file=sys.stderr,
    )

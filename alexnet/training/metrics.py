"""What a training writes down: metrics.jsonl, and TensorBoard's event files."""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import torch

from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import TrainState
from alexnet.training.consistency import describe_pictures
from alexnet.training.error_rates import ErrorRates
from alexnet.training.precision import uses_bfloat16
from alexnet.utils.extras import missing_extra


class EpochStats(NamedTuple):
    """How an epoch of training went.

    Args:
        rate: Learning rate of its last step.
        pictures_per_second: Speed of the steps, over all processes.
        waited_seconds: Seconds that the loop waited for batches.
    """

    rate: float
    pictures_per_second: float
    waited_seconds: float


class MetricsWriter:
    """Writes metrics.jsonl, one line per event, and TensorBoard's event files.

    Args:
        run: The run's folder; None to write nothing, since only one of several processes writes.
        length: Bytes of metrics.jsonl to keep: those written before the checkpoint from which the training resumes.
        step: Steps done.
        tensorboard: Whether to write TensorBoard event files, too.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, run: Path | None, length: int, step: int, *, tensorboard: bool) -> None:
        self._tensorboard: Any = None
        self._path = run / "metrics.jsonl" if run else Path(os.devnull)
        if run is None:
            self._file: TextIO = self._path.open("a", encoding="utf-8")
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise missing_extra("writing TensorBoard's files", "tensorboard", error) from error
            self._tensorboard = SummaryWriter(str(run / "tensorboard"), purge_step=step)
        self._file = self._path.open("a", encoding="utf-8")
        self._file.truncate(min(length, self.length()))  # a file that has lost lines stays as it is

    def write(self, event: str, **values: Any) -> None:
        """Write a line."""
        self._file.write(json.dumps({"event": event, **values}) + "\n")
        self._file.flush()
        for name, value in values.items() if self._tensorboard else ():
            if isinstance(value, (int, float)) and name != "step":
                self._tensorboard.add_scalar(f"{event}/{name}", value, values.get("step", 0))

    def length(self) -> int:
        """Return the number of bytes in the file."""
        return self._path.stat().st_size

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._tensorboard:
            self._tensorboard.close()


def check_planned_hours(run: Path, hours: float) -> None:
    """Raise a ValueError unless the epochs of a run that has begun were planned for this time."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        planned = json.loads(file.readline()).get("hours")
    if planned != hours:
        begun = "without hours" if planned is None else f"with `hours={planned:g}`"
        raise ValueError(
            f"hours must be those that run {run} was planned for; it was begun {begun}; got {hours:g}: leave `hours` "
            "out to go on, or use another RUN folder"
        )


def start_metrics(recipe: Recipe, store: Store, team: Team) -> dict[str, Any]:
    """Return the values of the line "start": the data, the size of the net, the hardware."""
    with torch.device("meta"):  # the full net, of which a process may have a shard only
        net = AlexNet(len(store.classes), recipe.net)
    return {
        "store": str(store.path.resolve()),
        "pictures": describe_pictures(store),
        "classes": len(store.classes),
        "train_pictures": len(store.split("train")),
        "validation_pictures": len(store.validation()),
        "validation_split": store.validation().name,
        "parameters": sum(p.numel() for p in net.parameters()),
        **machine_metrics(recipe, team),
        "seed": recipe.seed,
    }


def machine_metrics(recipe: Recipe, team: Team) -> dict[str, Any]:
    """Return the values of the lines "start" and "resume" that say what computes, and how."""
    return {
        "device": str(team.device),
        "parallel": team.scheme,
        "processes": team.world_size,
        "threads": torch.get_num_threads(),
        "bfloat16": uses_bfloat16(team.device, recipe),
        "torch": torch.__version__,
        "version": metadata.version("alexnet"),
    }


def epoch_metrics(state: TrainState, stats: EpochStats, split: str, errors: ErrorRates) -> dict[str, Any]:
    """Return the values of a line "epoch".

    Args:
        state, stats: The training after the epoch, and how the epoch went.
        split: The split whose errors were measured after it: "val", or "test" if those are not validation pictures.
        errors: These errors.
    """
    return {
        "epoch": state.epoch,
        "step": state.step,
        "rate": stats.rate,
        "train_loss": state.totals["loss"] / state.totals["pictures"],
        "train_error": state.totals["errors"] / state.totals["pictures"],
        "train_images": int(state.totals["pictures"]),
        "split": split,
        "images": errors.images,
        "val_top1_error": errors.top1_error,
        "val_top5_error": errors.top5_error,
        "val_macro_error": errors.macro_error,
        "val_top1_interval": errors.top1_interval,
        "val_top5_interval": errors.top5_interval,
        "val_macro_interval": errors.macro_interval,
        "val_log_prob": errors.log_prob,
        "pictures_per_second": stats.pictures_per_second,
        "waited_seconds": stats.waited_seconds,
        "seconds": state.seconds,
    }

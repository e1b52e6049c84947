"""Checkpoints: everything a training needs to go on, and a prediction needs to be made, in one safetensors file."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from alexnet.data.store.statistics import Statistics
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.sgd import SGD

_FORMAT = 1
_STATISTICS_FIELDS = ("mean", "covariance", "eigenvalues", "components")


@dataclass
class TrainState:
    """How far a training has come.

    Args:
        step: Steps done.
        epoch: Epochs done.
        batch: Batches done of the current epoch.
        seconds: Time spent training, in seconds.
        totals: Sums over the current epoch so far: loss, errors, pictures.
        error: Lowest top-1 error on the validation set so far, or where there is only a test set the last one on that;
            None before the first.
        plateau: State of the schedule.
        folded: Epochs done when the validation pictures were folded into the training set; None before, and always
            where the schedule is another.
        metrics_bytes: Length of metrics.jsonl at this moment, so that later lines can be cut off on resuming.
        finished: Whether the training has ended.
        micro_batch: Pictures that each process took through the net at a time when the training began.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    error: float | None = None
    plateau: dict[str, Any] = field(default_factory=dict)
    folded: int | None = None
    metrics_bytes: int = 0
    finished: bool = False
    micro_batch: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: the recipe, how far the training was, and the tensors by name."""

    path: Path
    recipe: Recipe
    classes: tuple[str, ...]
    statistics: Statistics
    state: TrainState
    tensors: Mapping[str, Tensor]

    def net(self) -> AlexNet:
        """The net with these weights, ready to predict."""
        with torch.device("meta"):  # no start values are drawn only to be replaced
            net = AlexNet(len(self.classes), self.recipe.net)
        net.load_state_dict(self.with_prefix("net"), assign=True)
        return net.eval()

    def with_prefix(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with "prefix.", by the rest of their names."""
        return {k.removeprefix(f"{prefix}."): v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def gather_tensors(net: AlexNet, optimiser: SGD, team: Team | None = None) -> dict[str, Tensor]:
    """The tensors that a training goes on from: weights, velocity, random state; all processes must call this.

    Returns:
        In the leading process whole tensors by the names they have in the file, whatever each process has of the net.
    """
    team = team or Team()
    named = dict(net.named_parameters())
    tensors = {f"net.{name}": value for name, value in team.gather_full(named).items()}
    velocities = team.gather_full({name: optimiser.velocity(weight) for name, weight in named.items()})
    tensors |= {f"velocity.{name}": value for name, value in velocities.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    device = net.fc8.weight.device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    recipe: Recipe,
    classes: tuple[str, ...],
    statistics: Statistics,
    state: TrainState,
) -> None:
    """Write a checkpoint beside its place and rename it, so that a kill leaves the old one or the new one whole.

    Args:
        path: The file.
        tensors: What `gather_tensors` returns; for a checkpoint to predict with only those that begin with "net.".
        recipe, classes, statistics, state: What else it keeps.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    of_store = {f"statistics.{name}": torch.from_numpy(getattr(statistics, name).copy()) for name in _STATISTICS_FIELDS}
    about = {
        "format": _FORMAT,
        "recipe": json.loads(recipe.to_json()),
        "classes": classes,
        "progress": dataclasses.asdict(state),
        "pictures": statistics.count,
    }
    contents = {name: value.detach().cpu().contiguous() for name, value in (*tensors.items(), *of_store.items())}
    beside = path.with_name(f".{path.name}.writing")
    try:
        save_file(contents, beside, {"alexnet": json.dumps(about)})
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise OSError(f"checkpoint {path} could not be written ({error}): make room or choose another place") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: The file is no checkpoint of this program, or of a newer one.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["alexnet"])
            if about["format"] != _FORMAT:
                raise ValueError(f"it is of format {about['format']}, this program reads {_FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
        statistics = {name: tensors[f"statistics.{name}"].numpy() for name in _STATISTICS_FIELDS}
        return Checkpoint(
            path=path,
            recipe=Recipe.from_json(json.dumps(about["recipe"])),
            classes=tuple(about["classes"]),
            statistics=Statistics(**statistics, count=about["pictures"]),
            state=TrainState(**about["progress"]),
            tensors=tensors,
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        instead = "the last takes its place" if path.stem == "best" else "the training goes on from the one before"
        raise ValueError(
            f"{path} must be a checkpoint of this version of alexnet; it cannot be read as one ({error}): remove it, "
            f"and {instead}"
        ) from error


def load_train_state(path: Path) -> TrainState:
    """How far a checkpoint is, without reading its tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        return TrainState(**json.loads(file.metadata()["alexnet"])["progress"])


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints a training of `run` can go on from, oldest first."""
    return sorted((run / "checkpoints").glob("step-*.safetensors"))


def load_best(run: Path) -> Checkpoint:
    """The checkpoint of `run` to predict with: that of the lowest validation error, or the latest.

    The latest it is where there was no validation set, only a test set: that may not choose.

    Raises:
        FileNotFoundError: `run` is no run, or has no checkpoint yet.
    """
    of_best = run / "checkpoints" / "best.safetensors"
    paths = [of_best] if of_best.exists() else list_checkpoints(run)[-1:]
    if not paths:
        raise FileNotFoundError(f"run {run} must hold a trained net; there is no checkpoint in it: run `alexnet train`")
    return load_checkpoint(paths[0])

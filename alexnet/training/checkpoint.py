"""Checkpoint files: all that is needed to resume a training, or to predict, in one safetensors file."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.statistics import Statistics
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import best_checkpoint, check_checksums
from alexnet.recipe import Recipe
from alexnet.training.sgd import SGD
from alexnet.utils.checksums import seal_header, with_checksums
from alexnet.utils.console import format_error
from alexnet.utils.files import atomic_replacement, check_readable

_FORMAT = 1
_STATISTICS_FIELDS = ("mean", "covariance", "eigenvalues", "components")


@dataclass
class TrainState:
    """How far a training is.

    Args:
        step: Steps done.
        epoch: Epochs done.
        batch: Batches done of the current epoch.
        seconds: Time spent, in seconds.
        totals: Sums over the steps of the current epoch: losses, errors, pictures.
        error: The lowest top-1 error on the validation pictures, or the last one on test pictures; None before the
            first epoch ends.
        log_prob: The mean negative log-probability of the net with this error; None if an earlier version saved it.
        plateau, folded: The state of the schedule.
        metrics_bytes: Length of metrics.jsonl; later lines are removed on resuming.
        finished: Whether the training has come to its end.
        micro_batch: Pictures that each process took through the net at a time when the training began.
        epoch_step: Steps done at the end of the last epoch.
        retries: How often the training has gone back after a divergence.
        rate_factor: Factor on all learning rates: halved each time.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    error: float | None = None
    log_prob: float | None = None
    plateau: dict[str, Any] = field(default_factory=dict)
    folded: int | None = None
    metrics_bytes: int = 0
    finished: bool = False
    micro_batch: int = 0
    epoch_step: int = 0
    retries: int = 0
    rate_factor: float = 1.0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read from a file.

    Args:
        path: The file.
        recipe: The recipe of the training.
        classes: Names of the classes.
        class_ids: The contest's numbers of the classes, if the store has them; else None.
        statistics: Mean activity and colour components of the training pictures.
        state: How far the training was.
        tensors: Weights ("net."), velocities of those that learn ("velocity.") and random state ("random."), by name.
    """

    path: Path
    recipe: Recipe
    classes: tuple[str, ...]
    statistics: Statistics
    state: TrainState
    tensors: Mapping[str, Tensor]
    class_ids: ClassIds | None = None

    def net(self) -> AlexNet:
        """Return the net with these weights, in evaluation mode.

        Raises:
            ValueError: They are those of another net.
        """
        with torch.device("meta"):  # draws no start values, which would be replaced
            net = AlexNet(len(self.classes), self.recipe.net)
        try:
            net.load_state_dict(self.with_prefix("net"), assign=True)
        except RuntimeError as error:
            raise ValueError(
                f"{self.path} must hold the weights of the net that it describes; it does not "
                f"({format_error(error, with_type=False)}): copy it again, or use another checkpoint"
            ) from error
        return net.eval()

    def require_classes(self) -> None:
        """Raise a ValueError that says what to do if the net has no output layer, as some imported nets have none."""
        if not self.classes:
            run = self.path.parent.parent
            raise ValueError(
                f"run {run} must have classes to predict; its net has no output layer: train a new run on top of "
                f"it with `start_from={run}`"
            )

    def with_prefix(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with "prefix.", by the rest of their names."""
        return {k.removeprefix(f"{prefix}."): v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's file after a number of steps; these names sort by it."""
    return f"step-{step:09d}.safetensors"


def gather_tensors(net: AlexNet, optimiser: SGD, team: Team | None = None) -> dict[str, Tensor]:
    """Gather what a training is resumed from: weights, velocities, random state. All processes must call this.

    Args:
        net, optimiser: This process's shard of what is trained.
        team: The processes; by default this one alone.

    Returns:
        In the main process: the full tensors, by the names that they have in the file.
    """
    team = team or Team()
    weights = dict(net.named_parameters())
    velocities = {name: optimiser.velocity(weight) for name, weight in weights.items() if weight.requires_grad}
    tensors = {f"net.{name}": tensor for name, tensor in team.gather_full(weights).items()}
    tensors |= {f"velocity.{name}": tensor for name, tensor in team.gather_full(velocities).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    device = net.device
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
    class_ids: ClassIds | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write a checkpoint under a temporary name and rename it, so that a kill leaves the old file or the new one.

    Args:
        path: The file.
        tensors: What `gather_tensors` returned; to predict only, those whose names begin with "net.".
        recipe, classes, statistics, state, class_ids: As in `Checkpoint`.
        files: The checksums of other files of the run, by name; of metrics.jsonl, of its first `state.metrics_bytes`.

    Raises:
        OSError: The file cannot be written; the old one remains.
    """
    metadata = {
        "format": _FORMAT,
        "recipe": json.loads(recipe.to_json()),
        "classes": classes,
        "progress": dataclasses.asdict(state),
        "pictures": statistics.count,
        "files": dict(files or {}),
    }
    if class_ids is not None:
        metadata |= class_ids.to_metadata()
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name in _STATISTICS_FIELDS:
        contents[f"statistics.{name}"] = torch.from_numpy(getattr(statistics, name).copy())
    try:
        with atomic_replacement(path, path.with_name(f".{path.name}.writing")) as temporary:
            save_file(contents, temporary, {"alexnet": json.dumps(with_checksums(metadata, contents))})
            seal_header(temporary)
    except (OSError, safetensors.SafetensorError) as error:
        raise OSError(
            f"checkpoint {path} could not be written ({error}): free some space, or use another RUN folder"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ValueError: The file is no checkpoint of this program, or one of a newer version; or it is damaged.
    """
    instead = "the last one is used instead" if path.stem == "best" else "the training resumes from the one before"
    try:
        check_checksums(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["alexnet"])
            if metadata["format"] != _FORMAT:
                raise ValueError(f"its format is {metadata['format']}, this program reads {_FORMAT}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
        statistics = {name: tensors[f"statistics.{name}"].numpy() for name in _STATISTICS_FIELDS}
        return Checkpoint(
            path=path,
            recipe=Recipe.from_json(json.dumps(metadata["recipe"])),
            classes=tuple(metadata["classes"]),
            statistics=Statistics(**statistics, count=metadata["pictures"]),
            state=TrainState(**metadata["progress"]),
            tensors=tensors,
            class_ids=ClassIds.from_metadata(metadata),
        )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must be a checkpoint of this version of alexnet; it cannot be read ({error}): remove it, and "
            f"{instead}"
        ) from error


def load_train_state(path: Path) -> TrainState:
    """Read how far a checkpoint's training was, without its tensors."""
    check_readable(path)
    with safetensors.safe_open(path, framework="pt") as file:
        return TrainState(**json.loads(file.metadata()["alexnet"])["progress"])


def load_mean(path: Path) -> np.ndarray:
    """Read the mean activity (3, size, size) that a checkpoint's net subtracts, without its other tensors."""
    with safetensors.safe_open(path, framework="np") as file:
        mean: np.ndarray = file.get_tensor("statistics.mean")
        return mean


def load_best(run: Path) -> Checkpoint:
    """Read the checkpoint to predict with, as `best_checkpoint` chooses it.

    Raises:
        FileNotFoundError: `run` is no run, or has no checkpoint yet.
    """
    return load_checkpoint(best_checkpoint(run))

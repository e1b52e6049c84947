"""Reading a net from a file: a checkpoint of a run, or what `alexnet export` writes (docs/formats.md)."""

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from alexnet.architecture import Net
from alexnet.checked import build
from alexnet.recipe import Recipe
from alexnet.utils.checksums import damaged_parts
from alexnet.utils.files import check_readable

_NAME_IN_CHECKPOINT = re.compile(r"net\.(?:convs\.|hidden\.)?(\w+)\.(?:0\.)?(weight|bias)")


def list_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints from which the training of a run can be resumed, oldest first."""
    return sorted((run / "checkpoints").glob("step-*.safetensors"))


def best_checkpoint(run: Path) -> Path:
    """Return the checkpoint to predict with: that of the lowest validation error, or the latest one.

    Of epochs with the same error, it is the one with the best log-probability (`ErrorRates.is_better_than`).
    There is no best one if the store has no validation pictures: test pictures may not select it.

    Raises:
        FileNotFoundError: `run` is no run, or has no checkpoint yet.
        PermissionError: This user may not read its folder.
        ValueError: It has no checkpoint yet, and its recipe.json is damaged.
    """
    best = run / "checkpoints" / "best.safetensors"
    if best.parent.is_dir():
        next(best.parent.iterdir(), None)  # raises a PermissionError, where the search below would find nothing
    paths = [best] if best.exists() else list_checkpoints(run)[-1:]
    if not paths and not run.is_dir():
        raise FileNotFoundError(f"run {run} must be the folder of a trained net; there is no such folder")
    if not paths and (run / "recipe.json").exists():
        Recipe.load(run / "recipe.json")  # a damaged one is what must be mended first: `train` would refuse it, too
    if not paths:
        raise FileNotFoundError(f"run {run} must hold a trained net; there is no checkpoint in it: run `alexnet train`")
    return paths[0]


def read_architecture(path: Path) -> tuple[Net, tuple[str, ...]]:
    """Read what net a file holds the weights of.

    Args:
        path: A checkpoint of a run, or a safetensors file that `alexnet export` wrote.

    Returns:
        The net, and the names of its classes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another file.
    """
    with _open(path) as file:
        metadata = file.metadata() or {}
    try:
        description = json.loads(metadata["alexnet"])
        recipe = description.get("recipe")  # of a checkpoint
        net = Recipe.from_json(json.dumps(recipe)).net if recipe else build(Net, description["net"], "net")
        return net, tuple(description["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} must tell its net and classes in its metadata; it does not ({type(error).__name__}: {error}): "
            "use a checkpoint of a run, or a file that this version's `alexnet export` wrote"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights and biases of a file.

    Args:
        path: A checkpoint of a run, or a safetensors file with plain names, as `alexnet export` writes it.

    Returns:
        By plain names: "conv1.weight", "conv1.bias", and so on.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a safetensors file, or is damaged.
    """
    with _open(path) as file:
        check_checksums(path)
        names = file.keys()
        matches = [match for match in map(_NAME_IN_CHECKPOINT.fullmatch, names) if match]
        plain = {match[0]: f"{match[1]}.{match[2]}" for match in matches} or {n: n for n in names if n != "mean"}
        return {plain_name: file.get_tensor(name) for name, plain_name in plain.items()}


def check_checksums(path: Path) -> None:
    """Raise a ValueError that names what is damaged of a safetensors file, if it has checksums and they are not right.

    This reads the file once, at the speed of memory: 2 % of the time that `alexnet predict` takes to start.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as contents:
        parts = damaged_parts(memoryview(contents))
    if parts:
        raise ValueError(
            f"{path} is damaged, or was changed by another program: {', '.join(parts)}: copy it again, or use another "
            "checkpoint"
        )


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a safetensors file; there is no such file: check the path")
    check_readable(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} must be a safetensors file; it cannot be read ({error}): use a checkpoint of a run or a file that "
            "`alexnet export` wrote, and copy it again if it was cut off"
        ) from error


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor], path: Path) -> None:
    """Copy the weights and biases of a file into those of a net; copy none if one does not fit.

    Args:
        weights: Those of the file, by plain names.
        parameters: Those of the net, by the same names; changed.
        path: The file, for the message.

    Raises:
        ValueError: One is missing, has another shape, or is of a layer that the net lacks.
    """
    advice = "build the net with the classes and the `Net` of that file, as `AlexNet.from_run` does"
    for name, parameter in parameters.items():
        layer, shape = name.partition(".")[0], tuple(parameter.shape)
        if name not in weights:
            raise ValueError(f"{path} must have layer {layer}, with {name} of shape {shape}; it has none: {advice}")
        if weights[name].shape != parameter.shape:
            raise ValueError(
                f"{path} must have layer {layer} with {name} of shape {shape}, as this net; "
                f"got {tuple(weights[name].shape)}: {advice}"
            )
    layers, file_layers = (dict.fromkeys(name.partition(".")[0] for name in names) for names in (parameters, weights))
    if unknown := [layer for layer in file_layers if layer not in layers]:
        raise ValueError(
            f"{path} must have no other layers than this net ({', '.join(layers)}); got {', '.join(unknown)}: {advice}"
        )
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])

"""A run from the net of another program, with which every command works."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.convert.assemble import assemble
from alexnet.convert.caffe_mean import read_caffe_mean
from alexnet.convert.class_names import ClassNames, numbered_names, read_class_names
from alexnet.convert.imagenet import imagenet_statistics
from alexnet.convert.read_foreign_net import read_foreign_net
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import TrainState, checkpoint_name, save_checkpoint
from alexnet.utils.files import exclusive_lock, write_atomic

_STORE_SIZE = 256


@dataclass(frozen=True)
class ImportedRun:
    """What was imported.

    Args:
        run: The folder of the run.
        format: What the file is: "torchvision", "Caffe" or "ONNX".
        recipe: The recipe, with the net.
        classes: The names of the classes; empty for a net without an output layer.
        parameters: The number of weights and biases.
        has_names: Whether the classes have names, or only numbers.
    """

    run: Path
    format: str
    recipe: Recipe
    classes: tuple[str, ...]
    parameters: int
    has_names: bool


def import_net(
    file: str | Path,
    run: str | Path,
    *,
    classes: str | Path | None = None,
    mean: str | Path | None = None,
    image_size: int | None = None,
) -> ImportedRun:
    """Make a run from a net of torchvision or Caffe. Nothing that is in the file is run.

    Args:
        file: torchvision's AlexNet (.pth or .safetensors; the convolutions alone are enough), or Caffe's AlexNet or
            CaffeNet (.caffemodel or .onnx).
        run: The folder of the run: a new one, or an empty one.
        classes: A text file with the name of each class in a line, in the order of the net's outputs; or a store with
            the same classes. By default they are numbered.
        mean: What Caffe subtracted from the pictures: a .binaryproto or .npy file, or "B,G,R" in 0..255 units. By
            default what the file says, or 104,117,123.
        image_size: Side of the net's input, in pixels; by default what the file says, or 224 for torchvision and 227
            for Caffe.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of no known format, needs code to be run, is damaged, or holds another architecture; the
            classes do not match; or `run` is not empty.
        OSError: The run cannot be written; nothing of it remains.
    """
    file, run = Path(file), Path(run)
    _check_run(run)
    foreign = read_foreign_net(file)
    if mean is not None:
        if foreign.channels != "BGR":
            raise ValueError(f"--mean must be given for Caffe's nets only; {file} is of {foreign.format}")
        foreign = replace(foreign, mean=read_caffe_mean(mean, _STORE_SIZE))
    if image_size is not None:
        foreign = replace(foreign, image_size=image_size)
    try:
        net, count, weights = assemble(foreign)
        recipe = Recipe(net=net, store_size=_STORE_SIZE)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    names = _class_names(file, classes, count)
    tensors = _checkpoint_tensors(net, weights, names)
    imported = ImportedRun(
        run=run,
        format=foreign.format,
        recipe=recipe,
        classes=names.names,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        has_names=classes is not None,
    )
    origin = {"file": str(file.resolve()), "sha256": _sha256(file), "format": foreign.format}
    _write_run(imported, origin, tensors, names, foreign.mean)
    return imported


def _check_run(run: Path) -> None:
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise ValueError(f"run {run} must be a new or an empty folder; it holds other files: use another RUN folder")


def _class_names(file: Path, classes: str | Path | None, count: int) -> ClassNames:
    if count == 0:
        if classes is not None:
            raise ValueError(f"--classes must be left out for a net without an output layer; {file} has none")
        return ClassNames((), ())
    return numbered_names(count) if classes is None else read_class_names(Path(classes), count)


def _checkpoint_tensors(net: Any, weights: Mapping[str, Tensor], names: ClassNames) -> dict[str, Tensor]:
    """Return the weights and biases by the names that they have in a checkpoint, the outputs in the run's order."""
    with torch.device("meta"):  # draws no start values
        model = AlexNet(len(names.names), net)
    outputs = torch.tensor(names.outputs)
    for name, layer in model.layers().items():
        for kind in ("weight", "bias"):
            tensor = weights[f"{name}.{kind}"]
            tensor = tensor[outputs] if name == "fc8" else tensor
            assert tensor.shape == getattr(layer, kind).shape
            setattr(layer, kind, nn.Parameter(tensor, requires_grad=False))
    return {f"net.{name}": parameter for name, parameter in model.named_parameters()}


def _write_run(
    imported: ImportedRun, origin: dict[str, str], tensors: Mapping[str, Tensor], names: ClassNames, mean: Any
) -> None:
    """Write the run under a temporary name and rename it, so that it is complete or not there."""
    run, recipe = imported.run.resolve(), imported.recipe
    temporary = run.with_name(f".{run.name}.importing")
    start = {"event": "start", "imported": origin, "classes": len(names.names), "train_pictures": 0}
    start |= {"parameters": imported.parameters, "seed": recipe.seed, "torch": torch.__version__}
    line = f"{json.dumps(start)}\n".encode()
    with exclusive_lock(temporary):
        try:
            for left in temporary.iterdir():  # by an import that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            (temporary / "checkpoints").mkdir()
            write_atomic(temporary / "recipe.json", f"{recipe.to_json()}\n".encode())
            write_atomic(temporary / "metrics.jsonl", line)
            save_checkpoint(
                temporary / "checkpoints" / checkpoint_name(0),
                tensors,
                recipe=recipe,
                classes=names.names,
                statistics=imagenet_statistics(mean, recipe.store_size),
                state=TrainState(finished=True, metrics_bytes=len(line)),
                class_ids=names.class_ids,
            )
            temporary.replace(run)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

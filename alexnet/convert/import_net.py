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

from alexnet.checked import require
from alexnet.convert.assemble import assemble
from alexnet.convert.caffe_mean import read_caffe_mean
from alexnet.convert.class_names import ClassNames, numbered_names, read_class_names
from alexnet.convert.external_net import ConvertedNet
from alexnet.convert.from_export import exported_net
from alexnet.convert.imagenet import imagenet_statistics
from alexnet.convert.read_external_net import read_external_net
from alexnet.convert.torch_file import is_safetensors
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import TrainState, checkpoint_name, save_checkpoint
from alexnet.utils.checksums import checksum
from alexnet.utils.files import exclusive_lock, local_path, write_atomic


@dataclass(frozen=True)
class ImportedRun:
    """What was imported.

    Args:
        run: The folder of the run.
        format: What the file is: "torchvision", "Caffe", "ONNX" or "alexnet".
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
    """Make a run from a net of torchvision or Caffe, or from an exported one. Nothing that is in the file is run.

    Args:
        file: torchvision's AlexNet (.pth or .safetensors; the convolutions alone are enough), Caffe's AlexNet or
            CaffeNet (.caffemodel or .onnx), or what `alexnet export` wrote with --state or --hub.
        run: The folder of the run: a new one, or an empty one.
        classes: A text file with the name of each class in a line, in the order of the net's outputs; or a store with
            the same classes; or the development kit of ImageNet's challenge. By default those of an exported net; else
            they are numbered.
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
    file, run = Path(file), local_path(run)
    _check_paths(file, run)
    converted = _convert(file, mean, image_size)
    recipe = Recipe(net=converted.net, store_size=converted.store_size)
    names = _class_names(file, classes, converted)
    tensors = _checkpoint_tensors(converted, names)
    imported = ImportedRun(
        run=run,
        format=converted.format,
        recipe=recipe,
        classes=names.names,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        has_names=classes is not None or converted.classes is not None,
    )
    origin = {"file": str(file.resolve()), "sha256": _sha256(file), "format": converted.format}
    _write_run(imported, origin, tensors, names, converted.mean)
    return imported


def _check_paths(file: Path, run: Path) -> None:
    if not file.is_file():
        kind = "a folder: name the file in it" if file.is_dir() else "no such file: check the path"
        raise FileNotFoundError(f"{file} must be a file with weights; there is {kind}")
    if run.exists() and not run.is_dir():
        raise ValueError(f"run {run} must be a new or an empty folder; it is a file: use another RUN folder")
    if run.exists() and any(run.iterdir()):
        raise ValueError(f"run {run} must be a new or an empty folder; it holds other files: use another RUN folder")


def _convert(file: Path, mean: str | Path | None, image_size: int | None) -> ConvertedNet:
    """Return the net of a file as ours."""
    size = ConvertedNet.store_size
    caffe_mean = None if mean is None else read_caffe_mean(mean, size)
    if image_size is not None:
        require(1 <= image_size <= size, "image_size", f"from 1 to {size}, the side of stored pictures", image_size)
    try:
        exported = exported_net(file) if is_safetensors(file) else None
        external = read_external_net(file) if exported is None else None
        if caffe_mean is not None and (external is None or external.channels != "BGR"):
            raise ValueError("`mean` must be left out but for Caffe's nets, and it is none")
        if image_size is not None and external is None:
            raise ValueError("`image_size` must be left out for an exported net, which has a size of its own")
        if exported is not None:
            return exported
        assert external is not None
        external = replace(external, mean=external.mean if caffe_mean is None else caffe_mean)
        return assemble(replace(external, image_size=image_size or external.image_size))
    except ValueError as error:
        message = str(error)
        if message.startswith(str(file)):
            raise
        advice = "" if ": " in message else ": docs/pretrained.md says which nets can be imported"
        raise ValueError(f"{file}: {message}{advice}") from error


def _class_names(file: Path, classes: str | Path | None, converted: ConvertedNet) -> ClassNames:
    count = converted.outputs
    if count == 0:
        if classes is not None:
            raise ValueError(f"`classes` must be left out for a net without an output layer; {file} has none")
        return ClassNames((), ())
    if classes is not None:
        return read_class_names(Path(classes), count)
    return numbered_names(count) if converted.classes is None else ClassNames(converted.classes, tuple(range(count)))


def _checkpoint_tensors(converted: ConvertedNet, names: ClassNames) -> dict[str, Tensor]:
    """Return the weights and biases by the names that they have in a checkpoint, the outputs in the run's order."""
    with torch.device("meta"):  # draws no start values
        model = AlexNet(converted.outputs, converted.net)
    outputs = torch.tensor(names.outputs)
    for name, layer in model.layers().items():
        for kind in ("weight", "bias"):
            tensor = converted.weights[f"{name}.{kind}"]
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
            files = {"recipe.json": f"{recipe.to_json()}\n".encode(), "metrics.jsonl": line}
            for name, contents in files.items():
                write_atomic(temporary / name, contents)
            save_checkpoint(
                temporary / "checkpoints" / checkpoint_name(0),
                tensors,
                recipe=recipe,
                classes=names.names,
                statistics=imagenet_statistics(mean, recipe.store_size),
                state=TrainState(finished=True, metrics_bytes=len(line)),
                class_ids=names.class_ids,
                files={name: checksum(contents) for name, contents in files.items()},
            )
            temporary.replace(run)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

"""A net that `alexnet export` wrote as safetensors: what one user's program writes, another's imports."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from alexnet.checked import require
from alexnet.convert.description import EXPORT_FORMAT
from alexnet.convert.external_net import ConvertedNet
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import read_architecture, read_weights

_MAX_SIZE = 1 << 12  # pixels of a stored picture's side


def exported_net(file: Path) -> ConvertedNet | None:
    """Read what `alexnet export` wrote with `--state` or `--hub`; None if a safetensors file is of another program.

    Raises:
        ValueError: It is a checkpoint; or its weights are not those of its net.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("alexnet")
            crop = opened.get_tensor("mean").numpy() if "mean" in opened.keys() else None  # noqa: SIM118, no dict
    except SafetensorError:
        return None  # reported by the reader of torchvision's files
    if text is None:
        return None
    try:
        description = json.loads(text)
        is_exported = description["format"] == EXPORT_FORMAT and crop is not None
        size = int(description["preprocessing"]["resize"]) if is_exported else 0
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"its metadata must be what `alexnet export` writes; {error!r:.100}: export it again"
        ) from error
    if not is_exported or crop is None:
        raise ValueError(
            "it must be what `alexnet export` writes; it is a checkpoint of this program: use the folder of its run, "
            "or export it with `state=FILE`"
        )
    net, classes = read_architecture(file)
    weights = read_weights(file)
    with torch.device("meta"):
        expected = {name: weight.shape for name, weight in AlexNet(len(classes), net).weights().items()}
    if expected != {name: weight.shape for name, weight in weights.items()}:
        raise ValueError("it must have the weights of the net that it describes; it has others: export it again")
    require(
        net.image_size <= size <= _MAX_SIZE and crop.shape == (3, net.image_size, net.image_size),
        "the mean",
        f"of the net's {net.image_size} pixels, in pictures of at most {_MAX_SIZE}",
        (crop.shape, size),
    )
    before = (size - net.image_size) // 2
    after = size - net.image_size - before
    mean = np.pad(crop, ((0, 0), (before, after), (before, after)), mode="edge")  # only the crop is ever read
    return ConvertedNet("alexnet", net, len(classes), weights, mean, size, classes)

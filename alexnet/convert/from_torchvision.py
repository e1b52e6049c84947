"""torchvision's AlexNet, from the names and shapes of its weights (the one-tower net of Krizhevsky 2014)."""

import re
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from alexnet.convert.external_net import (
    ActivationLayer,
    ConvLayer,
    DropoutLayer,
    ExternalNet,
    FullLayer,
    Layer,
    PoolLayer,
)

_IMAGE_SIZE = 224
# Of pixels in 0..1, in the order RGB; torchvision's transforms subtract the mean and divide by the deviation.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# By the number of the convolution in `features`: stride, padding, and whether a pooling follows.
_CONVOLUTIONS = {0: (4, 2, True), 3: (1, 2, True), 6: (1, 1, False), 8: (1, 1, False), 10: (1, 1, True)}
_FULL = (1, 4, 6)  # numbers in `classifier`; those before 1 and 4 are dropouts
_DROPOUT = 0.5
_SHOWN_NAMES = 3


def torchvision_net(state: Mapping[str, Tensor]) -> ExternalNet:
    """Return torchvision's AlexNet with these weights.

    Args:
        state: Weights by their names in torchvision's `state_dict`. Names may have a prefix, and "module." in them, as
            torch.nn.DataParallel leaves it. The classifier may be missing, or its last layers.

    Raises:
        ValueError: It is another architecture, or a weight is missing.
    """
    plain = _plain_names(state)
    layers: list[Layer] = []
    for number, (stride, padding, pooled) in _CONVOLUTIONS.items():
        name = f"features.{number}"
        layers += [ConvLayer(name, *_pop(plain, name), stride, padding), ActivationLayer(f"features.{number + 1}")]
        layers += [PoolLayer(f"features.{number + 2}", 3, 2)] if pooled else []
    for number in _FULL:
        name = f"classifier.{number}"
        if not any(key.startswith("classifier.") for key in plain):
            break  # only the convolutions, or also fc6, or fc6 and fc7
        if number != _FULL[-1]:
            layers.append(DropoutLayer(f"classifier.{number - 1}", _DROPOUT))
        layers.append(FullLayer(name, *_pop(plain, name)))
        if number != _FULL[-1]:
            layers.append(ActivationLayer(f"classifier.{number + 1}"))
    if plain:
        raise ValueError(f"torchvision's AlexNet must have no other weights; got {_list_names(plain)}")
    return ExternalNet(
        format="torchvision",
        layers=tuple(layers),
        image_size=_IMAGE_SIZE,
        channels="RGB",
        mean=255 * np.array(_MEAN),
        deviation=255 * np.array(_DEVIATION),
    )


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by torchvision's names, without prefixes."""
    without_module = {re.sub(r"(^|\.)module(?=\.)", "", name).removeprefix("."): name for name in state}
    first = next((name for name in without_module if name.endswith("features.0.weight")), None)
    if first is None:
        raise ValueError(
            f"the file must hold an AlexNet as torchvision names its weights (features.0.weight, ...); it has "
            f"{_list_names(state)}, which is no AlexNet of torchvision"
        )
    prefix = first.removesuffix("features.0.weight")
    return {plain.removeprefix(prefix): state[name] for plain, name in without_module.items()}


def _pop(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Remove and return the weight and the bias of a layer, as float32."""
    missing = [kind for kind in ("weight", "bias") if f"{name}.{kind}" not in state]
    if missing:
        raise ValueError(f"torchvision's AlexNet must have {name}.{missing[0]}; it is missing: get the file again")
    weight, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias")
    for kind, tensor in (("weight", weight), ("bias", bias)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name}.{kind} must be of a floating type; got {tensor.dtype}")
    return weight.float(), bias.float()


def _list_names(names: Mapping[str, Tensor]) -> str:
    """Return the first names of weights, for a message."""
    listed = ", ".join(list(names)[:_SHOWN_NAMES])
    return f"{listed} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else listed or "no weights"

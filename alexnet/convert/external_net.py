"""A net as the file of another program describes it: its layers in order, and what it expects of a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from alexnet.architecture import Net
from alexnet.geometry import pool_side


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A convolution.

    Args:
        name: Its name in the file.
        weight: (maps, channels / groups, kernel, kernel).
        bias: (maps,).
        stride, padding, groups: As for torch.nn.Conv2d. The side of its output is rounded down.
    """

    name: str
    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclass(frozen=True, eq=False)
class FullLayer:
    """A fully connected layer: its name in the file, its weight (units, inputs) and its bias (units,)."""

    name: str
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class ActivationLayer:
    """A ReLU."""

    name: str


@dataclass(frozen=True)
class NormLayer:
    """A response normalisation over the maps of all groups; alpha is divided by the size of the window."""

    name: str
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True)
class PoolLayer:
    """A pooling.

    Args:
        name: Its name in the file.
        size, stride: Side of a window, and distance between two windows.
        kind: "max" or "average".
        after: Positions at the right and at the bottom that windows may reach over the edge.
        ceil_mode: Whether the number of windows is rounded up.
    """

    name: str
    size: int
    stride: int
    kind: Literal["max", "average"] = "max"
    after: int = 0
    ceil_mode: bool = False

    def out_side(self, side: int) -> int:
        """Return the side of its output, for maps of a side."""
        return pool_side(side + self.after, self.size, self.stride, "up" if self.ceil_mode else "down")


@dataclass(frozen=True)
class DropoutLayer:
    """A dropout that scales in training, with its probability."""

    name: str
    p: float


Layer = ConvLayer | FullLayer | ActivationLayer | NormLayer | PoolLayer | DropoutLayer


@dataclass(frozen=True, eq=False)
class ExternalNet:
    """A net as a file describes it.

    Args:
        format: What the file is: "torchvision", "Caffe" or "ONNX".
        layers: Its layers, in order; one input and one output each.
        image_size: Side of its input, in pixels.
        channels: The order in which conv1 reads the channels.
        mean: What is subtracted from a picture's pixels, in 0..255 units, in the order RGB: (3,), or (3, size, size)
            with the size of the stored pictures.
        deviation: (3,) what each channel is divided by then, in 0..255 units, in the order RGB.
    """

    format: str
    layers: tuple[Layer, ...]
    image_size: int
    channels: Literal["RGB", "BGR"]
    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True, eq=False)
class ConvertedNet:
    """A net of a file, as ours.

    Args:
        format: What the file is: "torchvision", "Caffe", "ONNX" or "alexnet".
        net: The net.
        outputs: Its number of outputs, one for each class; 0 if it has no output layer.
        weights: Weights and biases by plain names, such as "conv1.weight".
        mean: (3,) or (3, store_size, store_size), what is subtracted from the pixels, in 0..255 units, as R, G, B.
        store_size: Side of the stored pictures, in pixels.
        classes: The names of the classes; None if the file does not tell them.
    """

    format: str
    net: Net
    outputs: int
    weights: Mapping[str, Tensor]
    mean: np.ndarray
    store_size: int = 256
    classes: tuple[str, ...] | None = None

"""The net's architecture: frozen dataclasses whose defaults are section 4's numbers, each with its section."""

import math
from dataclasses import dataclass
from typing import Literal

from alexnet.checked import Checked, require, require_finite
from alexnet.geometry import conv_side, pool_side

LayerStep = Literal["activate", "normalise", "normalise_map", "pool"]


@dataclass(frozen=True, kw_only=True)
class Conv(Checked):
    """A convolutional layer and what follows it (section 4.5).

    Args:
        maps: Number of kernels, over all towers.
        kernel: Side of a kernel, in pixels.
        stride: Distance between neighbouring kernel centres, in pixels.
        padding: Zeros on every side, in pixels.
        all_towers: Whether a kernel reads the maps of every tower, or only those of its own (4.2).
        shared: Whether all places have the same kernels, or each its own kernels and biases ("local" in the 2012
            program's nets for CIFAR-10; not in the paper).
        then: What follows, in order: "activate", "normalise" (4.3), "normalise_map", "pool" (4.4).
        pooling: "max" (the paper), or "average" (the CIFAR-10 nets).
        deviation: Standard deviation of the Gaussian the weights start from (6).
        bias: The constant the biases start at (6).
    """

    maps: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    all_towers: bool = False
    shared: bool = True
    then: tuple[LayerStep, ...] = ("activate",)
    pooling: Literal["max", "average"] = "max"
    deviation: float = 0.01
    bias: float = 0.0

    def _check(self) -> None:
        for name in ("maps", "kernel", "stride"):
            require(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(0 <= self.padding < self.kernel, "padding", f"from 0 to {self.kernel - 1} (kernel - 1)", self.padding)
        require(len(set(self.then)) == len(self.then), "then", "without repetition", self.then)
        require_finite("deviation", self.deviation)
        require(math.isfinite(self.bias), "bias", "a finite number", self.bias)


@dataclass(frozen=True, kw_only=True)
class Full(Checked):
    """A fully connected layer (4.5).

    Args:
        units: Number of neurons; None for one per class, with no activation after it.
        dropout: Probability of setting an output to zero while training (5.2).
        deviation: Standard deviation of the Gaussian the weights start from (6).
        bias: The constant the biases start at (6).
    """

    units: int | None = None
    dropout: float = 0.0
    deviation: float = 0.01
    bias: float = 0.0

    def _check(self) -> None:
        require(self.units is None or self.units >= 1, "units", "None or a whole number of at least 1", self.units)
        require(0 <= self.dropout < 1, "dropout", "a probability from 0 to below 1", self.dropout)
        require_finite("deviation", self.deviation)
        require(math.isfinite(self.bias), "bias", "a finite number", self.bias)


@dataclass(frozen=True, kw_only=True)
class ResponseNorm(Checked):
    """Constants of the normalisation across neighbouring maps of a tower (4.3).

    Args:
        k, size, alpha, beta: The paper's k, n, alpha and beta.
        alpha_over_size: Whether alpha is divided by the window's size, as the 2012 program (and torch and Caffe) do
            and the paper's formula does not.
    """

    k: float = 2.0
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    alpha_over_size: bool = False

    def _check(self) -> None:
        require_finite("k", self.k, above=True)
        require(self.size >= 1, "size", "a whole number of at least 1", self.size)
        require_finite("alpha", self.alpha)
        require_finite("beta", self.beta)


@dataclass(frozen=True, kw_only=True)
class MapNorm(Checked):
    """Constants of the normalisation within a map, over size x size places (the 2012 program; not in the paper).

    The divisor is (k + alpha / size**2 * sum of squares)**beta.
    """

    k: float = 1.0
    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75

    def _check(self) -> None:
        require_finite("k", self.k, above=True)
        require(self.size >= 1 and self.size % 2 == 1, "size", "an odd whole number", self.size)
        require_finite("alpha", self.alpha)
        require_finite("beta", self.beta)


@dataclass(frozen=True, kw_only=True)
class Net(Checked):
    """The net of section 4: layers by name, so that a variant states only what differs.

    Args:
        image_size: Side of the picture the net takes, in pixels (3: crops of 224; Figure 2).
        towers: Number of equal parts the kernels are spread over, one per GPU in the paper (4.2).
        conv1 ... conv6: The convolutional layers; None leaves one out (2, 8). conv6 is section 7's extra layer.
        fc6, fc7, fc8: The fully connected layers; the last has one unit per class.
        linear: A layer without a nonlinearity between the hidden layers and the classes, where there are so many of
            these that it saves weights (the 2012 program's for 10,184 and more classes; not in the paper).
        activation: "relu" or "tanh" (4.1).
        normalise: Constants of "normalise"; None switches every such step off (4.3).
        normalise_map: Constants of "normalise_map"; None switches every such step off.
        pool_size, pool_stride: The paper's z and s (4.4).
        start: "gaussian": deviation and bias as each layer says (6); "he": whatever they say, deviation
            sqrt(2 / inputs), but 0.01 for fc8, so that the first probabilities are even, and biases 0.
        pixel_scale: Factor on the centred pixels before the first layer; the paper's net takes them raw (3).
    """

    image_size: int = 224
    towers: int = 2
    conv1: Conv | None = Conv(maps=96, kernel=11, stride=4, padding=0, then=("activate", "normalise", "pool"))
    conv2: Conv | None = Conv(maps=256, kernel=5, padding=2, bias=1.0, then=("activate", "normalise", "pool"))
    conv3: Conv | None = Conv(maps=384, all_towers=True)
    conv4: Conv | None = Conv(maps=384, bias=1.0)
    conv5: Conv | None = Conv(maps=256, bias=1.0, then=("activate", "pool"))
    conv6: Conv | None = None
    fc6: Full | None = Full(units=4096, dropout=0.5, bias=1.0)
    fc7: Full | None = Full(units=4096, dropout=0.5, bias=1.0)
    linear: Full | None = None
    fc8: Full = Full()
    activation: Literal["relu", "tanh"] = "relu"
    normalise: ResponseNorm | None = ResponseNorm()
    normalise_map: MapNorm | None = None
    pool_size: int = 3
    pool_stride: int = 2
    start: Literal["gaussian", "he"] = "gaussian"
    pixel_scale: float = 1.0

    def _check(self) -> None:
        for name in ("image_size", "towers", "pool_size", "pool_stride"):
            require(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(
            self.pool_stride <= self.pool_size, "pool_stride", f"at most pool_size {self.pool_size}", self.pool_stride
        )
        require(bool(self.convs()), "conv1 ... conv6", "not all null", None)
        require(self.fc8.units is None, "fc8.units", "null (as many as classes)", self.fc8.units)
        require_finite("pixel_scale", self.pixel_scale, above=True)
        for name, conv in self.convs().items():
            require(conv.maps % self.towers == 0, f"{name}.maps", f"divisible by towers {self.towers}", conv.maps)
        if self.linear is not None:
            require(self.linear.units is not None, "linear.units", "a whole number of at least 1", self.linear.units)
            require(self.linear.dropout == 0, "linear.dropout", "0", self.linear.dropout)
        for name, full in self.hidden().items():
            require(full.units is not None, f"{name}.units", "a whole number of at least 1", full.units)
        self.sides()

    def convs(self) -> dict[str, Conv]:
        """The convolutional layers that exist, by name, in order."""
        named = ((f"conv{i}", getattr(self, f"conv{i}")) for i in range(1, 7))
        return {name: conv for name, conv in named if conv is not None}

    def hidden(self) -> dict[str, Full]:
        """The hidden fully connected layers that exist, by name, in order."""
        return {name: full for name, full in (("fc6", self.fc6), ("fc7", self.fc7)) if full is not None}

    def layers(self) -> tuple[str, ...]:
        """The names of all layers with weights, in order."""
        return (*self.convs(), *self.hidden(), *(("linear",) if self.linear else ()), "fc8")

    def sides(self) -> dict[str, tuple[int, int]]:
        """The side of each convolutional layer's maps, in pixels: (as convolved, after its pooling).

        Raises:
            ValueError: The maps have become smaller than a kernel or a pooling window.
        """
        sides: dict[str, tuple[int, int]] = {}
        side = self.image_size
        for name, conv in self.convs().items():
            if side + 2 * conv.padding < conv.kernel:
                raise ValueError(
                    f"{name} must have a kernel of at most the {side} pixels (and padding {conv.padding}) it reads; "
                    f"got kernel {conv.kernel}: raise image_size (now {self.image_size}) or leave a layer out"
                )
            out = conv_side(side, conv.kernel, conv.stride, conv.padding)
            side = pool_side(out, self.pool_size, self.pool_stride) if "pool" in conv.then else out
            if side < 1:
                raise ValueError(
                    f"{name} must have maps large enough for pool_size {self.pool_size}; they have side {out}: raise "
                    f"image_size (now {self.image_size}) or leave a pooling out"
                )
            sides[name] = (out, side)
        return sides

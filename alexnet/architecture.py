"""The net's architecture: frozen dataclasses whose defaults are the numbers of section 4, each with its section."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from alexnet.checked import Checked, require, require_finite
from alexnet.geometry import Rounding, conv_side, pool_side

CONV_NAMES = tuple(f"conv{n}" for n in range(1, 7))  # conv6 is that of net 146 (7)
_LayerStep = Literal["activate", "normalise", "normalise_map", "normalise_contrast", "pool"]


@dataclass(frozen=True, kw_only=True)
class Conv(Checked):
    """A convolutional layer and what follows it (section 4.5).

    Args:
        maps: Number of kernels, and so of feature maps, in all towers together.
        kernel: Side of a kernel, in pixels.
        stride: Distance between the centres of neighbouring kernels, in pixels.
        padding: Zeros on every side, in pixels.
        all_towers: Whether a kernel reads the maps of all towers, or only those of its own (4.2).
        shared: Whether all positions share the kernels, or each has its own kernels and biases (the "local" layers of
            the 2012 program's nets for CIFAR-10; not in the paper).
        then: What follows the convolution, in order: "activate" (the net's activation), "normalise" (across maps, 4.3),
            "normalise_map" (within a map), "normalise_contrast" (local contrast), "pool" (4.4).
        pooling: "max" (the paper) or "average" (the CIFAR-10 nets).
        rounding: How the side of the convolution's output is rounded: "up" (Figure 2), or "down", as in Caffe and
            torchvision.
        pool_rounding: How the side of the pooling's output is rounded: "up" (Figure 2), as in Caffe, or "down", as in
            torchvision.
        deviation: Standard deviation of the Gaussian that the initial weights are drawn from (6).
        bias: Initial value of the biases (6).
        blur: Standard deviation, in pixels, of the Gaussian that the initial kernels are blurred with. Responses to
            slow changes stay as they are, those to noise become smaller. 0 for none, as in the paper.
    """

    maps: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    all_towers: bool = False
    shared: bool = True
    then: tuple[_LayerStep, ...] = ("activate",)
    pooling: Literal["max", "average"] = "max"
    rounding: Rounding = "up"
    pool_rounding: Rounding = "up"
    deviation: float = 0.01
    bias: float = 0.0
    blur: float = 0.0

    def check(self) -> None:
        for name in ("maps", "kernel", "stride"):
            require(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(self.shared or self.rounding == "up", "rounding", '"up" where shared is false', self.rounding)
        require(0 <= self.padding < self.kernel, "padding", f"from 0 to {self.kernel - 1} (kernel - 1)", self.padding)
        require(len(set(self.then)) == len(self.then), "then", "without repetition", self.then)
        require_finite("deviation", self.deviation)
        require_finite("blur", self.blur)
        require(self.shared or self.blur == 0, "blur", "0 where shared is false", self.blur)
        require(math.isfinite(self.bias), "bias", "a finite number", self.bias)


@dataclass(frozen=True, kw_only=True)
class Full(Checked):
    """A fully connected layer (section 4.5).

    Args:
        units: Number of neurons; None for one per class, with no activation after them.
        dropout: Probability that an output is set to zero during training (5.2).
        deviation: Standard deviation of the Gaussian that the initial weights are drawn from (6).
        bias: Initial value of the biases (6).
    """

    units: int | None = None
    dropout: float = 0.0
    deviation: float = 0.01
    bias: float = 0.0

    def check(self) -> None:
        require(self.units is None or self.units >= 1, "units", "None or a whole number of at least 1", self.units)
        require(0 <= self.dropout < 1, "dropout", "a probability from 0 to below 1", self.dropout)
        require_finite("deviation", self.deviation)
        require(math.isfinite(self.bias), "bias", "a finite number", self.bias)


@dataclass(frozen=True, kw_only=True)
class ResponseNorm(Checked):
    """The constants of the normalisation across neighbouring maps (section 4.3).

    Args:
        k: The paper's k, which is added to the sum.
        size: The paper's n, the number of neighbouring maps whose squares are summed.
        alpha: The paper's alpha, the factor on the sum of the squares.
        beta: The paper's beta, the exponent of the divisor.
        alpha_over_size: Whether alpha is divided by the size of the window, as in the 2012 program (and in torch and
            Caffe), but not in the paper's formula.
        all_towers: Whether the maps of all towers are neighbours, as in Caffe, or only those of the same tower.
    """

    k: float = 2.0
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    alpha_over_size: bool = False
    all_towers: bool = False

    def check(self) -> None:
        require_finite("k", self.k, positive=True)
        require(self.size >= 1, "size", "a whole number of at least 1", self.size)
        require_finite("alpha", self.alpha)
        require_finite("beta", self.beta)


@dataclass(frozen=True, kw_only=True)
class MapNorm(Checked):
    """The constants of the normalisation within a map, over size x size positions (2012 program; not in the paper).

    The divisor is (k + alpha / size**2 * sum of squares)**beta.

    Args:
        k: What is added to the sum.
        size: Side of the window of positions whose squares are summed.
        alpha: Factor on the mean of the squares.
        beta: Exponent of the divisor.
    """

    k: float = 1.0
    size: int = 5
    alpha: float = 1e-3
    beta: float = 0.75

    def check(self) -> None:
        require_finite("k", self.k, positive=True)
        require(self.size >= 1 and self.size % 2 == 1, "size", "an odd whole number", self.size)
        require_finite("alpha", self.alpha)
        require_finite("beta", self.beta)


@dataclass(frozen=True, kw_only=True)
class ContrastNorm(Checked):
    """The window of local contrast normalisation (Jarrett et al. 2009, whom section 4.1 cites; not in the paper's net).

    Args:
        size: Side of the window, in positions; theirs.
        deviation: Standard deviation of its Gaussian weights, in positions; they do not tell theirs.
    """

    size: int = 9
    deviation: float = 2.25

    def check(self) -> None:
        require(self.size >= 1 and self.size % 2 == 1, "size", "an odd whole number", self.size)
        require_finite("deviation", self.deviation, positive=True)


@dataclass(frozen=True, kw_only=True)
class Net(Checked):
    """The net of section 4, its layers by name, so that a variant states only its differences.

    Args:
        image_size: Side of the net's input, in pixels (3: crops of 224; Figure 2).
        towers: Number of equal parts that the kernels are divided into, one per GPU in the paper (4.2).
        conv1 ... conv6: The convolutional layers; None leaves one out (2, 8). conv6 is section 7's added layer.
        fc6, fc7, fc8: The fully connected layers; the last one has one unit per class.
        linear: A layer without a nonlinearity between the hidden layers and fc8. It saves weights if there are many
            classes (in the 2012 program for 10,184 classes and more; not in the paper).
        activation: "relu", or what section 4.1 names beside it: "tanh", "logistic", "abs_tanh" (the magnitude of tanh).
        normalise: Constants of "normalise", the normalisation across neighbouring maps; None leaves out every such step
            (4.3).
        normalise_map: Constants of "normalise_map", the normalisation over the positions around, within a map (2012
            program; not in the paper); None leaves out every such step.
        normalise_contrast: Window of "normalise_contrast", local contrast normalisation (Jarrett et al. 2009; not in
            the paper's net); None leaves out every such step.
        pool_size: The paper's z, the side of the window of a pooling, in positions (4.4).
        pool_stride: The paper's s, the distance between the centres of neighbouring windows, in positions (4.4).
        conv_dropout: Probability that a value of the last feature maps is set to zero during training; 0 in the paper.
        dropout_scaling: When activations are multiplied for dropout. "test": by 1 - p at test time (5.2). "train": by
            1 / (1 - p) in training, as in torch and Caffe; the weights that are learned differ by that factor.
        start: Initial weights. "gaussian": the deviation and bias of each layer (6). "he": instead of those, deviation
            sqrt(2 / inputs) and biases 0; fc8 has deviation 0.01, so that the first probabilities are nearly equal.
            "centred": as "he", and the mean of a unit's weights is 0, except in the first layer. What these units read
            is never negative; else its mean would decide most of their outputs, whatever the picture.
        pixel_scale: Factor on the centred pixels before the first layer; 1 in the paper, which uses raw values (3).
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
    activation: Literal["relu", "tanh", "logistic", "abs_tanh"] = "relu"
    normalise: ResponseNorm | None = ResponseNorm()
    normalise_map: MapNorm | None = None
    normalise_contrast: ContrastNorm | None = None
    pool_size: int = 3
    pool_stride: int = 2
    conv_dropout: float = 0.0
    dropout_scaling: Literal["test", "train"] = "test"
    start: Literal["gaussian", "he", "centred"] = "gaussian"
    pixel_scale: float = 1.0

    def check(self) -> None:
        for name in ("image_size", "towers", "pool_size", "pool_stride"):
            require(getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(
            self.pool_stride <= self.pool_size, "pool_stride", f"at most pool_size {self.pool_size}", self.pool_stride
        )
        require(bool(self.convs()), "conv1 ... conv6", "not all null", None)
        require(self.fc8.units is None, "fc8.units", "null (as many as classes)", self.fc8.units)
        require_finite("pixel_scale", self.pixel_scale, positive=True)
        require(0 <= self.conv_dropout < 1, "conv_dropout", "a probability from 0 to below 1", self.conv_dropout)
        for name, conv in self.convs().items():
            require(conv.maps % self.towers == 0, f"{name}.maps", f"divisible by towers {self.towers}", conv.maps)
        if self.linear is not None:
            require(self.linear.units is not None, "linear.units", "a whole number of at least 1", self.linear.units)
            require(self.linear.dropout == 0, "linear.dropout", "0", self.linear.dropout)
        for name, full in self.hidden().items():
            require(full.units is not None, f"{name}.units", "a whole number of at least 1", full.units)
        self.sides()

    def convs(self) -> dict[str, Conv]:
        """Return the convolutional layers by name, in order; without those that are None."""
        layers = ((name, getattr(self, name)) for name in CONV_NAMES)
        return {name: conv for name, conv in layers if conv is not None}

    def hidden(self) -> dict[str, Full]:
        """Return the hidden fully connected layers by name, in order; without those that are None."""
        return {name: full for name, full in (("fc6", self.fc6), ("fc7", self.fc7)) if full is not None}

    @property
    def normalises_across_towers(self) -> bool:
        """Whether a normalisation reads the maps of several towers."""
        is_used = any("normalise" in conv.then for conv in self.convs().values())
        return self.normalise is not None and self.normalise.all_towers and is_used and self.towers > 1

    def layers(self) -> tuple[str, ...]:
        """Return the names of all layers with weights, in order."""
        return (*self.convs(), *self.hidden(), *(("linear",) if self.linear else ()), "fc8")

    def check_training_size(self, side: int) -> None:
        """Raise a ValueError unless the net can be trained on pictures of this side, at most its own, in pixels."""
        for name, conv in self.convs().items():
            rule = f"empty, since each position of {name} has its own kernels"
            require(conv.shared or side == self.image_size, "image_sizes", rule, side)
        try:
            replace(self, image_size=side)
        except ValueError as error:
            raise ValueError(f"image_sizes must be large enough for the net's layers; got {side}: {error}") from error

    def sides(self) -> dict[str, tuple[int, int]]:
        """Return the sides of each convolutional layer's maps: after the convolution, and after its pooling.

        Returns:
            Pairs of sides in pixels, by the layer's name.

        Raises:
            ValueError: The maps are smaller than a kernel or a pooling window.
        """
        sides: dict[str, tuple[int, int]] = {}
        side = self.image_size
        for name, conv in self.convs().items():
            if side + 2 * conv.padding < conv.kernel:
                raise ValueError(
                    f"{name}.kernel must be at most {side + 2 * conv.padding}, the side of its padded input; "
                    f"got {conv.kernel}: raise image_size (now {self.image_size}) or leave out a layer"
                )
            out = conv_side(side, conv.kernel, conv.stride, conv.padding, conv.rounding)
            pooled = pool_side(out, self.pool_size, self.pool_stride, conv.pool_rounding)
            side = pooled if "pool" in conv.then else out
            if side < 1:
                raise ValueError(
                    f"the side of {name}'s maps must be large enough for pool_size {self.pool_size}; got {out}: "
                    f"raise image_size (now {self.image_size}) or leave out a pooling"
                )
            sides[name] = (out, side)
        return sides

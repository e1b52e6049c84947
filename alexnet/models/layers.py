"""The layers that torch lacks or is slow in: the paper's convolutions, normalisation, pooling and dropout."""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.architecture import ContrastNorm, Conv, MapNorm, Net, ResponseNorm
from alexnet.geometry import Rounding, conv_side
from alexnet.kernels.contrast_norm import contrast_norm
from alexnet.kernels.dropout import dropout
from alexnet.kernels.locally_connected import locally_connected
from alexnet.kernels.map_norm import map_norm
from alexnet.kernels.pool import average_pool, max_pool
from alexnet.kernels.response_norm import response_norm
from alexnet.kernels.space_to_depth import space_to_depth, space_to_depth_reference
from alexnet.models.bfloat16_copy import Bfloat16Copy

_FEW_CHANNELS = 4


def block_diagonal(weight: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Return the weight of a dense convolution that computes what a convolution in groups does; differentiable.

    They are equal where activations are finite: infinity times the zeros is NaN in the maps of the other groups.

    Args:
        weight: (maps, channels / groups, kernel, kernel).
        groups: Number of groups.
        dtype: Type of the result. The weight is converted first: nothing dense is computed in its own type.

    Returns:
        (maps, channels, kernel, kernel) in channels_last memory, zeros outside each group's own channels.
    """
    blocks = weight.to(dtype).permute(0, 2, 3, 1)  # (maps, kernel, kernel, channels / groups)
    blocks = blocks.unflatten(0, (groups, -1))  # (groups, maps / groups, kernel, kernel, channels / groups)
    blocks = blocks.movedim(0, -1)
    dense = torch.diag_embed(blocks, dim1=0, dim2=4)  # groups before the maps, and before the channels
    return dense.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)


class Convolution(nn.Conv2d):
    """A convolution whose output side is rounded up, by zeros at the right and at the bottom only (section 4.5).

    So conv1 has maps of side 55 on pictures of side 224: 1 + (224 - 11) / 4 is 54.25. Its last kernel begins at pixel
    54 * 4 and reaches 3 pixels beyond the picture. Rounded down, it is torch's own.

    Args:
        channels: Channels it reads.
        conv: The layer's sizes.
        towers: Groups its kernels are restricted to; 1 where a kernel reads all channels (4.2).
        side: Side of the maps it reads, in pixels.

    Attributes:
        out_side: Side of the maps it computes from maps of that side.
        right_bottom_padding: Zeros added at the right and at the bottom, beside `padding`: 3 for conv1. Negative if the
            last pixels are not read.
        uses_squares: Whether it is computed over squares of its stride; see `alexnet.kernels.space_to_depth`.
    """

    def __init__(self, channels: int, conv: Conv, *, towers: int, side: int) -> None:
        super().__init__(channels, conv.maps, conv.kernel, conv.stride, conv.padding, groups=towers)
        self._rounding = conv.rounding
        self.out_side, self.right_bottom_padding = self._out_side_and_padding(side)
        # Convolutions of few channels in steps of several pixels are slow on CPUs and GPUs.
        self.uses_squares = channels <= _FEW_CHANNELS and conv.stride > 1 and towers == 1

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (N, channels, side, side) -> (N, maps, out, out); `side` may differ from that of `__init__`."""
        out_side, padding = self._out_side_and_padding(x.shape[-1])
        if self.uses_squares and x.device.type in ("cpu", "cuda"):
            return self._forward_over_squares(x, out_side)
        if padding > 0:
            x = F.pad(x, (0, padding, 0, padding))
        if self._is_faster_dense(x):
            weight = block_diagonal(self.weight, self.groups, torch.get_autocast_dtype(x.device.type))
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)
        return super().forward(x)

    def _out_side_and_padding(self, side: int) -> tuple[int, int]:
        """Return the side of the maps it computes, and the zeros added at the right and at the bottom of its input."""
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        out_side = conv_side(side, kernel, stride, padding, self._rounding)
        last_kernel_end = (out_side - 1) * stride + kernel
        return out_side, last_kernel_end - (side + 2 * padding)

    def _is_faster_dense(self, x: Tensor) -> bool:
        """Return whether two groups are computed faster as one dense convolution, half of whose weight is zeros."""
        return (
            self.groups == 2
            and x.device.type == "cuda"
            and x.dtype != torch.float64
            and torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda") in (torch.bfloat16, torch.float16)
            and self.weight.is_contiguous(memory_format=torch.channels_last)
        )

    def _forward_over_squares(self, x: Tensor, out_side: int) -> Tensor:
        """Compute the same as a convolution of stride 1 over squares of stride x stride pixels."""
        side = self.stride[0]
        kernel_squares = -(-self.kernel_size[0] // side)  # 3 for conv1
        picture_squares = out_side + kernel_squares - 1  # 57 for conv1; the last ones reach beyond the picture
        device = x.device.type
        autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        weight = space_to_depth_reference(self.weight, side=side, rows=kernel_squares, columns=kernel_squares)
        padding = self.padding[0]
        assert isinstance(padding, int)
        if padding:
            x = F.pad(x, (padding,) * 4)  # a copy of the picture; with zeros in the kernel instead, a fourth square
        x = space_to_depth(x, side=side, rows=picture_squares, columns=picture_squares, dtype=dtype)
        return F.conv2d(x, weight, self.bias)  # conv1: (N, 48, 57, 57) and (96, 48, 3, 3) -> (N, 96, 55, 55)


class FullyConnected(nn.Linear):
    """A fully connected layer (section 4.5).

    Attributes:
        bfloat16_copy: The copy of its weight that it computes with in training, if there is one.
    """

    bfloat16_copy: Bfloat16Copy | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Compute (N, units) from (N, inputs)."""
        if self.bfloat16_copy is None or not self.training:
            return super().forward(x)
        return F.linear(x, self.bfloat16_copy.read(self.weight), self.bias)


class LocallyConnected(nn.Module):
    """A convolution whose kernels and biases differ from position to position (the 2012 program's CIFAR-10 nets).

    Args:
        channels, conv, towers, side: As for `Convolution`, whose geometry it has.

    Attributes:
        weight: (out, out, maps, kernel, kernel, channels / towers), row and column of the position first.
        bias: (out, out, maps). One for each position too: nothing is shared. (What the program had is not recorded.)
        right_bottom_padding: Zeros added at the right and at the bottom, beside the padding on every side.
    """

    def __init__(self, channels: int, conv: Conv, *, towers: int, side: int) -> None:
        super().__init__()
        self.conv, self.towers = conv, towers
        out = conv_side(side, conv.kernel, conv.stride, conv.padding)
        self.right_bottom_padding = (out - 1) * conv.stride + conv.kernel - (side + 2 * conv.padding)
        kernel = (conv.kernel, conv.kernel, channels // towers)
        self.weight = nn.Parameter(torch.empty(out, out, conv.maps, *kernel))
        self.bias = nn.Parameter(torch.empty(out, out, conv.maps))
        bound = 1 / math.sqrt(math.prod(kernel))  # as for torch.nn.Conv2d
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve: (N, channels, side, side) -> (N, maps, out, out)."""
        c = self.conv
        return locally_connected(x, self.weight, self.bias, stride=c.stride, padding=c.padding, towers=self.towers)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.conv.stride}, padding={self.conv.padding}"


def alpha_over_window(norm: ResponseNorm | MapNorm) -> float:
    """Return alpha as the kernels take it: divided by the size of the window where the 2012 program divides it.

    The paper's formula does not divide it (4.3): `ResponseNorm.alpha_over_size` says which.
    """
    if isinstance(norm, MapNorm):
        return norm.alpha / norm.size**2  # a window has size x size positions
    return norm.alpha / norm.size if norm.alpha_over_size else norm.alpha


class ResponseNormalisation(nn.Module):
    """Normalisation across neighbouring maps (section 4.3); after a ReLU with `relu`.

    Args:
        norm: The constants.
        towers: Number of towers; the maps of another one are no neighbours, unless `norm.all_towers`.
        relu: Whether to apply a ReLU first.
    """

    def __init__(self, norm: ResponseNorm, *, towers: int, relu: bool = False) -> None:
        super().__init__()
        self.norm, self.towers, self.relu = norm, 1 if norm.all_towers else towers, relu
        self.alpha = alpha_over_window(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (N, C, H, W) -> (N, C, H, W)."""
        n = self.norm
        return response_norm(x, size=n.size, k=n.k, alpha=self.alpha, beta=n.beta, towers=self.towers, relu=self.relu)

    def extra_repr(self) -> str:
        return f"{self.norm}, towers={self.towers}, relu={self.relu}"


class MapNormalisation(nn.Module):
    """Normalisation within a map over the positions around (the 2012 program; not in the paper)."""

    def __init__(self, norm: MapNorm) -> None:
        super().__init__()
        self.norm = norm
        self.alpha = alpha_over_window(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (N, C, H, W) -> (N, C, H, W)."""
        n = self.norm
        return map_norm(x, size=n.size, k=n.k, alpha=self.alpha, beta=n.beta)

    def extra_repr(self) -> str:
        return str(self.norm)


class ContrastNormalisation(nn.Module):
    """Local contrast normalisation (Jarrett et al. 2009, whom section 4.1 cites; not in the paper's net).

    Args:
        norm: The window.
        towers: Number of towers; the maps of another one do not count.
    """

    def __init__(self, norm: ContrastNorm, *, towers: int) -> None:
        super().__init__()
        self.norm, self.towers = norm, towers

    def forward(self, x: Tensor) -> Tensor:
        """Normalise: (N, C, H, W) -> (N, C, H, W)."""
        return contrast_norm(x, size=self.norm.size, deviation=self.norm.deviation, towers=self.towers)

    def extra_repr(self) -> str:
        return f"{self.norm}, towers={self.towers}"


class _Pooling(nn.Module):
    """Pooling over windows of size x size positions, `stride` apart (section 4.4).

    Windows over the edge are cut if the side is rounded up, and left out if it is rounded down.
    """

    def __init__(self, size: int, stride: int, rounding: Rounding = "up") -> None:
        super().__init__()
        self.size, self.stride, self.rounding = size, stride, rounding

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}, rounding={self.rounding}"


class MaxPooling(_Pooling):
    """The largest of each window."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool: (N, C, side, side) -> (N, C, out, out)."""
        return max_pool(x, size=self.size, stride=self.stride, ceil_mode=self.rounding == "up")


class AveragePooling(_Pooling):
    """The mean of each window (the 2012 program's CIFAR-10 nets; not in the paper)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool: (N, C, side, side) -> (N, C, out, out)."""
        return average_pool(x, size=self.size, stride=self.stride, ceil_mode=self.rounding == "up")


class Dropout(nn.Module):
    """Sets each output to zero with probability p during training; multiplies by 1 - p otherwise (section 5.2).

    torch.nn.Dropout scales during training instead, by 1 / (1 - p), and so does this layer with scaling "train". The
    weights that are learned differ by that factor.

    Args:
        p: The probability.
        layer: Number of the layer; layers with the same key and different numbers have different masks.
        scaling: When activations are multiplied: at "test" time, or in training ("train").

    Attributes:
        key: The masks are drawn from it: one int64 on the device. None to draw a key from torch's generator each time.
            The training draws one for each step, so that a step may go through the net in several parts.
        rows: The numbers in the full batch of the first rows of the input's equal parts; (0,) for a full batch. So the
            mask does not depend on how a batch is sharded.
        column: The number of the input's first unit among all units of the layer; 0 if the input has all.
    """

    def __init__(self, p: float, layer: int = 0, scaling: Literal["test", "train"] = "test") -> None:
        super().__init__()
        self.p, self.layer, self.scaling = p, layer, scaling
        self.key: Tensor | None = None
        self.rows: tuple[int, ...] = (0,)
        self.column = 0

    def forward(self, x: Tensor) -> Tensor:
        """Drop outputs: (N, units) -> (N, units)."""
        if not self.training:
            return x * (1 - self.p) if self.scaling == "test" else x
        key = torch.randint(2**63 - 1, (1,), device=x.device) if self.key is None else self.key
        parts = [
            dropout(part, key, p=self.p, layer=self.layer, row=row, column=self.column)
            for part, row in zip(x.chunk(len(self.rows)), self.rows, strict=True)
        ]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y / (1 - self.p) if self.scaling == "train" else y

    def extra_repr(self) -> str:
        return f"p={self.p}, scaling={self.scaling}"


class AbsoluteTanh(nn.Module):
    """The magnitude of tanh (Jarrett et al. 2009, whom section 4.1 cites)."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute |tanh(x)|, of any shape."""
        return x.tanh().abs()


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "abs_tanh": AbsoluteTanh,
}


def activation_layer(net: Net) -> nn.Module:
    """Return the net's nonlinearity (section 4.1)."""
    return _ACTIVATIONS[net.activation]()


def following_layers(conv: Conv, net: Net) -> Iterator[nn.Module]:
    """Yield the layers after a convolution, in the order of `conv.then`; a normalisation includes a ReLU before it."""
    steps = [s for s in conv.then if not (s.startswith("normalise") and getattr(net, s) is None)]
    for i, step in enumerate(steps):
        previous_step = steps[i - 1] if i else None
        next_step = steps[i + 1] if i + 1 < len(steps) else None
        if step == "activate" and not (net.activation == "relu" and next_step == "normalise"):
            yield activation_layer(net)
        elif step == "normalise" and net.normalise is not None:
            fuse_relu = net.activation == "relu" and previous_step == "activate"
            yield ResponseNormalisation(net.normalise, towers=net.towers, relu=fuse_relu)
        elif step == "normalise_map" and net.normalise_map is not None:
            yield MapNormalisation(net.normalise_map)
        elif step == "normalise_contrast" and net.normalise_contrast is not None:
            yield ContrastNormalisation(net.normalise_contrast, towers=net.towers)
        elif step == "pool":
            pooling = MaxPooling if conv.pooling == "max" else AveragePooling
            yield pooling(net.pool_size, net.pool_stride, conv.pool_rounding)

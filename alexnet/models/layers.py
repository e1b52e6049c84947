"""The layers that torch lacks or is slow in: the 2012 geometry, normalisation, pooling and the paper's dropout."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.architecture import Conv, MapNorm, Net, ResponseNorm
from alexnet.geometry import conv_side
from alexnet.kernels.dropout import dropout
from alexnet.kernels.locally_connected import locally_connected
from alexnet.kernels.map_norm import map_norm
from alexnet.kernels.pool import average_pool, max_pool
from alexnet.kernels.response_norm import response_norm
from alexnet.kernels.space_to_depth import space_to_depth, space_to_depth_reference

_FEW = 4  # maps


def block_diagonal(weight: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """The weight of a dense convolution that computes what one in groups does; differentiable.

    Where activities are finite: an infinite one times the zeros is NaN in the other groups' maps too.

    Args:
        weight: (maps, channels / groups, kernel, kernel).
        groups: Number of groups.
        dtype: Of the result; converted first, so that nothing dense is made in the weight's own type.

    Returns:
        (maps, channels, kernel, kernel) in channels_last memory, zeros outside each group's own channels.
    """
    blocks = weight.to(dtype).permute(0, 2, 3, 1).unflatten(0, (groups, -1))  # groups, maps, kernel, kernel, channels
    dense = torch.diag_embed(blocks.movedim(0, -1), dim1=0, dim2=4)  # groups before the maps, and before the channels
    return dense.flatten(4).flatten(0, 1).permute(0, 3, 1, 2)


class Convolution(nn.Conv2d):
    """A convolution whose output side is rounded up, by zeros on the right and at the bottom only (section 4.5).

    Args:
        channels: Maps it reads.
        conv: The layer's sizes.
        towers: Groups its kernels are restricted to; 1 where a kernel reads all maps (4.2).
        side: Side of the maps it reads, in pixels.
    """

    def __init__(self, channels: int, conv: Conv, *, towers: int, side: int) -> None:
        super().__init__(channels, conv.maps, conv.kernel, conv.stride, conv.padding, groups=towers)
        out = conv_side(side, conv.kernel, conv.stride, conv.padding)
        # Pixels that the last kernel reaches past the padded picture.
        self.extra = (out - 1) * conv.stride + conv.kernel - side - 2 * conv.padding
        # Whether it reads few maps in steps of several pixels, which CPUs and GPUs are slow at.
        self.cut = channels <= _FEW and conv.stride > 1 and conv.padding == 0 and towers == 1
        self.out = out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, side, side) -> (N, maps, out, out)."""
        if self.cut and x.device.type in ("cpu", "cuda"):
            return self._of_squares(x)
        if self.extra > 0:
            x = F.pad(x, (0, self.extra, 0, self.extra))
        if self._is_faster_dense(x):
            weight = block_diagonal(self.weight, self.groups, torch.get_autocast_dtype(x.device.type))
            return F.conv2d(x, weight, self.bias, self.stride, self.padding)
        return super().forward(x)

    def _is_faster_dense(self, x: Tensor) -> bool:
        """Whether two groups are computed faster as one convolution, half of whose weight is zeros."""
        return (
            self.groups == 2
            and x.device.type == "cuda"
            and x.dtype != torch.float64
            and torch.is_autocast_enabled("cuda")
            and torch.get_autocast_dtype("cuda") in (torch.bfloat16, torch.float16)
            and self.weight.is_contiguous(memory_format=torch.channels_last)
        )

    def _of_squares(self, x: Tensor) -> Tensor:
        """The same, as a convolution of stride 1 over the picture's squares."""
        side = self.stride[0]
        squares = -(-self.kernel_size[0] // side)  # of the kernel, and of what all kernels see:
        around = self.out + squares - 1
        device = x.device.type
        autocast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        weight = space_to_depth_reference(self.weight, side=side, rows=squares, columns=squares)
        return F.conv2d(space_to_depth(x, side=side, rows=around, columns=around, dtype=dtype), weight, self.bias)


class LocallyConnected(nn.Module):
    """A convolution whose kernels and biases differ from place to place (the 2012 program's CIFAR-10 nets).

    Args:
        channels, conv, towers, side: As for `Convolution`, whose geometry it has.

    Attributes:
        weight: (out, out, maps, kernel, kernel, channels / towers), row and column of the place first.
        bias: (out, out, maps). One for each place too: nothing is shared. (What the program had is not recorded.)
    """

    def __init__(self, channels: int, conv: Conv, *, towers: int, side: int) -> None:
        super().__init__()
        self.conv, self.towers = conv, towers
        out = conv_side(side, conv.kernel, conv.stride, conv.padding)
        kernel = (conv.kernel, conv.kernel, channels // towers)
        self.weight = nn.Parameter(torch.empty(out, out, conv.maps, *kernel))
        self.bias = nn.Parameter(torch.empty(out, out, conv.maps))
        bound = 1 / math.sqrt(math.prod(kernel))  # as torch.nn.Conv2d starts
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, side, side) -> (N, maps, out, out)."""
        c = self.conv
        return locally_connected(x, self.weight, self.bias, stride=c.stride, padding=c.padding, towers=self.towers)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.conv.stride}, padding={self.conv.padding}"


class ResponseNormalisation(nn.Module):
    """Normalisation across neighbouring maps, within each tower (section 4.3), after a ReLU if `relu`."""

    def __init__(self, norm: ResponseNorm, *, towers: int, relu: bool = False) -> None:
        super().__init__()
        self.norm, self.towers, self.relu = norm, towers, relu
        self.alpha = norm.alpha / norm.size if norm.alpha_over_size else norm.alpha

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n = self.norm
        return response_norm(x, size=n.size, k=n.k, alpha=self.alpha, beta=n.beta, towers=self.towers, relu=self.relu)

    def extra_repr(self) -> str:
        return f"{self.norm}, towers={self.towers}, relu={self.relu}"


class MapNormalisation(nn.Module):
    """Normalisation within a map over the places around (the 2012 program's; not in the paper)."""

    def __init__(self, norm: MapNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        n = self.norm
        return map_norm(x, size=n.size, k=n.k, alpha=n.alpha / n.size**2, beta=n.beta)

    def extra_repr(self) -> str:
        return str(self.norm)


class _Pooling(nn.Module):
    """What one number is made of: size x size places, `stride` apart; windows over the edge are cut (section 4.4)."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def extra_repr(self) -> str:
        return f"size={self.size}, stride={self.stride}"


class MaxPooling(_Pooling):
    """The largest of each window."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, side, side) -> (N, C, out, out)."""
        return max_pool(x, size=self.size, stride=self.stride)


class AveragePooling(_Pooling):
    """The mean of each window (the 2012 program's CIFAR-10 nets; not in the paper)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, side, side) -> (N, C, out, out)."""
        return average_pool(x, size=self.size, stride=self.stride)


class Dropout(nn.Module):
    """Zeroes each output with probability p while training; multiplies by 1 - p otherwise (section 5.2).

    torch.nn.Dropout scales while training instead; the weights the paper's rule learns differ by that factor.

    Args:
        p: The probability.
        layer: Number that sets this layer's masks apart from those of others that draw from the same key.

    Attributes:
        key: What the masks are drawn from, one int64 on the device; None to draw a key from torch's generator each
            time. The training draws one for each step, so that a step may go through the net in several parts.
        rows: Where the input is a part of a batch, the place of its first row there; several where it is several parts
            of equal size. So the mask does not depend on how a batch is spread over processes.
        column: Where the input has a part of the units, the number of the first.
    """

    def __init__(self, p: float, layer: int = 0) -> None:
        super().__init__()
        self.p, self.layer = p, layer
        self.key: Tensor | None = None
        self.rows: tuple[int, ...] = (0,)
        self.column = 0

    def forward(self, x: Tensor) -> Tensor:
        """(N, units) -> (N, units)."""
        if not self.training:
            return x * (1 - self.p)
        key = torch.randint(2**63 - 1, (1,), device=x.device) if self.key is None else self.key
        parts = [
            dropout(part, key, p=self.p, layer=self.layer, row=row, column=self.column)
            for part, row in zip(x.chunk(len(self.rows)), self.rows, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def following_layers(conv: Conv, net: Net) -> Iterable[nn.Module]:
    """The modules that follow a convolution, in the order `conv.then` says; ReLU and normalisation as one."""
    steps = [s for s in conv.then if not (s.startswith("normalise") and getattr(net, s) is None)]
    for place, step in enumerate(steps):
        following = steps[place + 1] if place + 1 < len(steps) else None
        before = steps[place - 1] if place else None
        if step == "activate" and not (net.activation == "relu" and following == "normalise"):
            yield activation_layer(net)
        elif step == "normalise" and net.normalise is not None:
            fused = net.activation == "relu" and before == "activate"
            yield ResponseNormalisation(net.normalise, towers=net.towers, relu=fused)
        elif step == "normalise_map" and net.normalise_map is not None:
            yield MapNormalisation(net.normalise_map)
        elif step == "pool":
            kind = MaxPooling if conv.pooling == "max" else AveragePooling
            yield kind(net.pool_size, net.pool_stride)


def activation_layer(net: Net) -> nn.Module:
    """The net's nonlinearity (section 4.1)."""
    return nn.ReLU() if net.activation == "relu" else nn.Tanh()

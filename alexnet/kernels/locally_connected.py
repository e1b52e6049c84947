"""Locally connected layers: convolutions whose kernels are not shared between positions (the 2012 CIFAR-10 nets).

Patches are copied out position by position, and one batched matrix product goes over all positions. A kernel's numbers
are in the order row, column, channel, as pictures are in channels_last memory, so that neither has to be transposed.
Back-propagation is written out. torch's own would keep the patches, which are kernel * kernel times as large as the
maps, and take twice as long to add up their gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.geometry import conv_side
from alexnet.kernels.layout import empty_channels_last, to_channels_last
from alexnet.kernels.register import register


def locally_connected(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, towers: int = 1
) -> Tensor:
    """Convolve with kernels and biases that differ from position to position (2012-source, "CIFAR-10 nets").

    Args:
        x: (N, C, side, side) maps, of any floating type; channels_last memory saves a copy.
        weight: (out, out, maps, kernel, kernel, C / towers), row and column of the position first. `out` is the side of
            a convolution's output, rounded up: zeros are added at the right and at the bottom where needed.
        bias: (out, out, maps).
        stride: Distance between neighbouring positions, in pixels.
        padding: Zeros on every side, in pixels.
        towers: Equal groups of maps; a kernel reads the maps of its own group only.

    Returns:
        (N, maps, out, out), in channels_last memory; under autocast of its type, else of x's.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    _check(x, weight, bias, stride, padding, towers)
    device = x.device.type
    # (torch.compile of torch 2.11 cannot trace torch.amp.is_autocast_available.)
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        half = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(half), weight.to(half), bias.to(half)
    y: Tensor = _locally_connected(x, weight, bias, stride, padding, towers)
    return y


def locally_connected_reference(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, towers: int = 1
) -> Tensor:
    """Compute `locally_connected` in plain differentiable torch: patches, and one sum over their pixels."""
    rows, columns, _, kernel, _, channels = weight.shape
    padded = _pad(x, kernel, rows, stride, padding).movedim(3, 1)  # (N, C, rows, columns)
    patches = F.unfold(padded, kernel, stride=stride)  # (N, C * kernel * kernel, positions)
    patches = patches.unflatten(1, (towers, channels, kernel, kernel))
    kernels = weight.flatten(0, 1).unflatten(1, (towers, -1))  # (positions, towers, maps / towers, kernel, kernel, ...)
    y = torch.einsum("ntcijp,ptmijc->ntmp", patches, kernels).flatten(1, 2)  # (N, maps, positions)
    result: Tensor = y.unflatten(2, (rows, columns)) + bias.movedim(2, 0)  # (N, maps, rows, columns)
    return result


def _check(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, towers: int) -> None:
    if x.ndim != 4 or x.shape[2] != x.shape[3]:
        raise ValueError(f"x must be square maps, (N, C, side, side); got {tuple(x.shape)}")
    if weight.ndim != 6:
        raise ValueError(f"weight must have six dimensions (row, column, map, kernel's three); got {weight.ndim}")
    maps, kernel = weight.shape[2:4]
    if towers < 1 or x.shape[1] % towers or maps % towers:
        raise ValueError(f"towers must divide the {x.shape[1]} input maps and the {maps} output maps; got {towers}")
    out = conv_side(x.shape[2], kernel, stride, padding)
    shape = (out, out, maps, kernel, kernel, x.shape[1] // towers)
    if tuple(weight.shape) != shape:
        raise ValueError(f"weight must have shape {shape} for maps of side {x.shape[2]}; got {tuple(weight.shape)}")
    if bias.shape != weight.shape[:3]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:3])}; got {tuple(bias.shape)}")


def _pad(x: Tensor, kernel: int, out: int, stride: int, padding: int) -> Tensor:
    """Return (N, C, side, side) maps as (N, rows, columns, C) with zeros around, as far as the last kernel reaches."""
    after = (out - 1) * stride + kernel - x.shape[2] - padding
    padded: Tensor = F.pad(x, (padding, after, padding, after)).movedim(1, 3)
    return padded


def _copy_patches(x: Tensor, kernel: int, out: int, stride: int, padding: int, towers: int) -> Tensor:
    """Copy out the windows of (N, C, side, side) maps.

    Returns:
        (positions * towers, N, kernel * kernel * C / towers).
    """
    padded = _pad(x, kernel, out, stride, padding)  # (N, rows, columns, C)
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride).unflatten(3, (towers, -1))
    patches: Tensor = windows.permute(1, 2, 3, 0, 5, 6, 4)  # (out, out, towers, N, kernel, kernel, C / towers)
    return patches.reshape(out * out * towers, len(x), -1)


def _per_position(g: Tensor, towers: int) -> Tensor:
    """Return (N, maps, out, out) as (positions * towers, N, maps / towers), without a copy of channels_last memory."""
    positions: Tensor = to_channels_last(g).movedim(1, 3)  # (N, out, out, maps)
    return positions.reshape(len(g), -1, g.shape[1] // towers).transpose(0, 1)


def _per_kernel(weight: Tensor, towers: int) -> Tensor:
    """Return the kernels as (positions * towers, maps / towers, kernel * kernel * C / towers), without a copy."""
    rows, columns, maps = weight.shape[:3]
    return weight.reshape(rows * columns * towers, maps // towers, -1)


def _forward(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, towers: int) -> Tensor:
    out, _, maps, kernel = weight.shape[:4]
    patches = _copy_patches(x, kernel, out, stride, padding, towers)
    biases = bias.reshape(out * out * towers, 1, -1)
    y = torch.baddbmm(biases, patches, _per_kernel(weight, towers).transpose(1, 2))  # (P * towers, N, maps / towers)
    result = empty_channels_last(x, maps, out, out)
    positions = result.movedim(1, 3).unflatten(3, (towers, -1))  # (N, out, out, towers, maps / towers)
    positions.copy_(y.view(out, out, towers, len(x), -1).permute(3, 0, 1, 2, 4))
    return result


def _weight_gradient(g: Tensor, x: Tensor, kernel: int, stride: int, padding: int, towers: int) -> Tensor:
    _, maps, out, _ = g.shape
    # Copied out a second time: to keep the patches would take kernel * kernel times the memory of x.
    patches = _copy_patches(x, kernel, out, stride, padding, towers)
    gradient = torch.bmm(_per_position(g, towers).transpose(1, 2), patches)
    return gradient.view(out, out, maps, kernel, kernel, -1)


def _input_gradient(g: Tensor, weight: Tensor, side: int, stride: int, padding: int, towers: int) -> Tensor:
    out, _, _, kernel, _, channels = weight.shape
    terms = torch.bmm(_per_position(g, towers), _per_kernel(weight, towers))
    terms = terms.view(out, out, towers, len(g), kernel, kernel, channels)
    last = (out - 1) * stride + 1
    wide = torch.float64 if g.dtype == torch.float64 else torch.float32  # sums in half precision would round each time
    total = torch.zeros(len(g), last - 1 + kernel, last - 1 + kernel, towers, channels, dtype=wide, device=g.device)
    for i in range(kernel):
        for j in range(kernel):
            positions = total[:, i : i + last : stride, j : j + last : stride]  # (N, out, out, towers, C / towers)
            positions += terms[:, :, :, :, i, j].permute(3, 0, 1, 2, 4)
    result = empty_channels_last(g, towers * channels, side, side)
    result.movedim(1, 3).copy_(total[:, padding : padding + side, padding : padding + side].flatten(3))
    return result


def _empty_output(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return empty_channels_last(x, weight.shape[2], weight.shape[0], weight.shape[0])


def _empty_weight_gradient(g: Tensor, x: Tensor, kernel: int, _stride: int, _padding: int, towers: int) -> Tensor:
    return x.new_empty(g.shape[2], g.shape[3], g.shape[1], kernel, kernel, x.shape[1] // towers)


def _empty_input_gradient(g: Tensor, weight: Tensor, side: int, _stride: int, _padding: int, towers: int) -> Tensor:
    return empty_channels_last(g, weight.shape[5] * towers, side, side)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch's signature)
    x, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    return (
        _to_input(g, weight, x.shape[2], *ctx.geometry) if needs_x else None,
        _to_weight(g, x, weight.shape[3], *ctx.geometry) if needs_weight else None,
        g.sum(0).movedim(0, 2) if needs_bias else None,
        *(None for _ in ctx.geometry),
    )


_locally_connected = register(
    "locally_connected",
    "(Tensor x, Tensor weight, Tensor bias, SymInt stride, SymInt padding, SymInt towers) -> Tensor",
    _forward,
    fake=_empty_output,
    setup_context=_setup_context,
    backward=_gradient,
)
_to_weight = register(
    "locally_connected_to_weight",
    "(Tensor g, Tensor x, SymInt kernel, SymInt stride, SymInt padding, SymInt towers) -> Tensor",
    _weight_gradient,
    fake=_empty_weight_gradient,
)
_to_input = register(
    "locally_connected_to_input",
    "(Tensor g, Tensor weight, SymInt side, SymInt stride, SymInt padding, SymInt towers) -> Tensor",
    _input_gradient,
    fake=_empty_input_gradient,
)

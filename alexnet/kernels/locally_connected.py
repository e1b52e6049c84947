"""Locally connected layers: convolutions whose kernels are not shared between places (the 2012 CIFAR-10 nets).

Patches are copied out place by place, and one batched matrix product goes over all places. A kernel's numbers lie in
the order row, column, channel, as pictures do in channels_last memory, so that neither has to be turned around. Back-
propagation is written out: torch's own would keep the patches, which are kernel * kernel times as large as the maps,
and take twice as long to add up their gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.geometry import conv_side


def locally_connected_reference(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, towers: int = 1
) -> Tensor:
    """What `locally_connected` computes, in plain differentiable torch: a loop over places and towers."""
    rows, columns, _, kernel, _, _ = weight.shape
    padded = _padded(x, kernel, rows, stride, padding)
    places = []
    for row in range(rows):
        for column in range(columns):
            window = padded[:, stride * row :, stride * column :][:, :kernel, :kernel]  # (N, kernel, kernel, C)
            kernels = weight[row, column].chunk(towers)
            parts = [
                torch.einsum("nijc,mijc->nm", part, own)
                for part, own in zip(window.chunk(towers, 3), kernels, strict=True)
            ]
            places.append(torch.cat(parts, 1) + bias[row, column])
    y: Tensor = torch.stack(places, 2).unflatten(2, (rows, columns))
    return y


def _padded(x: Tensor, kernel: int, out: int, stride: int, padding: int) -> Tensor:
    """(N, C, side, side) maps as (N, rows, columns, C) with zeros around, as far as the last kernel reaches."""
    after = (out - 1) * stride + kernel - x.shape[2] - padding
    padded: Tensor = F.pad(x, (padding, after, padding, after)).movedim(1, 3)
    return padded


def _patches(x: Tensor, kernel: int, out: int, stride: int, padding: int, towers: int) -> Tensor:
    """The windows of (N, C, side, side) maps, copied out: (places * towers, N, kernel * kernel * C / towers)."""
    padded = _padded(x, kernel, out, stride, padding)
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride).unflatten(3, (towers, -1))
    turned: Tensor = windows.permute(1, 2, 3, 0, 5, 6, 4)  # (out, out, towers, N, kernel, kernel, C / towers)
    return turned.reshape(out * out * towers, len(x), -1)


def _maps(like: Tensor, maps: int, side: int) -> Tensor:
    """Room for maps of the pictures, type and device of another tensor, in channels_last memory."""
    shape = (like.shape[0], maps, side, side)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _per_place(g: Tensor, towers: int) -> Tensor:
    """(N, maps, out, out) as (places * towers, N, maps / towers), without a copy of channels_last memory."""
    by_place: Tensor = g.contiguous(memory_format=torch.channels_last).movedim(1, 3)  # (N, out, out, maps)
    return by_place.reshape(len(g), -1, g.shape[1] // towers).transpose(0, 1)


def _per_kernel(weight: Tensor, towers: int) -> Tensor:
    """The kernels as (places * towers, maps / towers, kernel * kernel * C / towers), without a copy."""
    rows, columns, maps = weight.shape[:3]
    return weight.reshape(rows * columns * towers, maps // towers, -1)


@torch.library.custom_op("alexnet::locally_connected", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, towers: int) -> Tensor:
    out, _, maps, kernel = weight.shape[:4]
    patches = _patches(x, kernel, out, stride, padding, towers)
    per_place = bias.reshape(out * out * towers, 1, -1)
    y = torch.baddbmm(per_place, patches, _per_kernel(weight, towers).transpose(1, 2))  # (P * towers, N, maps / towers)
    result = _maps(x, maps, out)
    places = result.movedim(1, 3).unflatten(3, (towers, -1))  # (N, out, out, towers, maps / towers)
    places.copy_(y.view(out, out, towers, len(x), -1).permute(3, 0, 1, 2, 4))
    return result


@torch.library.custom_op("alexnet::locally_connected_to_weight", mutates_args=())
def _weight_gradient(g: Tensor, x: Tensor, kernel: int, stride: int, padding: int, towers: int) -> Tensor:
    _, maps, out, _ = g.shape
    # Copied out a second time: to have kept the patches would take kernel * kernel times the memory of x.
    patches = _patches(x, kernel, out, stride, padding, towers)
    gradient = torch.bmm(_per_place(g, towers).transpose(1, 2), patches)
    return gradient.view(out, out, maps, kernel, kernel, -1)


@torch.library.custom_op("alexnet::locally_connected_to_input", mutates_args=())
def _input_gradient(g: Tensor, weight: Tensor, side: int, stride: int, padding: int, towers: int) -> Tensor:
    out, _, _, kernel, _, part = weight.shape
    through = torch.bmm(_per_place(g, towers), _per_kernel(weight, towers))
    through = through.view(out, out, towers, len(g), kernel, kernel, part)
    last = (out - 1) * stride + 1
    wide = torch.float64 if g.dtype == torch.float64 else torch.float32  # sums in half precision would round each time
    total = torch.zeros(len(g), last - 1 + kernel, last - 1 + kernel, towers, part, dtype=wide, device=g.device)
    for i in range(kernel):
        for j in range(kernel):
            at = total[:, i : i + last : stride, j : j + last : stride]  # (N, out, out, towers, C / towers)
            at += through[:, :, :, :, i, j].permute(3, 0, 1, 2, 4)
    result = _maps(g, towers * part, side)
    result.movedim(1, 3).copy_(total[:, padding : padding + side, padding : padding + side].flatten(3))
    return result


@_forward.register_fake
def _(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _maps(x, weight.shape[2], weight.shape[0])


@_weight_gradient.register_fake
def _(g: Tensor, x: Tensor, kernel: int, _stride: int, _padding: int, towers: int) -> Tensor:
    return x.new_empty(g.shape[2], g.shape[3], g.shape[1], kernel, kernel, x.shape[1] // towers)


@_input_gradient.register_fake
def _(g: Tensor, weight: Tensor, side: int, _stride: int, _padding: int, towers: int) -> Tensor:
    return _maps(g, weight.shape[5] * towers, side)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
    x, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _gradient(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
    return (
        _input_gradient(g, weight, x.shape[2], *ctx.geometry) if for_x else None,
        _weight_gradient(g, x, weight.shape[3], *ctx.geometry) if for_weight else None,
        g.sum(0).movedim(0, 2) if for_bias else None,
        *(None for _ in ctx.geometry),
    )


_forward.register_autograd(_gradient, setup_context=_keep)


def locally_connected(
    x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0, towers: int = 1
) -> Tensor:
    """A convolution whose kernels and biases differ from place to place (2012-source, "CIFAR-10 nets").

    Args:
        x: (N, C, side, side) maps, of any floating type; channels_last memory saves a copy.
        weight: (out, out, maps, kernel, kernel, C / towers), row and column of the place first. `out` is the side of
            what a convolution gives, rounded up: zeros are added at the right and at the bottom where needed.
        bias: (out, out, maps).
        stride: Distance between neighbouring places, in pixels.
        padding: Zeros on every side, in pixels.
        towers: Equal groups of maps; a kernel reads the maps of its own group only.

    Returns:
        (N, maps, out, out), in channels_last memory; under autocast of its type, else of x's.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    _check(x, weight, bias, stride, padding, towers)
    kind = x.device.type
    # (torch.compile of torch 2.11 cannot trace torch.amp.is_autocast_available.)
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        half = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(half), weight.to(half), bias.to(half)
    result: Tensor = _forward(x, weight, bias, stride, padding, towers)
    return result


def _check(x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, towers: int) -> None:
    if x.ndim != 4 or x.shape[2] != x.shape[3]:
        raise ValueError(f"x must be square maps, (N, C, side, side); got {tuple(x.shape)}")
    if weight.ndim != 6:
        raise ValueError(f"weight must have six dimensions (row, column, map, kernel's three); got {weight.ndim}")
    maps, kernel = weight.shape[2:4]
    if towers < 1 or x.shape[1] % towers or maps % towers:
        raise ValueError(f"towers must divide the {x.shape[1]} maps read and the {maps} made; got {towers}")
    out = conv_side(x.shape[2], kernel, stride, padding)
    wanted = (out, out, maps, kernel, kernel, x.shape[1] // towers)
    if tuple(weight.shape) != wanted:
        raise ValueError(f"weight must have shape {wanted} for maps of side {x.shape[2]}; got {tuple(weight.shape)}")
    if bias.shape != weight.shape[:3]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:3])}; got {tuple(bias.shape)}")

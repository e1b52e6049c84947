"""The kernels of `response_norm` in Triton, for CUDA; sums in float32.

Feature maps are in channels_last memory: the channels of a position side by side. A program takes some positions and
one tower of maps. It loads the neighbours of a map beside its own, which the cache serves; the neighbours of the
gradients' terms are gathered from its own registers. These kernels are bound by memory, and read and write each
activation once.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.layout import to_channels_last
from alexnet.kernels.normalisation_triton import powers, window_constants

_ACTIVATIONS = 1024  # of a program: in 16 bits, a load of 16 bytes for each thread


def response_norm(
    x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool, y: Tensor
) -> None:
    """Write the normalised activations to y; arguments as for `alexnet.kernels.response_norm_cpu.response_norm`."""
    maps = x.shape[1] // towers
    window = window_constants(size, maps, beta)
    _launch(forward_kernel, (to_channels_last(x), y), maps, towers, k, alpha, beta, relu=relu, **window)


def response_norm_backward(
    g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool, dx: Tensor
) -> None:
    """Write the gradient of x to dx; arguments as for `alexnet.kernels.response_norm_cpu.response_norm_backward`."""
    maps = x.shape[1] // towers
    window = window_constants(size, maps, beta)
    tensors = to_channels_last(g), to_channels_last(x), dx
    _launch(backward_kernel, tensors, maps, towers, k, alpha, beta, relu=relu, **window)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], maps: int, towers: int, *constants: float, **compile_time: Any
) -> None:
    """Run a kernel on all positions and towers.

    Args:
        kernel: The kernel.
        tensors: Its first arguments, of which the last is (N, C, H, W).
        maps: Maps of a tower.
        towers: Number of towers.
        constants, compile_time: Its arguments after the number of channels.
    """
    n, channels, height, width = tensors[-1].shape
    positions = n * height * width
    if positions * maps == 0:
        return
    padded = triton.next_power_of_2(maps)
    rows = max(1, _ACTIVATIONS // padded)
    with torch.cuda.device_of(tensors[0]):
        kernel[(triton.cdiv(positions, rows), towers)](
            *tensors, positions, maps, channels, *constants, rows=rows, padded=padded, **compile_time
        )


@triton.jit
def _rectify(a, relu: tl.constexpr):
    """Return max(0, a) where asked for; NaN stays."""
    if relu:
        return tl.where(a < 0, 0.0, a)
    return a


@triton.jit
def _divisor(x, index, inside, column, maps, k, alpha, before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr):
    """Return k + alpha * the sum of squares over the window of each map, within its tower."""
    total = tl.zeros(index.shape, tl.float32)
    for j in tl.static_range(-before, after + 1):
        mask = inside & (column + j >= 0) & (column + j < maps)
        a = _rectify(tl.load(x + index + j, mask, 0.0).to(tl.float32), relu)
        total += a * a
    return k + alpha * total


@triton.jit
def _gradient(
    a, g, divisor, inside, column, maps, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr, square_roots: tl.constexpr,
):  # fmt: skip
    """Return the activations' gradient from that of their normalised values; the formula is in response_norm_cpu.py."""
    rectified = _rectify(a, relu)
    scale, inverse = powers(divisor, beta, square_roots)
    direct = g * scale
    terms = tl.where(inside, direct * rectified * inverse, 0.0)
    total = tl.zeros(a.shape, tl.float32)
    for j in tl.static_range(-after, before + 1):
        neighbour = column + j + tl.zeros(a.shape, tl.int32)
        mask = (neighbour >= 0) & (neighbour < maps)
        total += tl.where(mask, tl.gather(terms, tl.where(mask, neighbour, 0), 1), 0.0)
    dx = direct - 2.0 * alpha * beta * a * total
    if relu:
        dx = tl.where(a <= 0, 0.0, dx)
    return dx


@triton.jit
def forward_kernel(
    x, y, positions, maps, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr, square_roots: tl.constexpr,
    rows: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    column = tl.arange(0, padded)[None, :]
    inside = (row < positions) & (column < maps)
    index = row * channels + tl.program_id(1) * maps + column
    a = _rectify(tl.load(x + index, inside, 0.0).to(tl.float32), relu)
    divisor = _divisor(x, index, inside, column, maps, k, alpha, before, after, relu)
    scale, _ = powers(divisor, beta, square_roots)
    tl.store(y + index, (a * scale).to(y.dtype.element_ty), inside)


@triton.jit
def backward_kernel(
    g, x, dx, positions, maps, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr, square_roots: tl.constexpr,
    rows: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    column = tl.arange(0, padded)[None, :]
    inside = (row < positions) & (column < maps)
    index = row * channels + tl.program_id(1) * maps + column
    divisor = _divisor(x, index, inside, column, maps, k, alpha, before, after, relu)
    a, gradient = tl.load(x + index, inside, 0.0).to(tl.float32), tl.load(g + index, inside, 0.0).to(tl.float32)
    result = _gradient(a, gradient, divisor, inside, column, maps, alpha, beta, before, after, relu, square_roots)
    tl.store(dx + index, result.to(dx.dtype.element_ty), inside)

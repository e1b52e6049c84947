"""The operations of response_norm.py in Triton, for a GPU; sums in float32.

Activities lie in channels_last memory: the maps of a place side by side. A program takes some places and one tower of
maps, and reads a map's neighbours by loads beside its own, which the cache serves; the gradients' neighbours are
taken from the registers of its own program. These kernels are bound by memory, and read and write each activity once.
"""

# mypy: disable-error-code="no-untyped-def"
# (Triton gives the kernels' arguments their types.)

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ACTIVITIES = 1024  # of a program: in 16 bits, a load of 16 bytes for each thread


@triton.jit
def _powers(divisor, beta, square_roots: tl.constexpr):
    """(divisor**-beta, 1 / divisor); by square roots, which needs beta 0.75, if asked."""
    if square_roots:
        root = tl.math.rsqrt(divisor)
        return root * tl.sqrt(root), root * root
    return tl.exp2(-beta * tl.log2(divisor)), 1.0 / divisor


@triton.jit
def _rectified(a, relu: tl.constexpr):
    """max(0, a) if asked; NaN stays."""
    if relu:
        return tl.where(a < 0, 0.0, a)
    return a


@triton.jit
def _divisor(x, at, inside, column, maps, k, alpha, before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr):
    """k + alpha * the sum of squares over the window of each map, within its tower."""
    total = tl.zeros(at.shape, tl.float32)
    for j in tl.static_range(-before, after + 1):
        beside = inside & (column + j >= 0) & (column + j < maps)
        a = _rectified(tl.load(x + at + j, beside, 0.0).to(tl.float32), relu)
        total += a * a
    return k + alpha * total


@triton.jit
def _returned(
    a, g, divisor, inside, column, maps, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr, square_roots: tl.constexpr,
):  # fmt: skip
    """The activities' gradient from that of their normalised values, as in response_norm.py."""
    rectified = _rectified(a, relu)
    scale, inverse = _powers(divisor, beta, square_roots)
    direct = g * scale
    through = tl.where(inside, direct * rectified * inverse, 0.0)
    total = tl.zeros(a.shape, tl.float32)
    for j in tl.static_range(-after, before + 1):
        beside = column + j + tl.zeros(a.shape, tl.int32)
        there = (beside >= 0) & (beside < maps)
        total += tl.where(there, tl.gather(through, tl.where(there, beside, 0), 1), 0.0)
    dx = direct - 2.0 * alpha * beta * a * total
    if relu:
        dx = tl.where(a <= 0, 0.0, dx)
    return dx


@triton.jit
def _forward(
    x, y, places, maps, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr, square_roots: tl.constexpr,
    rows: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    column = tl.arange(0, padded)[None, :]
    inside = (row < places) & (column < maps)
    at = row * channels + tl.program_id(1) * maps + column
    a = _rectified(tl.load(x + at, inside, 0.0).to(tl.float32), relu)
    divisor = _divisor(x, at, inside, column, maps, k, alpha, before, after, relu)
    scale, _ = _powers(divisor, beta, square_roots)
    tl.store(y + at, (a * scale).to(y.dtype.element_ty), inside)


@triton.jit
def _backward(
    g, x, dx, places, maps, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, relu: tl.constexpr, square_roots: tl.constexpr,
    rows: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    column = tl.arange(0, padded)[None, :]
    inside = (row < places) & (column < maps)
    at = row * channels + tl.program_id(1) * maps + column
    divisor = _divisor(x, at, inside, column, maps, k, alpha, before, after, relu)
    a, gradient = tl.load(x + at, inside, 0.0).to(tl.float32), tl.load(g + at, inside, 0.0).to(tl.float32)
    result = _returned(
        a, gradient, divisor, inside, column, maps, alpha, beta, before, after, relu, square_roots
    )  # fmt: skip
    tl.store(dx + at, result.to(dx.dtype.element_ty), inside)


@triton.jit
def _map_divisor(x, at, inside, h, w, height, width, channels, k, alpha, before: tl.constexpr, after: tl.constexpr):
    """k + alpha * the sum of squares over the places around, in the same map."""
    total = tl.zeros(at.shape, tl.float32)
    for i in tl.static_range(-before, after + 1):
        for j in tl.static_range(-before, after + 1):
            there = inside & (h + i >= 0) & (h + i < height) & (w + j >= 0) & (w + j < width)
            a = tl.load(x + at + (i * width + j) * channels, there, 0.0).to(tl.float32)
            total += a * a
    return k + alpha * total


@triton.jit
def _map_forward(
    x, y, count, height, width, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, square_roots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    h, w = at // channels // width % height, at // channels % width
    divisor = _map_divisor(x, at, inside, h, w, height, width, channels, k, alpha, before, after)
    scale, _ = _powers(divisor, beta, square_roots)
    tl.store(y + at, (tl.load(x + at, inside, 0.0).to(tl.float32) * scale).to(y.dtype.element_ty), inside)


@triton.jit
def _map_through(
    g, x, direct, through, count, height, width, channels, k, alpha, beta,
    before: tl.constexpr, after: tl.constexpr, square_roots: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """What the gradient sums over the places around, and its other part."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    h, w = at // channels // width % height, at // channels % width
    divisor = _map_divisor(x, at, inside, h, w, height, width, channels, k, alpha, before, after)
    scale, inverse = _powers(divisor, beta, square_roots)
    value = tl.load(g + at, inside, 0.0).to(tl.float32) * scale
    tl.store(direct + at, value, inside)
    tl.store(through + at, value * tl.load(x + at, inside, 0.0).to(tl.float32) * inverse, inside)


@triton.jit
def _map_backward(
    x, direct, through, dx, count, height, width, channels, factor,
    before: tl.constexpr, after: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < count
    h, w = at // channels // width % height, at // channels % width
    total = tl.zeros(at.shape, tl.float32)
    for i in tl.static_range(-after, before + 1):
        for j in tl.static_range(-after, before + 1):
            there = inside & (h + i >= 0) & (h + i < height) & (w + j >= 0) & (w + j < width)
            total += tl.load(through + at + (i * width + j) * channels, there, 0.0)
    a = tl.load(x + at, inside, 0.0).to(tl.float32)
    result = tl.load(direct + at, inside, 0.0) - factor * a * total
    tl.store(dx + at, result.to(dx.dtype.element_ty), inside)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], places: int, maps: int, towers: int, *rest: Any, **fixed: Any
) -> None:
    """Run a kernel on all places and towers; `rest` and `fixed` are its arguments after the number of channels."""
    if places * maps == 0:
        return
    width = triton.next_power_of_2(maps)
    rows = max(1, _ACTIVITIES // width)
    with torch.cuda.device_of(tensors[0]):
        kernel[(triton.cdiv(places, rows), towers)](
            *tensors, places, maps, maps * towers, *rest, rows=rows, padded=width, **fixed
        )


def _window(size: int, maps: int, beta: float) -> dict[str, Any]:
    """How far a window reaches, within a tower, and whether square roots do."""
    before, after = min(size // 2, maps), min(size - 1 - size // 2, maps)
    return {"before": before, "after": after, "square_roots": beta == 0.75}


def forward(x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool) -> Tensor:
    """`response_norm`."""
    x, y = _channels_last(x), torch.empty_like(x, memory_format=torch.channels_last)
    n, channels, h, w = x.shape
    maps = channels // towers
    _launch(_forward, (x, y), n * h * w, maps, towers, k, alpha, beta, relu=relu, **_window(size, maps, beta))
    return y


def backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool) -> Tensor:
    """The gradient of `response_norm`'s activities, from that of its result."""
    g, x, dx = _channels_last(g), _channels_last(x), torch.empty_like(x, memory_format=torch.channels_last)
    n, channels, h, w = x.shape
    maps = channels // towers
    _launch(_backward, (g, x, dx), n * h * w, maps, towers, k, alpha, beta, relu=relu, **_window(size, maps, beta))
    return dx


_BLOCK = 1024  # activities of a program of `map_norm`


def map_forward(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """`map_norm`."""
    x, y = _channels_last(x), torch.empty_like(x, memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    if x.numel():
        with torch.cuda.device_of(x):
            _map_forward[(triton.cdiv(x.numel(), _BLOCK),)](
                *(x, y, x.numel(), height, width, channels, k, alpha, beta),
                **_window(size, max(height, width), beta),
                block=_BLOCK,
            )
    return y


def map_backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """The gradient of `map_norm`'s activities; in two passes, with float32 activities between them."""
    g, x, dx = _channels_last(g), _channels_last(x), torch.empty_like(x, memory_format=torch.channels_last)
    direct, through = (torch.empty_like(x, dtype=torch.float32) for _ in range(2))
    _, channels, height, width = x.shape
    shape, window = (x.numel(), height, width, channels), _window(size, max(height, width), beta)
    if x.numel():
        grid = (triton.cdiv(x.numel(), _BLOCK),)
        with torch.cuda.device_of(x):
            _map_through[grid](*(g, x, direct, through, *shape, k, alpha, beta), **window, block=_BLOCK)
            del window["square_roots"]
            _map_backward[grid](*(x, direct, through, dx, *shape, 2 * alpha * beta), **window, block=_BLOCK)
    return dx

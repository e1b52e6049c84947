"""Response normalisation (section 4.3): across the maps of a tower and, as the 2012 program also did, within a map.

Each operation has a plain torch version (`..._reference`), and loops for the CPU (here) and the GPU (in
response_norm_triton.py) that read and write every activity once and keep nothing but their input for the way back.
They work on channels_last memory, where the maps' activities at one place lie side by side; other memory is converted.
Activities of 16 bits are widened and rounded in the loops. Results do not depend on the number of threads.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels import compiled, has_triton, in_parallel, note
from alexnet.kernels.vectors import (
    LANES,
    at_least,
    fetch,
    guess,
    if_greater,
    like,
    load,
    store,
    where_above,
    where_equal,
)


def _divide(x: Tensor, divisor: Tensor, beta: float) -> Tensor:
    """x / divisor**beta; at the paper's 0.75 by square roots, which are several times faster than powers."""
    if beta == 0.75:
        root = divisor.rsqrt()
        return x * (root * root.sqrt())
    return x * divisor.pow(-beta)


def _wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is: what squares are summed in."""
    return x if x.dtype == torch.float64 else x.float()


def response_norm_reference(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, towers: int = 1, relu: bool = False
) -> Tensor:
    """What `response_norm` computes, in plain differentiable torch: a sum of `size` shifted slices."""
    a = _wide(x.relu() if relu else x)
    before, after = size // 2, size - 1 - size // 2
    squares = a.square().unflatten(1, (towers, -1))  # (N, towers, C / towers, H, W)
    maps = squares.shape[2]
    padded = F.pad(squares, (0, 0, 0, 0, before, after))
    total = padded[:, :, :maps]
    for j in range(1, size):
        total = total + padded[:, :, j : j + maps]
    return _divide(a, k + alpha * total.flatten(1, 2), beta).to(x.dtype)


def map_norm_reference(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """What `map_norm` computes, in plain differentiable torch."""
    before, after = size // 2, size - 1 - size // 2
    a = _wide(x)
    squares = F.pad(a.square(), (before, after, before, after))
    total = F.avg_pool2d(squares, size, stride=1, divisor_override=1)
    return _divide(a, k + alpha * total, beta).to(x.dtype)


@compiled
def _powers(divisor, beta, square_roots):  # type: ignore[no-untyped-def]
    """(divisor**-beta, 1 / divisor); by square roots, which needs beta 0.75, if asked."""
    one = type(divisor)(1)
    if square_roots:
        root = one / math.sqrt(divisor)
        return root * math.sqrt(root), root * root
    return divisor**-beta, one / divisor


# The loops of `response_norm` take flat arrays and the place of the first activity in each. With towers of 48 maps
# LLVM's own vectors leave a third of the maps to be done one by one, so the vectors are written out (see vectors.py).
# `low` is 0 with a ReLU and minus infinity without.
#
# The window's size, and a few answers, must be known when the loops are compiled. They come as the lengths of tuples,
# which Numba compiles a function anew for: closures would do it too, but Numba does not find what it kept of those
# that call each other.

_BLOCK = 512  # activities: what is stored must have left the store buffer before sums of neighbours can be read fast
_AHEAD = 1024  # activities: how far ahead of the loop memory is asked for; half of it for what will be written


def _known(x: Tensor, size: int, beta: float, maps: int, pool: int = 0) -> tuple[tuple[int, ...], ...]:
    """Lengths: the window; steps that make the power, 0 for `pow`; whether vectors fit a tower; the side of pooling."""
    steps = 0 if beta != 0.75 else 3 if x.dtype == torch.float64 else 2
    return tuple((0,) * int(length) for length in (size, steps, maps % LANES == 0, pool))


@compiled
def _nearer(divisor, y):  # type: ignore[no-untyped-def]
    """A step towards y = divisor**-0.25; of a relative error e / 4 there remains about 0.03 * e**3."""
    square = y * y
    error = 1.0 - divisor * square * square  # in this order, which cannot overflow
    return y + y * (error * (error * 0.15625 + 0.25))


@compiled
def _vector_powers(divisor, beta, known):  # type: ignore[no-untyped-def]
    """As `_powers`, of vectors; without roots and divisions, which would take most of the time."""
    if len(known[1]) > 0:
        y = guess(divisor)
        for _ in range(len(known[1])):
            y = _nearer(divisor, y)
        y = where_above(math.inf, divisor, y)  # 0, not NaN, where the squares have overflowed
        square = y * y
        return square * y, square * square
    return divisor**-beta, 1.0 / divisor


@compiled
def _around(values, at, known):  # type: ignore[no-untyped-def]
    """The sums of a window's number of values side by side."""
    total = load(values, at, LANES)
    for j in range(1, len(known[0])):
        total = total + load(values, at + j, LANES)
    return total


@compiled
def _count(rest, known):  # type: ignore[no-untyped-def]
    """How many of a vector's numbers are maps of the tower."""
    return LANES if len(known[2]) == 1 else rest


@compiled
def _square(x, at, squares, rows, maps, towers, low, known):  # type: ignore[no-untyped-def]
    """Squares of `rows` places; between the towers there remain zeros, for what lies outside a tower."""
    size = len(known[0])
    stride = -(-maps // LANES) * LANES + size - 1
    for tower in range(rows * towers):
        for i in range(0, maps, LANES):
            a = at_least(load(x, at + tower * maps + i, _count(maps - i, known)), low)
            store(squares, tower * stride + size // 2 + i, a * a, LANES)


@compiled
def _forward(x, x_at, y, y_at, places, maps, towers, k, alpha, beta, low, known):  # type: ignore[no-untyped-def]
    block = max(1, _BLOCK // (maps * towers))
    stride = -(-maps // LANES) * LANES + len(known[0]) - 1
    squares = np.zeros(block * towers * stride, type(k))
    for place in range(0, places, block):
        rows, done = min(block, places - place), place * towers * maps
        _square(x, x_at + done, squares, rows, maps, towers, low, known)
        for tower in range(rows * towers):
            for i in range(0, maps, LANES):
                at, count = done + tower * maps + i, _count(maps - i, known)
                fetch(x, x_at + at + _AHEAD)
                fetch(y, y_at + at + _AHEAD // 2)
                a = at_least(load(x, x_at + at, count), low)
                divisor = k + alpha * _around(squares, tower * stride + i, known)
                store(y, y_at + at, a * _vector_powers(divisor, beta, known)[0], count)


@compiled
def _backward(x, x_at, g, g_at, dx, dx_at, places, maps, towers, k, alpha, beta, low, known):  # type: ignore[no-untyped-def]
    # dx_i = g_i d_i^-beta - 2 alpha beta a_i * (sum over the j whose window holds i of g_j a_j d_j^(-beta - 1)).
    # The divisors d are computed anew: to have kept and to read them would take longer.
    size = len(known[0])
    after = size - 1 - size // 2
    block = max(1, _BLOCK // (maps * towers))
    width = -(-maps // LANES) * LANES
    stride = width + size - 1
    squares, through = np.zeros(block * towers * stride, type(k)), np.zeros(block * towers * stride, type(k))
    direct, factor = np.empty(block * towers * width, type(k)), type(k)(2) * alpha * beta
    for place in range(0, places, block):
        rows, done = min(block, places - place), place * towers * maps
        _square(x, x_at + done, squares, rows, maps, towers, low, known)
        for tower in range(rows * towers):
            for i in range(0, maps, LANES):
                at, count = done + tower * maps + i, _count(maps - i, known)
                fetch(x, x_at + at + _AHEAD)
                fetch(dx, dx_at + at + _AHEAD // 2)
                a = at_least(load(x, x_at + at, count), low)
                divisor = k + alpha * _around(squares, tower * stride + i, known)
                scale, inverse = _vector_powers(divisor, beta, known)
                value = load(g, g_at + at, count) * scale
                store(direct, tower * width + i, value, LANES)
                store(through, tower * stride + after + i, value * a * inverse, count)
        for tower in range(rows * towers):
            for i in range(0, maps, LANES):
                at, count = done + tower * maps + i, _count(maps - i, known)
                fetch(g, g_at + at + _AHEAD)
                a, total = load(x, x_at + at, count), _around(through, tower * stride + i, known)
                value = load(direct, tower * width + i, LANES) - factor * a * total
                store(dx, dx_at + at, where_above(a, low, value), count)


@compiled
def _pool_forward(x, y, which, start, stop, shape, step, maps, towers, k, alpha, beta, low, known):  # type: ignore[no-untyped-def]
    """The loops of `response_norm_pool`, on pictures start to stop of flat arrays."""
    height, width, out_height, out_width = shape
    side, channels = len(known[3]), maps * towers
    row = width * channels
    ring = np.empty(side * row, x.dtype)  # the last rows, normalised: row h at h % side
    at, name = np.empty(side * side, np.intp), np.empty(side * side, type(k))
    for n in range(start, stop):
        ready = 0
        for i in range(out_height):
            bottom = min(i * step + side, height)
            for h in range(max(ready, i * step), bottom):
                place = (n * height + h) * row
                _forward(x, place, ring, h % side * row, width, maps, towers, k, alpha, beta, low, known)
            ready = bottom
            for j in range(out_width):
                for place in range(side * side):  # a cut window has its last row or column again
                    h, w = min(i * step + place // side, height - 1), min(j * step + place % side, width - 1)
                    at[place] = h % side * row + w * channels
                    name[place] = (h - i * step) * side + w - j * step
                out = ((n * out_height + i) * out_width + j) * channels
                for c in range(0, channels, LANES):
                    count = _count(channels - c, known)
                    best = load(ring, at[0] + c, count)
                    chosen = like(best, name[0])
                    for place in range(1, side * side):
                        a = load(ring, at[place] + c, count)
                        chosen = if_greater(a, best, name[place], chosen)
                        best = if_greater(a, best, a, best)
                    store(y, out + c, best, count)
                    store(which, out + c, chosen, count)


@compiled
def _pool_backward(x, g, which, dx, start, stop, shape, step, maps, towers, k, alpha, beta, low, known):  # type: ignore[no-untyped-def]
    height, width, out_height, out_width = shape
    side, channels = len(known[3]), maps * towers
    row, most = width * channels, -(-side // step)
    spread = np.empty(row, type(k))  # the normalised activities' gradients, a row of them
    at, name = np.empty(most * most, np.intp), np.empty(most * most, type(k))
    for n in range(start, stop):
        for h in range(height):
            for w in range(width):
                windows = 0  # those that hold the place, in the order in which torch adds their gradients
                for i in range(max(0, (h - side + step) // step), min(out_height, h // step + 1)):
                    for j in range(max(0, (w - side + step) // step), min(out_width, w // step + 1)):
                        at[windows] = ((n * out_height + i) * out_width + j) * channels
                        name[windows] = (h - i * step) * side + w - j * step
                        windows += 1
                for c in range(0, channels, LANES):
                    count = _count(channels - c, known)
                    total = like(load(spread, 0, 0), 0)
                    for window in range(windows):
                        chosen = load(which, at[window] + c, count)
                        part = where_equal(chosen, name[window], load(g, at[window] + c, count))
                        total = total + part
                    store(spread, w * channels + c, total, count)
            place = (n * height + h) * row
            _backward(x, place, spread, 0, dx, place, width, maps, towers, k, alpha, beta, low, known)


@compiled
def _add_rows(rows, first, last, total):  # type: ignore[no-untyped-def]
    """total = the sum of rows first to last, as far as there are such."""
    total[:] = 0
    for n in range(max(0, first), min(len(rows), last + 1)):
        row = rows[n]
        for i in range(len(total)):
            total[i] += row[i]


@compiled
def _add_neighbours(padded, size, step, total):  # type: ignore[no-untyped-def]
    """total[i] = the sum of padded[i], padded[i + step] ..., `size` of them."""
    total[:] = 0
    for j in range(size):
        shifted = padded[j * step : j * step + len(total)]
        for i in range(len(total)):
            total[i] += shifted[i]


@compiled
def _map_forward(x, y, start, stop, k, alpha, beta, square_roots, size, maps):  # type: ignore[no-untyped-def]
    """The loops of `map_norm`, on arrays (N, H, W * maps): sums over rows first, then along the sum."""
    height, width = x.shape[1:]
    before, after = size // 2, size - 1 - size // 2
    squares, total = np.empty((height, width), x.dtype), np.empty(width, x.dtype)
    rows = np.zeros(width + (size - 1) * maps, x.dtype)  # zeros left and right, for what lies outside the map
    for n in range(start, stop):
        squares[:] = x[n] * x[n]
        for h in range(height):
            _add_rows(squares, h - before, h + after, rows[before * maps : before * maps + width])
            _add_neighbours(rows, size, maps, total)
            for i in range(width):
                y[n, h, i] = x[n, h, i] * _powers(k + alpha * total[i], beta, square_roots)[0]


@compiled
def _map_backward(x, g, dx, start, stop, k, alpha, beta, square_roots, size, maps):  # type: ignore[no-untyped-def]
    """As `_across_maps`'s backward, with the neighbourhood of `_map_forward`."""
    height, width = x.shape[1:]
    before, after = size // 2, size - 1 - size // 2
    squares, through = np.empty((height, width), x.dtype), np.empty((height, width), x.dtype)
    rows, rows_back = np.zeros(width + (size - 1) * maps, x.dtype), np.zeros(width + (size - 1) * maps, x.dtype)
    total, factor = np.empty(width, x.dtype), x.dtype.type(2) * alpha * beta
    for n in range(start, stop):
        squares[:] = x[n] * x[n]
        for h in range(height):
            _add_rows(squares, h - before, h + after, rows[before * maps : before * maps + width])
            _add_neighbours(rows, size, maps, total)
            for i in range(width):
                scale, inverse = _powers(k + alpha * total[i], beta, square_roots)
                dx[n, h, i] = g[n, h, i] * scale
                through[h, i] = dx[n, h, i] * x[n, h, i] * inverse
        for h in range(height):
            _add_rows(through, h - after, h + before, rows_back[after * maps : after * maps + width])
            _add_neighbours(rows_back, size, maps, total)
            for i in range(width):
                dx[n, h, i] -= factor * x[n, h, i] * total[i]


# 16-bit types, which NumPy and Numba have no arithmetic for, as whole numbers (see vectors.py).
_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def _flat(x: Tensor) -> np.ndarray:
    """(N, C, H, W) activities in channels_last memory -> the same memory as a flat array."""
    x = x.detach().permute(0, 2, 3, 1).reshape(-1)
    return x.view(_BITS.get(x.dtype, x.dtype)).numpy()


def _numbers(x: Tensor, k: float, alpha: float, beta: float, relu: bool) -> tuple[Any, Any, Any, Any]:
    """The constants, and the least value of an activity, in the type that x is computed in."""
    number = np.float64 if x.dtype == torch.float64 else np.float32
    return number(k), number(alpha), number(beta), number(0 if relu else -math.inf)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("alexnet::response_norm", mutates_args=(), device_types="cpu")
def _response_norm(x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.channels_last)
    before, after, (n, channels, h, w) = _flat(_channels_last(x)), _flat(y), x.shape
    maps, numbers = channels // towers, _numbers(x, k, alpha, beta, relu)
    known = _known(x, size, beta, maps)

    def part(start: int, stop: int) -> None:
        at = start * channels
        _forward(before, at, after, at, stop - start, maps, towers, *numbers, known)

    in_parallel(part, n * h * w)
    return y


@torch.library.custom_op("alexnet::response_norm_backward", mutates_args=(), device_types="cpu")
def _response_norm_backward(
    g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool
) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    memory, gradients, out = _flat(_channels_last(x)), _flat(_channels_last(g)), _flat(dx)
    n, channels, h, w = x.shape
    maps, numbers = channels // towers, _numbers(x, k, alpha, beta, relu)
    known = _known(x, size, beta, maps)

    def part(start: int, stop: int) -> None:
        at = start * channels
        _backward(memory, at, gradients, at, out, at, stop - start, maps, towers, *numbers, known)

    in_parallel(part, n * h * w)
    return dx


_WIDEST_POOL = 16  # which place of a window was the largest is kept in eight bits


def _pooled(side: int, pool: int, stride: int) -> int:
    """Windows along a side, the last one cut where it reaches over the edge (torch's ceil_mode)."""
    return -(-(side - pool) // stride) + 1 - (-(-(side - pool) // stride) * stride >= side)


@torch.library.custom_op("alexnet::response_norm_pool", mutates_args=(), device_types="cpu")
def _response_norm_pool(
    x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool, pool: int, stride: int
) -> tuple[Tensor, Tensor]:
    y, which = _shape_pooled(x, pool, stride)
    arrays = _flat(_channels_last(x)), _flat(y), _flat(which)
    shape, maps = (*x.shape[2:], *y.shape[2:]), x.shape[1] // towers
    numbers, known = _numbers(x, k, alpha, beta, relu), _known(x, size, beta, maps, pool)

    def part(start: int, stop: int) -> None:
        _pool_forward(*arrays, start, stop, shape, stride, maps, towers, *numbers, known)

    in_parallel(part, len(x))
    return y, which


@torch.library.custom_op("alexnet::response_norm_pool_backward", mutates_args=(), device_types="cpu")
def _response_norm_pool_backward(
    g: Tensor,
    x: Tensor,
    which: Tensor,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    towers: int,
    relu: bool,
    pool: int,
    stride: int,
) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    arrays = _flat(_channels_last(x)), _flat(_channels_last(g)), _flat(_channels_last(which)), _flat(dx)
    shape, maps = (*x.shape[2:], *g.shape[2:]), x.shape[1] // towers
    numbers, known = _numbers(x, k, alpha, beta, relu), _known(x, size, beta, maps, pool)

    def part(start: int, stop: int) -> None:
        _pool_backward(*arrays, start, stop, shape, stride, maps, towers, *numbers, known)

    in_parallel(part, len(x))
    return dx


def _shape_pooled(x: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
    """Empty results for `response_norm_pool`: the pooled activities, and which of its window each is."""
    pool, stride = constants[-2:]
    n, channels, height, width = x.shape
    shape = (n, channels, _pooled(height, pool, stride), _pooled(width, pool, stride))
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return y, torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=torch.channels_last)


def _memory(x: Tensor) -> np.ndarray:
    """(N, C, H, W) activities as an (N, H, W, C) array, float32 unless they are float64; copied only where needed."""
    return _wide(x.detach()).permute(0, 2, 3, 1).contiguous().numpy()


def _tensor(memory: np.ndarray, like: Tensor) -> Tensor:
    """An (N, H, W, C) array as (N, C, H, W) activities of the type of `like`."""
    result = torch.empty_like(like, memory_format=torch.channels_last)
    return result.copy_(torch.from_numpy(memory).permute(0, 3, 1, 2))


def _constants(x: np.ndarray, k: float, alpha: float, beta: float) -> tuple[Any, Any, Any]:
    number = x.dtype.type
    return number(k), number(alpha), number(beta)


@torch.library.custom_op("alexnet::map_norm", mutates_args=(), device_types="cpu")
def _map_norm(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    memory, maps = _memory(x), x.shape[1]
    out, shape = np.empty_like(memory), (*memory.shape[:2], memory.shape[2] * maps)
    rows, y = memory.reshape(shape), out.reshape(shape)
    constants = _constants(memory, k, alpha, beta)
    in_parallel(lambda start, stop: _map_forward(rows, y, start, stop, *constants, beta == 0.75, size, maps), len(rows))
    return _tensor(out, x)


@torch.library.custom_op("alexnet::map_norm_backward", mutates_args=(), device_types="cpu")
def _map_norm_backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    memory, maps = _memory(x), x.shape[1]
    out, shape = np.empty_like(memory), (*memory.shape[:2], memory.shape[2] * maps)
    rows, g_rows, dx = (array.reshape(shape) for array in (memory, _memory(g), out))
    constants = _constants(memory, k, alpha, beta)
    in_parallel(
        lambda start, stop: _map_backward(rows, g_rows, dx, start, stop, *constants, beta == 0.75, size, maps),
        len(rows),
    )
    return _tensor(out, x)


def _register(forward: Any, backward: Any) -> None:
    """Give an operator and its gradient their shape functions, and the operator its gradient."""

    def shape(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def shape_back(_g: Tensor, x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
        x, *ctx.constants = inputs
        ctx.save_for_backward(x)

    def gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        return (backward(g, x, *ctx.constants), *(None for _ in ctx.constants))

    forward.register_fake(shape)
    backward.register_fake(shape_back)
    forward.register_autograd(gradient, setup_context=keep)


_register(_response_norm, _response_norm_backward)
_register(_map_norm, _map_norm_backward)


def _keep_pooled(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, *ctx.constants = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1])


def _gradient_pooled(ctx: Any, g: Tensor, _which: None) -> tuple[Any, ...]:
    x, which = ctx.saved_tensors
    return (_response_norm_pool_backward(g, x, which, *ctx.constants), *(None for _ in ctx.constants))


_response_norm_pool.register_fake(_shape_pooled)
_response_norm_pool_backward.register_fake(
    lambda _g, x, *_: torch.empty_like(x, memory_format=torch.channels_last),
)
_response_norm_pool.register_autograd(_gradient_pooled, setup_context=_keep_pooled)


# Triton is imported when a GPU first needs it.


@_response_norm.register_kernel("cuda")
def _(x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.forward(x, *constants)


@_response_norm_backward.register_kernel("cuda")
def _(g: Tensor, x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.backward(g, x, *constants)


@_response_norm_pool.register_kernel("cuda")
def _(x: Tensor, *constants: Any) -> tuple[Tensor, Tensor]:
    from alexnet.kernels import response_norm_triton

    y, which = _shape_pooled(x, *constants)
    response_norm_triton.pool_forward(x, y, which, *constants)
    return y, which


@_response_norm_pool_backward.register_kernel("cuda")
def _(g: Tensor, x: Tensor, which: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.pool_backward(g, x, which, *constants)


@_map_norm.register_kernel("cuda")
def _(x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.map_forward(x, *constants)


@_map_norm_backward.register_kernel("cuda")
def _(g: Tensor, x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.map_backward(g, x, *constants)


_TRITON = has_triton()  # here, so that torch.compile need not look into it


def _has_kernel(x: Tensor) -> bool:
    """Whether there are loops for x's device and type; on other devices, and in float64 on a GPU, plain torch works."""
    if x.device.type == "cuda" and not _TRITON:
        note("response normalisation on the GPU runs in plain torch, several times slower: Triton is not installed")
    return x.device.type == "cpu" or (x.device.type == "cuda" and _TRITON and x.dtype != torch.float64)


def _check(x: Tensor, size: int, towers: int) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must have four dimensions (pictures, maps, rows, columns); got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be of a floating type; got {x.dtype}")
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    if towers < 1 or x.shape[1] % towers:
        raise ValueError(f"towers must divide the number of maps, {x.shape[1]}; got {towers}")


def response_norm(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, towers: int = 1, relu: bool = False
) -> Tensor:
    """Divide each activity by (k + alpha * sum of squares over `size` neighbouring maps at its place)**beta (4.3).

    Args:
        x: (N, C, H, W) activities, of any floating type; sums are made in float32 or better.
        size: The paper's n: map i's window is i - size // 2 to i - size // 2 + size - 1, cut at its tower's ends.
        k, alpha, beta: The paper's constants. (The 2012 program, torch and Caffe divide alpha by size; a caller who
            wants that passes it divided.)
        towers: Number of equal groups of maps; no window reaches into another group.
        relu: Whether to apply max(0, x) first, in the same pass.

    Returns:
        (N, C, H, W); in channels_last memory on a CPU and a GPU.

    Raises:
        ValueError: The towers do not divide the maps, or a size below 1.
    """
    _check(x, size, towers)
    if not _has_kernel(x):
        return response_norm_reference(x, size=size, k=k, alpha=alpha, beta=beta, towers=towers, relu=relu)
    result: Tensor = _response_norm(x, size, k, alpha, beta, towers, relu)
    return result


def map_norm(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """Divide each activity by (k + alpha * sum of squares over size x size places of its own map)**beta.

    The 2012 program's second normalisation; not in the paper. Places outside the map count as zeros.

    Args:
        x: (N, C, H, W) activities, of any floating type; sums are made in float32 or better.
        size: Side of the neighbourhood, in pixels; from size // 2 before an activity's place, in rows and columns.
        k, alpha, beta: The constants of the divisor; alpha as it is, not divided by the number of places.

    Returns:
        (N, C, H, W); in channels_last memory on a CPU and a GPU.

    Raises:
        ValueError: A size below 1.
    """
    _check(x, size, 1)
    if not _has_kernel(x):
        return map_norm_reference(x, size=size, k=k, alpha=alpha, beta=beta)
    result: Tensor = _map_norm(x, size, k, alpha, beta)
    return result


def response_norm_pool(
    x: Tensor,
    *,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    towers: int = 1,
    relu: bool = False,
    pool: int,
    stride: int,
) -> Tensor:
    """`response_norm` and the largest of each `pool` x `pool` places of its result, in one pass (4.3, 4.4).

    Args:
        x, size, k, alpha, beta, towers, relu: As for `response_norm`.
        pool: Side of a window, in places.
        stride: Places from one window to the next; a window that reaches over the right or the lower edge is cut.

    Returns:
        (N, C, rows, columns), what torch's `max_pool2d` with `ceil_mode` makes of `response_norm`'s result: the same
        numbers, and on the CPU the same gradients in float32. In channels_last memory on a CPU and a GPU.

    Raises:
        ValueError: As `response_norm`; no window fits, or a side or stride below 1.
    """
    _check(x, size, towers)
    if pool < 1 or stride < 1 or min(_pooled(side, pool, stride) for side in x.shape[2:]) < 1:
        raise ValueError(f"pool and stride must be at least 1 and fit the maps, {tuple(x.shape)}; got {pool}, {stride}")
    if not _has_kernel(x) or x.dtype == torch.float64 or pool > _WIDEST_POOL:
        y = response_norm(x, size=size, k=k, alpha=alpha, beta=beta, towers=towers, relu=relu)
        return F.max_pool2d(y, pool, stride, ceil_mode=True)
    result: Tensor = _response_norm_pool(x, size, k, alpha, beta, towers, relu, pool, stride)[0]
    return result

"""Response normalisation (section 4.3): across the maps of a tower and, as the 2012 program also did, within a map.

Each operation has a plain torch version (`..._reference`), and loops for the CPU (here) and the GPU (in
response_norm_triton.py) that read and write every activity once and keep nothing but their input for the way back.
They work on channels_last memory, where the maps' activities at one place lie side by side; other memory is converted.
Activities of 16 bits are widened and rounded in the loops. Results do not depend on the number of threads.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.compile import has_triton, jit
from alexnet.kernels.layout import check_feature_maps, compute_type, flat_array, to_channels_last
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import (
    LANES,
    around,
    at_least,
    every,
    fetch,
    first_of,
    fused,
    guess,
    lanes,
    load,
    store,
    where_above,
)
from alexnet.utils.console import note_once


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


# The loops of `response_norm` take flat arrays and the place of the first activity in each. They go along a tower by
# vectors (see vectors.py) and keep the one before and the one after, which windows reach into: LLVM's own vectors would
# leave a third of 48 maps to be done one by one, and what was stored cannot be read at another offset at once. `low` is
# 0 with a ReLU and minus infinity without.
#
# The window's size, and a few answers, must be known when the loops are compiled. They come as the lengths of tuples,
# which Numba compiles a function anew for: closures would do it too, but Numba does not find what it kept of those
# that call each other.

_WIDEST = 2 * LANES + 1  # of the windows that reach no further
_AHEAD = 1024  # activities: how far ahead of the loop memory is asked for; half of it for what will be written


class _Known(NamedTuple):
    """Tuples whose lengths are the window's numbers before an activity, in all, and after it; the steps that make the
    power, 0 for `pow`; and 1 where vectors fit the activities of a row."""

    before: tuple[int, ...]
    size: tuple[int, ...]
    after: tuple[int, ...]
    steps: tuple[int, ...]
    whole: tuple[int, ...]


def _known(x: Tensor, size: int, beta: float, count: int) -> _Known:
    """What is known of windows of `size`, the power `beta`, and `count` activities in a row."""
    # One step leaves 2e-4 of a power, a tenth of what rounding to bfloat16 does; two leave float32's rounding.
    steps = 0 if beta != 0.75 else {torch.float64: 3, torch.bfloat16: 1}.get(x.dtype, 2)
    lengths = size // 2, size, size - 1 - size // 2, steps, count % LANES == 0
    return _Known(*((0,) * int(length) for length in lengths))


@jit
def _nearer(divisor, y):  # type: ignore[no-untyped-def]
    """A step towards y = divisor**-0.25; of a relative error e / 4 there remains about 0.03 * e**3."""
    square = y * y
    error = fused(divisor * square, -1.0 * square, 1.0)  # in this order, which cannot overflow
    return fused(y * error, fused(error, 0.15625, 0.25), y)


@jit
def _powers(divisor, beta, known):  # type: ignore[no-untyped-def]
    """(divisor**-beta, 1 / divisor) of a vector; without roots and divisions, where beta is known to be 0.75.

    Those would take most of the time.
    """
    if len(known.steps) > 0:
        y = guess(divisor)
        for _ in range(len(known.steps)):
            y = _nearer(divisor, y)
        y = where_above(math.inf, divisor, y)  # 0, not NaN, where the squares have overflowed
        square = y * y
        return square * y, square * square
    return divisor**-beta, 1.0 / divisor


@jit
def _activities(x, at, i, maps, low, zero, known):  # type: ignore[no-untyped-def]
    """Activities i to i + LANES of the `maps` that begin at `at`, after the ReLU; zeros behind the last."""
    if i >= maps:
        return zero
    return at_least(load(x, at + i, lanes(maps - i, known.whole)), low)


@jit
def _forward(x, x_at, y, y_at, towers, maps, k, alpha, beta, low, known):  # type: ignore[no-untyped-def]
    """As many towers at as many places, each of `maps` activities side by side."""
    zero = every(type(k)(0))
    for tower in range(towers):
        x_tower, y_tower, before = x_at + tower * maps, y_at + tower * maps, zero
        a = _activities(x, x_tower, 0, maps, low, zero, known)
        here = a * a
        for i in range(0, maps, LANES):
            fetch(x, x_tower + i + _AHEAD)
            fetch(y, y_tower + i + _AHEAD // 2)
            following = _activities(x, x_tower, i + LANES, maps, low, zero, known)
            after = following * following
            divisor = fused(around(before, here, after, known.before, known.size), alpha, k)
            store(y, y_tower + i, a * _powers(divisor, beta, known)[0], lanes(maps - i, known.whole))
            a, before, here = following, here, after


@jit
def _give_back(dx, at, a, direct, before, here, after, factor, low, count, known):  # type: ignore[no-untyped-def]
    total = around(before, here, after, known.after, known.size)
    store(dx, at, where_above(a, low, fused(factor * a, total, direct)), count)


@jit
def _backward(x, x_at, g, g_at, dx, dx_at, towers, maps, k, alpha, beta, low, known):  # type: ignore[no-untyped-def]
    # dx_i = g_i d_i^-beta - 2 alpha beta a_i * (sum over the j whose window holds i of g_j a_j d_j^(-beta - 1)).
    # The divisors d are computed anew: to have kept and to read them would take longer. What lies behind the sum,
    # `through`, must be known of the next vector too, so that dx is written one behind.
    zero, factor = every(type(k)(0)), type(k)(-2) * alpha * beta
    for tower in range(towers):
        x_tower, g_tower, dx_tower = x_at + tower * maps, g_at + tower * maps, dx_at + tower * maps
        a = _activities(x, x_tower, 0, maps, low, zero, known)
        before, here, last, direct, through_before, through = zero, a * a, zero, zero, zero, zero
        for i in range(0, maps, LANES):
            fetch(x, x_tower + i + _AHEAD)
            fetch(g, g_tower + i + _AHEAD)
            fetch(dx, dx_tower + i + _AHEAD // 2)
            following = _activities(x, x_tower, i + LANES, maps, low, zero, known)
            after = following * following
            divisor = fused(around(before, here, after, known.before, known.size), alpha, k)
            scale, inverse = _powers(divisor, beta, known)
            value = load(g, g_tower + i, lanes(maps - i, known.whole)) * scale
            through_after = value * a * inverse
            if len(known.whole) == 0:
                through_after = first_of(through_after, maps - i)
            if i > 0:
                to = dx_tower + i - LANES
                _give_back(dx, to, last, direct, through_before, through, through_after, factor, low, LANES, known)
            last, direct, through_before, through = a, value, through, through_after
            a, before, here = following, here, after
        to = (maps - 1) // LANES * LANES
        count = lanes(maps - to, known.whole)
        _give_back(dx, dx_tower + to, last, direct, through_before, through, zero, factor, low, count, known)


# The loops of `map_norm` see all maps of a picture's row as one row: a map's next activity lies `maps` further. The
# neighbourhood's size need not be known when they are compiled.


@jit
def _rows_added(squares, h, size, stride, width, sums, at):  # type: ignore[no-untyped-def]
    """sums[at : at + width] = the sums of `size` rows from row h on."""
    for i in range(0, width, LANES):
        total = load(squares, h * stride + i, LANES)
        for j in range(1, size):
            total = total + load(squares, (h + j) * stride + i, LANES)
        store(sums, at + i, total, LANES)


@jit
def _apart(sums, at, size, maps):  # type: ignore[no-untyped-def]
    """The sums of `size` values that lie `maps` apart."""
    total = load(sums, at, LANES)
    for j in range(1, size):
        total = total + load(sums, at + j * maps, LANES)
    return total


@jit
def _map_square(x, at, squares, before, stride, height, width, known):  # type: ignore[no-untyped-def]
    """Squares of a picture, `before` rows down; those around remain zeros, for what lies outside the map."""
    for h in range(height):
        for i in range(0, width, LANES):
            a = load(x, at + h * width + i, lanes(width - i, known.whole))
            store(squares, (before + h) * stride + i, a * a, LANES)


@jit
def _map_forward(x, y, start, stop, height, width, maps, size, k, alpha, beta, known):  # type: ignore[no-untyped-def]
    """Pictures start to stop, rows of `width` activities: sums over rows first, then along the sum."""
    before, stride = size // 2, -(-width // LANES) * LANES
    squares = np.zeros((height + size - 1) * stride, type(k))
    sums = np.zeros(stride + (size - 1) * maps, type(k))  # zeros left and right too
    for n in range(start, stop):
        _map_square(x, n * height * width, squares, before, stride, height, width, known)
        for h in range(height):
            _rows_added(squares, h, size, stride, width, sums, before * maps)
            for i in range(0, width, LANES):
                at, count = (n * height + h) * width + i, lanes(width - i, known.whole)
                scale, _ = _powers(k + alpha * _apart(sums, i, size, maps), beta, known)
                store(y, at, load(x, at, count) * scale, count)


@jit
def _map_backward(x, g, dx, start, stop, height, width, maps, size, k, alpha, beta, known):  # type: ignore[no-untyped-def]
    """As `_backward`, with the neighbourhood of `_map_forward`."""
    before, after, stride = size // 2, size - 1 - size // 2, -(-width // LANES) * LANES
    around = (height + size - 1) * stride
    squares, through = np.zeros(around, type(k)), np.zeros(around, type(k))
    wide = stride + (size - 1) * maps
    sums, sums_back = np.zeros(wide, type(k)), np.zeros(wide, type(k))
    direct, factor = np.empty(height * stride, type(k)), type(k)(2) * alpha * beta
    for n in range(start, stop):
        _map_square(x, n * height * width, squares, before, stride, height, width, known)
        for h in range(height):
            _rows_added(squares, h, size, stride, width, sums, before * maps)
            for i in range(0, width, LANES):
                at, count = (n * height + h) * width + i, lanes(width - i, known.whole)
                scale, inverse = _powers(k + alpha * _apart(sums, i, size, maps), beta, known)
                value = load(g, at, count) * scale
                store(direct, h * stride + i, value, LANES)
                store(through, (after + h) * stride + i, value * load(x, at, count) * inverse, count)
        for h in range(height):
            _rows_added(through, h, size, stride, width, sums_back, after * maps)
            for i in range(0, width, LANES):
                at, count = (n * height + h) * width + i, lanes(width - i, known.whole)
                total = _apart(sums_back, i, size, maps)
                value = load(direct, h * stride + i, LANES) - factor * load(x, at, count) * total
                store(dx, at, value, count)


def _numbers(x: Tensor, k: float, alpha: float, beta: float, relu: bool) -> tuple[Any, Any, Any, Any]:
    """The constants, and the least value of an activity, in the type that x is computed in."""
    kind = compute_type(x)
    return kind(k), kind(alpha), kind(beta), kind(0 if relu else -math.inf)


@torch.library.custom_op("alexnet::response_norm", mutates_args=(), device_types="cpu")
def _response_norm(x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.channels_last)
    before, after, (n, channels, h, w) = flat_array(to_channels_last(x)), flat_array(y), x.shape
    maps, numbers = channels // towers, _numbers(x, k, alpha, beta, relu)
    known = _known(x, size, beta, maps)

    def part(start: int, stop: int) -> None:
        at = start * channels
        _forward(before, at, after, at, (stop - start) * towers, maps, *numbers, known)

    parallel_for(part, n * h * w)
    return y


@torch.library.custom_op("alexnet::response_norm_backward", mutates_args=(), device_types="cpu")
def _response_norm_backward(
    g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool
) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    memory, gradients, out = flat_array(to_channels_last(x)), flat_array(to_channels_last(g)), flat_array(dx)
    n, channels, h, w = x.shape
    maps, numbers = channels // towers, _numbers(x, k, alpha, beta, relu)
    known = _known(x, size, beta, maps)

    def part(start: int, stop: int) -> None:
        at = start * channels
        _backward(memory, at, gradients, at, out, at, (stop - start) * towers, maps, *numbers, known)

    parallel_for(part, n * h * w if channels else 0)  # `_backward` wants a map
    return dx


@torch.library.custom_op("alexnet::map_norm", mutates_args=(), device_types="cpu")
def _map_norm(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.channels_last)
    before, after, (n, maps, height, w) = flat_array(to_channels_last(x)), flat_array(y), x.shape
    numbers, known = _numbers(x, k, alpha, beta, relu=False)[:3], _known(x, 0, beta, w * maps)

    def part(start: int, stop: int) -> None:
        _map_forward(before, after, start, stop, height, w * maps, maps, size, *numbers, known)

    parallel_for(part, n)
    return y


@torch.library.custom_op("alexnet::map_norm_backward", mutates_args=(), device_types="cpu")
def _map_norm_backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    memory, gradients, out = flat_array(to_channels_last(x)), flat_array(to_channels_last(g)), flat_array(dx)
    n, maps, height, w = x.shape
    numbers, known = _numbers(x, k, alpha, beta, relu=False)[:3], _known(x, 0, beta, w * maps)

    def part(start: int, stop: int) -> None:
        _map_backward(memory, gradients, out, start, stop, height, w * maps, maps, size, *numbers, known)

    parallel_for(part, n)
    return dx


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


# Triton is imported when a GPU first needs it.


@_response_norm.register_kernel("cuda")
def _(x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.forward(x, *constants)


@_response_norm_backward.register_kernel("cuda")
def _(g: Tensor, x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.backward(g, x, *constants)


@_map_norm.register_kernel("cuda")
def _(x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.map_forward(x, *constants)


@_map_norm_backward.register_kernel("cuda")
def _(g: Tensor, x: Tensor, *constants: Any) -> Tensor:
    from alexnet.kernels import response_norm_triton

    return response_norm_triton.map_backward(g, x, *constants)


_TRITON = has_triton()  # here, so that torch.compile need not look into it


def _has_kernel(x: Tensor, size: int = 1) -> bool:
    """Whether there are loops for x's device and type, and for windows of `size` maps; elsewhere plain torch works."""
    if x.device.type == "cpu":
        if size > _WIDEST:
            note_once(
                f"response normalisation over more than {_WIDEST} maps runs in plain torch on a CPU, "
                "several times slower"
            )
        return size <= _WIDEST
    if x.device.type == "cuda" and not _TRITON:
        note_once(
            "response normalisation on the GPU runs in plain torch, several times slower: Triton is not installed"
        )
    return x.device.type == "cuda" and _TRITON and x.dtype != torch.float64


def _check(x: Tensor, size: int, towers: int) -> None:
    check_feature_maps(x)
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
        size: The paper's n: map i's window is i - size // 2 to i - size // 2 + size - 1, cut at its tower's ends. Above
            33, plain torch computes it on a CPU.
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
    if not _has_kernel(x, size):
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

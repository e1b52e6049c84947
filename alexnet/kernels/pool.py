"""Pooling (section 4.4): the largest or the mean of each window of a map, forward and back, in loops for the CPU.

On a GPU the maximum is computed in Triton, by pool_triton.py. All else is left to torch's own operations, which are the
plain versions. What they compute with `ceil_mode` is what the loops compute, to the bit in float32: a window that
reaches over the right or the lower edge is cut; of equals the first is the largest, and the last NaN if there is one; a
mean is over the places that a cut window has left.

The loops work on channels_last memory, read activities of 16 bits as they are, and compare or sum in float32 or better.
Which of its window the largest was is kept in eight bits, and nothing else for the way back: that goes through the
places, each of which sums what the windows that hold it give back, so that no zeros need be written before. Results do
not depend on the number of threads.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.compile import has_triton, jit
from alexnet.kernels.layout import check_feature_maps, compute_type, flat_array, to_channels_last
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import LANES, every, if_greater, lanes, load, store, where_named
from alexnet.utils.console import note_once

# What must be known when the loops are compiled comes as the lengths of tuples, for each of which Numba compiles anew:
# the window's side; whether vectors fit the maps; whether the mean is wanted. The windows that are not cut, and the
# places that one or two rows and columns of windows hold, have loops of their own, with their numbers known.
_ONE, _TWO = (0,), (0, 0)


def _known(size: int, maps: int, *, mean: bool) -> tuple[tuple[int, ...], ...]:
    return tuple((0,) * int(length) for length in (size, maps % LANES == 0, mean))


@jit
def _largest_of_row(x, at, maps, count, name, columns):  # type: ignore[no-untyped-def]
    """The largest of a window's row, and its name in the window; that of the row's first place is given."""
    best, chosen = load(x, at, count), every(np.uint8(name))
    for j in range(1, len(columns)):
        a = load(x, at + j * maps, count)
        chosen = if_greater(a, best, np.uint8(name + j), chosen)
        best = if_greater(a, best, a, best)
    return best, chosen


@jit
def _largest(x, lines, left, y, which, out, maps, rows, columns, known):  # type: ignore[no-untyped-def]
    for c in range(0, maps, LANES):
        count = lanes(maps - c, known[1])
        # Row by row, and then of these: a chain of comparisons half as long, for which the processor would wait.
        best, chosen = _largest_of_row(x, lines[0] + left + c, maps, count, 0, columns)
        for i in range(1, len(rows)):
            a, name = _largest_of_row(x, lines[i] + left + c, maps, count, i * len(known[0]), columns)
            chosen = if_greater(a, best, name, chosen)
            best = if_greater(a, best, a, best)
        store(y, out + c, best, count)
        store(which, out + c, chosen, count)


@jit
def _mean(x, lines, left, y, out, maps, rows, columns, zero, known):  # type: ignore[no-untyped-def]
    for c in range(0, maps, LANES):
        count = lanes(maps - c, known[1])
        total = every(zero)
        for i in range(len(rows)):
            for j in range(len(columns)):
                total = total + load(x, lines[i] + left + j * maps + c, count)
        store(y, out + c, total / (len(rows) * len(columns)), count)


@jit
def _window(x, lines, left, y, which, out, maps, rows, columns, zero, known):  # type: ignore[no-untyped-def]
    """A window of all maps: as many rows and columns as those have entries, from `left` behind the starts of lines."""
    if len(known[2]) == 1:
        _mean(x, lines, left, y, out, maps, rows, columns, zero, known)
    else:
        _largest(x, lines, left, y, which, out, maps, rows, columns, known)


@jit
def _forward(x, y, which, start, stop, shape, stride, maps, zero, known):  # type: ignore[no-untyped-def]
    """Rows start to stop of all pictures' pooled places, in flat arrays."""
    height, width, out_height, out_width = shape
    size = len(known[0])
    lines = np.empty(size, np.intp)  # where the windows' rows begin
    for row in range(start, stop):
        top = row % out_height * stride
        rows = min(size, height - top)
        for i in range(rows):
            lines[i] = (row // out_height * height + top + i) * width * maps
        for j in range(out_width):
            left, out = j * stride * maps, (row * out_width + j) * maps
            columns = min(size, width - j * stride)
            if rows == size and columns == size:
                _window(x, lines, left, y, which, out, maps, known[0], known[0], zero, known)
            else:
                _window(x, lines, left, y, which, out, maps, lines[:rows], lines[:columns], zero, known)


@jit
def _given_back(g, which, at, count, row, column, below, beside, known):  # type: ignore[no-untyped-def]
    """What a window gives back to the place at a row and column of it, with so many before the map's edges."""
    if len(known[2]) == 1:
        size = len(known[0])
        return load(g, at, count) / (min(size, below) * min(size, beside))
    return where_named(load(which, at, count), np.uint8(row * len(known[0]) + column), load(g, at, count))


@jit
def _place(g, which, dx, to, at, line, maps, rows, columns, place, edges, stride, zero, known):  # type: ignore[no-untyped-def]
    """The gradient at one place: of the first window that holds it, at `at`, and the others below and beside.

    rows, columns: As many of windows as those have entries.
    place, edges: Row and column of the place, and of the map's end, in the first window.
    """
    for c in range(0, maps, LANES):
        count = lanes(maps - c, known[1])
        total = every(zero)
        for i in range(len(rows)):
            for j in range(len(columns)):
                up, left, window = i * stride, j * stride, at + i * line + j * maps + c
                row, column, below, beside = place[0] - up, place[1] - left, edges[0] - up, edges[1] - left
                total = total + _given_back(g, which, window, count, row, column, below, beside, known)
        store(dx, to + c, total, count)


@jit
def _holding(h, end, size, stride):  # type: ignore[no-untyped-def]
    """The first of the windows along a side that hold a place, and how many do: none, where windows leave gaps."""
    first = max(0, (h - size + stride) // stride)
    return first, max(0, min(end, h // stride + 1) - first)


@jit
def _backward(g, which, dx, start, stop, shape, stride, maps, zero, known):  # type: ignore[no-untyped-def]
    """Rows start to stop of all pictures' places, in flat arrays."""
    height, width, out_height, out_width = shape
    size = len(known[0])
    line, many = out_width * maps, np.empty(size, np.intp)
    for row in range(start, stop):
        h = row % height
        i, rows = _holding(h, out_height, size, stride)
        for w in range(width):
            j, columns = _holding(w, out_width, size, stride)
            top, left = i * stride, j * stride
            place, edges = (h - top, w - left), (height - top, width - left)
            at = ((row // height * out_height + i) * out_width + j) * maps
            to = (row * width + w) * maps
            # (torch sums in this order too: from the top left.)
            if rows == 1 and columns == 1:
                _place(g, which, dx, to, at, line, maps, _ONE, _ONE, place, edges, stride, zero, known)
            elif rows == 1 and columns == 2:
                _place(g, which, dx, to, at, line, maps, _ONE, _TWO, place, edges, stride, zero, known)
            elif rows == 2 and columns == 1:
                _place(g, which, dx, to, at, line, maps, _TWO, _ONE, place, edges, stride, zero, known)
            elif rows == 2 and columns == 2:
                _place(g, which, dx, to, at, line, maps, _TWO, _TWO, place, edges, stride, zero, known)
            else:
                _place(g, which, dx, to, at, line, maps, many[:rows], many[:columns], place, edges, stride, zero, known)


_NO_NAMES = np.empty(0, np.uint8)  # of which of its window a mean is


def _run(x: Tensor, y: Tensor, which: np.ndarray, size: int, stride: int, *, mean: bool) -> None:
    before, after, shape, maps = (
        flat_array(to_channels_last(x)),
        flat_array(y),
        (*x.shape[2:], *y.shape[2:]),
        x.shape[1],
    )
    zero, known = compute_type(x)(0), _known(size, maps, mean=mean)

    def part(start: int, stop: int) -> None:
        _forward(before, after, which, start, stop, shape, stride, maps, zero, known)

    parallel_for(part, len(y) * y.shape[2])


def _run_back(g: Tensor, which: np.ndarray, dx: Tensor, size: int, stride: int, *, mean: bool) -> None:
    gradients, out, shape, maps = (
        flat_array(to_channels_last(g)),
        flat_array(dx),
        (*dx.shape[2:], *g.shape[2:]),
        g.shape[1],
    )
    zero, known = compute_type(g)(0), _known(size, maps, mean=mean)

    def part(start: int, stop: int) -> None:
        _backward(gradients, which, out, start, stop, shape, stride, maps, zero, known)

    parallel_for(part, len(dx) * dx.shape[2])


def _side(side: int, size: int, stride: int) -> int:
    """Windows along a side; the last one may be cut, but must begin within (torch's ceil_mode)."""
    steps = -(-(side - size) // stride)
    return steps + 1 - (steps * stride >= side)


def _pooled(x: Tensor, size: int, stride: int) -> Tensor:
    """Room for the pooled activities."""
    shape = (*x.shape[:2], *(_side(side, size, stride) for side in x.shape[2:]))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _spread(g: Tensor, height: int, width: int) -> Tensor:
    """Room for the activities' gradients."""
    shape = (*g.shape[:2], height, width)
    return torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)


@torch.library.custom_op("alexnet::max_pool", mutates_args=(), device_types="cpu")
def _max_pool(x: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    y, which = _max_pool_shape(x, size, stride)
    _run(x, y, flat_array(which), size, stride, mean=False)
    return y, which


@torch.library.custom_op("alexnet::max_pool_backward", mutates_args=(), device_types="cpu")
def _max_pool_backward(g: Tensor, which: Tensor, height: int, width: int, size: int, stride: int) -> Tensor:
    dx = _spread(g, height, width)
    _run_back(g, flat_array(to_channels_last(which)), dx, size, stride, mean=False)
    return dx


@torch.library.custom_op("alexnet::average_pool", mutates_args=(), device_types="cpu")
def _average_pool(x: Tensor, size: int, stride: int) -> Tensor:
    y = _pooled(x, size, stride)
    _run(x, y, _NO_NAMES, size, stride, mean=True)
    return y


@torch.library.custom_op("alexnet::average_pool_backward", mutates_args=(), device_types="cpu")
def _average_pool_backward(g: Tensor, height: int, width: int, size: int, stride: int) -> Tensor:
    dx = _spread(g, height, width)
    _run_back(g, _NO_NAMES, dx, size, stride, mean=True)
    return dx


@_max_pool.register_fake
def _max_pool_shape(x: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    y = _pooled(x, size, stride)
    return y, torch.empty_like(y, dtype=torch.uint8)


_average_pool.register_fake(_pooled)
_max_pool_backward.register_fake(lambda g, _which, height, width, *_: _spread(g, height, width))
_average_pool_backward.register_fake(lambda g, height, width, *_: _spread(g, height, width))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, size, stride = inputs
    ctx.numbers = (*x.shape[2:], size, stride)
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])


def _max_pool_gradient(ctx: Any, g: Tensor, _which: None) -> tuple[Any, ...]:
    return _max_pool_backward(g, *ctx.saved_tensors, *ctx.numbers), None, None


def _average_pool_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return _average_pool_backward(g, *ctx.numbers), None, None


# Triton is imported when a GPU first needs it.


@_max_pool.register_kernel("cuda")
def _(x: Tensor, size: int, stride: int) -> tuple[Tensor, Tensor]:
    from alexnet.kernels import pool_triton

    y, which = _max_pool_shape(x, size, stride)
    pool_triton.max_pool_forward(x, y, which, size, stride)
    return y, which


@_max_pool_backward.register_kernel("cuda")
def _(g: Tensor, which: Tensor, height: int, width: int, size: int, stride: int) -> Tensor:
    from alexnet.kernels import pool_triton

    dx = _spread(g, height, width)
    pool_triton.max_pool_backward(g, which, dx, size, stride)
    return dx


_max_pool.register_autograd(_max_pool_gradient, setup_context=_keep)
_average_pool.register_autograd(_average_pool_gradient, setup_context=_keep)

_WIDEST = 16  # side of a window whose places eight bits can name
_WIDEST_ON_GPU = 8  # size and stride that pool_triton.py's loops are unrolled for; beyond, compiling takes too long
_TRITON = has_triton()  # here, so that torch.compile need not look into it


def _has_kernel(x: Tensor, size: int, stride: int) -> bool:
    """Whether max_pool has a kernel for x's device and type, and for such windows; elsewhere torch's is taken."""
    if x.device.type != "cuda":
        return x.device.type == "cpu" and size <= _WIDEST
    if not _TRITON:
        note_once("max pooling on the GPU runs in torch's kernels, several times slower: Triton is not installed")
    return _TRITON and x.dtype != torch.float64 and max(size, stride) <= _WIDEST_ON_GPU


def _check(x: Tensor, size: int, stride: int) -> None:
    check_feature_maps(x)
    if size < 1 or stride < 1 or min(_side(side, size, stride) for side in x.shape[2:]) < 1:
        raise ValueError(f"size and stride must be at least 1 and fit the maps, {tuple(x.shape)}; got {size}, {stride}")


def max_pool(x: Tensor, *, size: int, stride: int) -> Tensor:
    """The largest of each `size` x `size` places of a map (4.4); torch's max_pool2d with ceil_mode.

    Args:
        x: (N, C, H, W) activities, of any floating type.
        size: Side of a window, in places.
        stride: Places from one window to the next; a window that reaches over the right or the lower edge is cut.

    Returns:
        (N, C, rows, columns); in channels_last memory on a CPU and, of 32 bits or fewer, on a GPU with Triton.

    Raises:
        ValueError: x is no four-dimensional tensor of a floating type; no window fits, or a size or stride below 1.
    """
    _check(x, size, stride)
    if not _has_kernel(x, size, stride):
        return F.max_pool2d(x, size, stride, ceil_mode=True)
    result: Tensor = _max_pool(x, size, stride)[0]
    return result


def average_pool(x: Tensor, *, size: int, stride: int) -> Tensor:
    """The mean of each `size` x `size` places of a map (the 2012 program's); torch's avg_pool2d with ceil_mode.

    Args, Returns, Raises: As for `max_pool`.
    """
    _check(x, size, stride)
    if x.device.type != "cpu":
        return F.avg_pool2d(x, size, stride, ceil_mode=True)
    result: Tensor = _average_pool(x, size, stride)
    return result

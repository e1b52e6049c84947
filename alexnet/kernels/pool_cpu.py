"""The loops of max and average pooling for the CPU.

They take flat arrays in channels_last memory, read activations of 16 bits as they are, and compare or sum in float32.
The backward loops go through the positions, each of which sums the gradients from the windows that hold it: so
no zeros need be written first.

The windows that are not cut, and the positions that one or two rows and columns of windows hold, have compiled loops of
their own, in which these numbers are constants.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from alexnet.kernels.compile import constexpr, jit, jit_without_wrapper
from alexnet.kernels.layout import compute_type, flat_array, to_channels_last
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import (
    LANES,
    broadcast,
    full_vectors,
    lane_count,
    load,
    store,
    where_equal,
    where_greater,
)

_ONE, _TWO = constexpr(1), constexpr(2)
_NO_WINNERS = np.empty(0, np.uint8)  # average pooling has none


class _CompileTime(NamedTuple):
    """What is constant in the compiled loops: the side of a window; whether vectors divide the channels; whether the
    mean is computed (1) or the largest (0). Each is a `constexpr`.
    """

    size: tuple[int, ...]
    full_vectors: tuple[int, ...]
    mean: tuple[int, ...]


def max_pool(x: Tensor, size: int, stride: int, _ceil_mode: bool, y: Tensor, winners: Tensor) -> None:
    """Write the largest of each window, and its index in the window, row by row.

    Args:
        x: (N, C, H, W) of a floating type of 16 or 32 bits.
        size, stride: Side of a window and distance of two windows, in positions.
        _ceil_mode: As for `alexnet.kernels.pool.max_pool`; it has decided on the rows and columns already.
        y, winners: (N, C, rows, columns), in channels_last memory; of x's type, and uint8.
    """
    _pool(x, y, flat_array(winners), size, stride, mean=False)


def max_pool_backward(g: Tensor, winners: Tensor, height: int, width: int, size: int, stride: int, dx: Tensor) -> None:
    """Write the gradient of each activation: the sum of those of the windows whose largest it was.

    Args:
        g, winners: (N, C, rows, columns), the gradient of what `max_pool` wrote, and the indices.
        height, width, size, stride: Sides of the maps and of a window, and distance of two windows.
        dx: (N, C, height, width), in channels_last memory, of g's type.
    """
    assert dx.shape[2:] == (height, width)
    _pool_backward(g, flat_array(to_channels_last(winners)), dx, size, stride, mean=False)


def average_pool(x: Tensor, size: int, stride: int, _ceil_mode: bool, y: Tensor) -> None:
    """Write the mean of each window; arguments as for `max_pool`."""
    _pool(x, y, _NO_WINNERS, size, stride, mean=True)


def average_pool_backward(g: Tensor, height: int, width: int, size: int, stride: int, dx: Tensor) -> None:
    """Write the gradient of each activation; arguments as for `max_pool_backward`."""
    assert dx.shape[2:] == (height, width)
    _pool_backward(g, _NO_WINNERS, dx, size, stride, mean=True)


def _pool(x: Tensor, y: Tensor, winners: np.ndarray, size: int, stride: int, *, mean: bool) -> None:
    inputs, outputs, channels = flat_array(to_channels_last(x)), flat_array(y), x.shape[1]
    shape, zero = (*x.shape[2:], *y.shape[2:]), compute_type(x)(0)
    static = _compile_time(size, channels, mean=mean)

    def pool(start: int, stop: int) -> None:
        _forward(inputs, outputs, winners, start, stop, shape, stride, channels, zero, static)

    parallel_for(pool, len(y) * y.shape[2])


def _pool_backward(g: Tensor, winners: np.ndarray, dx: Tensor, size: int, stride: int, *, mean: bool) -> None:
    gradients, outputs, channels = flat_array(to_channels_last(g)), flat_array(dx), g.shape[1]
    shape, zero = (*dx.shape[2:], *g.shape[2:]), compute_type(g)(0)
    static = _compile_time(size, channels, mean=mean)

    def differentiate(start: int, stop: int) -> None:
        _backward(gradients, winners, outputs, start, stop, shape, stride, channels, zero, static)

    parallel_for(differentiate, len(dx) * dx.shape[2])


def _compile_time(size: int, channels: int, *, mean: bool) -> _CompileTime:
    return _CompileTime(constexpr(size), full_vectors(channels), constexpr(int(mean)))


@jit_without_wrapper
def _largest_of_row(x, start, channels, count, first_index, columns):
    """Return the largest of a window's row and its index in the window; that of the row's first is `first_index`."""
    best, winner = load(x, start, count), broadcast(np.uint8(first_index))
    for j in range(1, len(columns)):
        a = load(x, start + j * channels, count)
        winner = where_greater(a, best, np.uint8(first_index + j), winner)
        best = where_greater(a, best, a, best)
    return best, winner


@jit_without_wrapper
def _largest(x, row_starts, left, y, winners, out, channels, rows, columns, static):
    for c in range(0, channels, LANES):
        count = lane_count(channels - c, static.full_vectors)
        # Row by row, and then of these: a chain of comparisons half as long, for which the processor would wait.
        for i in range(len(rows)):
            a, index = _largest_of_row(x, row_starts[i] + left + c, channels, count, i * len(static.size), columns)
            if i == 0:
                best, winner = a, index
            else:
                winner = where_greater(a, best, index, winner)
                best = where_greater(a, best, a, best)
        store(y, out + c, best, count)
        store(winners, out + c, winner, count)


@jit_without_wrapper
def _mean(x, row_starts, left, y, out, channels, rows, columns, zero, static):
    for c in range(0, channels, LANES):
        count = lane_count(channels - c, static.full_vectors)
        total = broadcast(zero)
        for i in range(len(rows)):
            for j in range(len(columns)):
                total = total + load(x, row_starts[i] + left + j * channels + c, count)
        store(y, out + c, total / (len(rows) * len(columns)), count)


@jit_without_wrapper
def _pool_window(x, row_starts, left, y, winners, out, channels, rows, columns, zero, static, mean):
    """Pool a window of all channels, `left` numbers after the starts of its rows, and write the result at `out`.

    It has as many rows and columns as `rows` and `columns` have entries. mean: static.mean. As an argument of its own
    it tells Numba which function it need not compile.
    """
    if len(mean) == 1:
        _mean(x, row_starts, left, y, out, channels, rows, columns, zero, static)
    else:
        _largest(x, row_starts, left, y, winners, out, channels, rows, columns, static)


@jit
def _forward(x, y, winners, start, stop, shape, stride, channels, zero, static):
    """Compute rows start to stop of all pictures' pooled maps."""
    height, width, out_height, out_width = shape
    size = len(static.size)
    row_starts = np.empty(size, np.intp)  # where the rows of the windows begin
    for row in range(start, stop):
        top = row % out_height * stride
        rows = min(size, height - top)
        for i in range(rows):
            row_starts[i] = (row // out_height * height + top + i) * width * channels
        for j in range(out_width):
            left, out = j * stride * channels, (row * out_width + j) * channels
            columns = min(size, width - j * stride)
            if rows == size and columns == size:
                down, across = static.size, static.size
                _pool_window(x, row_starts, left, y, winners, out, channels, down, across, zero, static, static.mean)
            else:
                down, across = row_starts[:rows], row_starts[:columns]
                _pool_window(x, row_starts, left, y, winners, out, channels, down, across, zero, static, static.mean)


@jit_without_wrapper
def _gradient_from_window(g, winners, window, count, row, column, rows_below, columns_right, static):
    """Return the gradient that a window passes to the position at one of its rows and columns.

    rows_below, columns_right: Rows and columns from the window's first to the map's edges: more than its size or fewer.
    """
    if len(static.mean) == 1:
        size = len(static.size)
        return load(g, window, count) / (min(size, rows_below) * min(size, columns_right))
    index = np.uint8(row * len(static.size) + column)
    return where_equal(load(winners, window, count), index, load(g, window, count))


@jit_without_wrapper
def _sum_gradients(g, winners, dx, to, first, line, channels, rows, columns, offset, edges, stride, zero, static):
    """Write the gradient of one position: the sum over the windows that hold it.

    to: Index of the position in dx.
    first: Index of the first window that holds it; a window below is `line` numbers further.
    rows, columns: There are as many rows and columns of windows as these have entries.
    offset, edges: Row and column of the position, and of the map's end, in the first window.
    """
    for c in range(0, channels, LANES):
        count = lane_count(channels - c, static.full_vectors)
        total = broadcast(zero)
        for i in range(len(rows)):
            for j in range(len(columns)):
                up, left, window = i * stride, j * stride, first + i * line + j * channels + c
                row, column = offset[0] - up, offset[1] - left
                rows_below, columns_right = edges[0] - up, edges[1] - left
                total = total + _gradient_from_window(
                    g, winners, window, count, row, column, rows_below, columns_right, static
                )
        store(dx, to + c, total, count)


@jit_without_wrapper
def _windows_holding(h, end, size, stride):
    """Return the first of the windows along a side that hold position h, and their number: none, where windows leave
    gaps.
    """
    first = max(0, (h - size + stride) // stride)
    return first, max(0, min(end, h // stride + 1) - first)


@jit
def _backward(g, winners, dx, start, stop, shape, stride, channels, zero, static):
    """Compute rows start to stop of all pictures' gradients."""
    height, width, out_height, out_width = shape
    size = len(static.size)
    line, many = out_width * channels, np.empty(size, np.intp)
    columns_holding = np.empty((width, 2), np.intp)  # what `_windows_holding` returns for each column
    for w in range(width):
        columns_holding[w] = _windows_holding(w, out_width, size, stride)
    for row in range(start, stop):
        h = row % height
        i, rows = _windows_holding(h, out_height, size, stride)
        top, first_row = i * stride, (row // height * out_height + i) * out_width
        for w in range(width):
            j, columns = columns_holding[w]
            left = j * stride
            offset, edges = (h - top, w - left), (height - top, width - left)
            first, to = (first_row + j) * channels, (row * width + w) * channels
            # (torch sums in this order too: from the top left.)
            if rows == 1 and columns == 1:
                _sum_gradients(
                    g, winners, dx, to, first, line, channels, _ONE, _ONE, offset, edges, stride, zero, static
                )
            elif rows == 1 and columns == 2:
                _sum_gradients(
                    g, winners, dx, to, first, line, channels, _ONE, _TWO, offset, edges, stride, zero, static
                )
            elif rows == 2 and columns == 1:
                _sum_gradients(
                    g, winners, dx, to, first, line, channels, _TWO, _ONE, offset, edges, stride, zero, static
                )
            elif rows == 2 and columns == 2:
                _sum_gradients(
                    g, winners, dx, to, first, line, channels, _TWO, _TWO, offset, edges, stride, zero, static
                )
            else:
                down, across = many[:rows], many[:columns]
                _sum_gradients(
                    g, winners, dx, to, first, line, channels, down, across, offset, edges, stride, zero, static
                )

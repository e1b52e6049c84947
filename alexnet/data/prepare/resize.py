"""Resize pictures: the area average, and linear interpolation to enlarge (section 3); loops compiled by Numba.

The loops release the interpreter lock. They do not reorder floating-point sums, so the result is the same to the bit on
every machine and with any number of threads.
"""

from functools import lru_cache

import numpy as np

from alexnet.kernels.compile import jit, jit_without_wrapper

_Index = np.uintp  # an index that may be negative keeps the compiler from using vector instructions
_HALF = np.float32(0.5)


@lru_cache(maxsize=4096)
def area_weights(side: int, size: int, divisor: int = 1, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights with which `side` input pixels make `size` output pixels in one direction.

    If side >= size, output pixel i is the average over the interval [i, i + 1) * side / size: the area average. A
    smaller picture is interpolated linearly between the centres of its pixels; those at the edges are repeated.

    Args:
        side: Number of input pixels, before the JPEG decoder has divided the sides of the picture.
        size: Number of output pixels.
        divisor: Number of undivided pixels of which each input pixel is already the average; only for side >= size.
        offset: Number of undivided pixels in the first input pixel that are before the first interval.

    Returns:
        (size,) int64, the first input pixel of each output pixel; (size, taps) float32, the weights of this input pixel
        and of those after it.
    """
    if side < size:
        centres = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
        first = np.minimum(centres.astype(np.int64), max(side - 2, 0))
        weights = np.stack([1 - (centres - first), centres - first], axis=1)[:, : min(side, 2)]
        return first, weights.astype(np.float32)
    # In units of 1/size of an undivided pixel, the ends of all intervals are integers and so exact.
    unit = size * divisor
    starts = offset * size + np.arange(size, dtype=np.int64) * side
    ends = starts + side
    taps = int((-(-ends // unit) - starts // unit).max())
    first = np.minimum(starts // unit, -(-(offset + side) // divisor) - taps)
    pixels = (first[:, None] + np.arange(taps)) * unit
    overlap = np.minimum(pixels + unit, ends[:, None]) - np.maximum(pixels, starts[:, None])
    return first, (np.maximum(overlap, 0) / side).astype(np.float32)


@jit_without_wrapper
def _set_weighted_row(total: np.ndarray, row: np.ndarray, weight: np.float32) -> None:
    """Set a (columns * 3,) float32 row to a row of bytes times its weight."""
    for j in range(total.size):
        total[j] = weight * np.float32(row[j])


@jit_without_wrapper
def _add_weighted_row(total: np.ndarray, row: np.ndarray, weight: np.float32) -> None:
    """Add a row of bytes times its weight to a (columns * 3,) float32 row."""
    for j in range(total.size):
        total[j] += weight * np.float32(row[j])


@jit_without_wrapper
def _resample_row_2_taps(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Do the same as `_resample_row` for two input pixels to each output pixel, in two thirds of its time."""
    for x in range(_Index(weights.shape[0])):
        i, o = _Index(first[x]) * _Index(3), x * _Index(3)
        u, v = weights[x, _Index(0)], weights[x, _Index(1)]
        for c in range(_Index(3)):
            total = _HALF + u * row[i + c] + v * row[i + _Index(3) + c]
            out[o + c] = np.uint8(np.int32(total))


@jit_without_wrapper
def _resample_row_3_taps(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Do the same as `_resample_row` for three input pixels to each output pixel, in half of its time."""
    for x in range(_Index(weights.shape[0])):
        i, o = _Index(first[x]) * _Index(3), x * _Index(3)
        u, v, w = weights[x, _Index(0)], weights[x, _Index(1)], weights[x, _Index(2)]
        for c in range(_Index(3)):
            total = _HALF + u * row[i + c] + v * row[i + _Index(3) + c] + w * row[i + _Index(6) + c]
            out[o + c] = np.uint8(np.int32(total))


@jit_without_wrapper
def _resample_row(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Resample one row of RGB pixels: (columns * 3,) float32 -> (size * 3,) uint8, rounded."""
    for x in range(_Index(weights.shape[0])):
        i, o = _Index(first[x]) * _Index(3), x * _Index(3)
        r, g, b = _HALF, _HALF, _HALF
        for k in range(_Index(weights.shape[1])):
            weight = weights[x, k]
            r += weight * row[i]
            g += weight * row[i + _Index(1)]
            b += weight * row[i + _Index(2)]
            i += _Index(3)
        out[o] = np.uint8(np.int32(r))
        out[o + _Index(1)] = np.uint8(np.int32(g))
        out[o + _Index(2)] = np.uint8(np.int32(b))


@jit
def resample(
    picture: np.ndarray,
    top: int,
    left: int,
    first_rows: np.ndarray,
    row_weights: np.ndarray,
    first_columns: np.ndarray,
    column_weights: np.ndarray,
    out: np.ndarray,
) -> None:
    """Resample a square of a picture to a smaller or equal size.

    Args:
        picture: (height, width * 3) uint8.
        top: First row of the square.
        left: First column of the square, in pixels.
        first_rows, row_weights: (size,) int64 and (size, taps) float32, the `area_weights` of the rows.
        first_columns, column_weights: Those of the columns.
        out: (size, size * 3) uint8, the result.
    """
    size, taps = column_weights.shape
    columns = (first_columns[size - 1] + taps) * 3
    row = np.empty(columns, np.float32)
    start = left * 3
    for y in range(size):
        line = top + first_rows[y]
        _set_weighted_row(row, picture[line, start : start + columns], row_weights[y, 0])
        for k in range(1, row_weights.shape[1]):
            if row_weights[y, k] != 0:
                _add_weighted_row(row, picture[line + k, start : start + columns], row_weights[y, k])
        if taps == 2:
            _resample_row_2_taps(row, first_columns, column_weights, out[y])
        elif taps == 3:
            _resample_row_3_taps(row, first_columns, column_weights, out[y])
        else:
            _resample_row(row, first_columns, column_weights, out[y])


@jit_without_wrapper
def _interpolate_row(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Interpolate one row of RGB pixels: (columns * 3,) float32 -> (size * 3,) float32."""
    for x in range(_Index(weights.shape[0])):
        i, o = _Index(first[x]) * _Index(3), x * _Index(3)
        u, v = weights[x, _Index(0)], weights[x, _Index(1)]
        for c in range(_Index(3)):
            out[o + c] = u * row[i + c] + v * row[i + _Index(3) + c]


@jit_without_wrapper
def _interpolate_between_rows(
    above: np.ndarray, below: np.ndarray, u: np.float32, v: np.float32, out: np.ndarray
) -> None:
    """Set a row of bytes to the sum of two (size * 3,) float32 rows times their weights u and v, rounded."""
    for j in range(out.size):
        out[j] = np.uint8(np.int32(_HALF + u * above[j] + v * below[j]))


@jit
def enlarge(picture: np.ndarray, top: int, left: int, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Enlarge a square of a picture: columns first, because the input has fewer rows than the output.

    Args:
        picture: (height, width * 3) uint8.
        top: First row of the square.
        left: First column of the square, in pixels.
        first, weights: (size,) int64 and (size, 2) float32, the `area_weights` of both rows and columns.
        out: (size, size * 3) uint8, the result.
    """
    size = weights.shape[0]
    columns = (first[size - 1] + 2) * 3
    row = np.empty(columns, np.float32)
    wide = np.empty((2, size * 3), np.float32)  # the last two interpolated rows; row n is at index n % 2
    done = -1
    for y in range(size):
        above = first[y]
        for line in range(max(above, done + 1), above + 2):
            # Convert to float first: the processor converts eight consecutive bytes at a time, but not scattered bytes.
            _set_weighted_row(row, picture[top + line, left * 3 : left * 3 + columns], np.float32(1))
            _interpolate_row(row, first, weights, wide[line % 2])
            done = line
        _interpolate_between_rows(wide[above % 2], wide[(above + 1) % 2], weights[y, 0], weights[y, 1], out[y])

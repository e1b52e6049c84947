"""Loops over the bytes of pictures, compiled: the resampling (section 3) and exact sums for the statistics (5.1).

They release the interpreter lock. None of them reorders floating-point sums, so their results are the same bits on
every machine and with any number of threads.
"""

from functools import lru_cache

import numpy as np

from alexnet.kernels.compile import jit

Index = np.uintp  # unsigned: a possibly negative index costs the compiler its vector instructions
HALF = np.float32(0.5)


@lru_cache(maxsize=4096)
def area_weights(side: int, size: int, divisor: int = 1, offset: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How `size` pixels are made of `side` in one direction.

    Where side >= size, pixel i is the average over the interval [i, i + 1) * side / size: the area average. Where the
    picture is smaller it is interpolated linearly between the centres of its pixels, the edge ones repeated.

    Args:
        side: Pixels there are.
        size: Pixels wanted.
        divisor: Where each pixel at hand is already the average of so many; only for side >= size.
        offset: How many of these the first pixel at hand has before the interval begins.

    Returns:
        (size,) int64, the first pixel that pixel i is made of; (size, taps) float32, the weights of it and the next.
    """
    if side < size:
        centres = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
        first = np.minimum(centres.astype(np.int64), max(side - 2, 0))
        weights = np.stack([1 - (centres - first), centres - first], axis=1)[:, : min(side, 2)]
        return first, weights.astype(np.float32)
    # In units of 1/size of an undivided pixel all ends are integers, and so exact.
    unit = size * divisor
    starts = offset * size + np.arange(size, dtype=np.int64) * side
    ends = starts + side
    taps = int((-(-ends // unit) - starts // unit).max())
    first = np.minimum(starts // unit, -(-(offset + side) // divisor) - taps)
    pixels = (first[:, None] + np.arange(taps)) * unit
    shared = np.minimum(pixels + unit, ends[:, None]) - np.maximum(pixels, starts[:, None])
    return first, (np.maximum(shared, 0) / side).astype(np.float32)


@jit
def _first_row(total: np.ndarray, row: np.ndarray, weight: np.float32) -> None:
    for j in range(total.size):
        total[j] = weight * np.float32(row[j])


@jit
def _add_row(total: np.ndarray, row: np.ndarray, weight: np.float32) -> None:
    for j in range(total.size):
        total[j] += weight * np.float32(row[j])


@jit
def _row_of_2(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Resample one row as `_row_of_any`, two pixels to one, in two thirds of its time."""
    for x in range(Index(weights.shape[0])):
        i, o = Index(first[x]) * Index(3), x * Index(3)
        u, v = weights[x, Index(0)], weights[x, Index(1)]
        for c in range(Index(3)):
            total = HALF + u * row[i + c] + v * row[i + Index(3) + c]
            out[o + c] = np.uint8(np.int32(total))


@jit
def _row_of_3(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Resample one row as `_row_of_any`, three pixels to one, in half of its time."""
    for x in range(Index(weights.shape[0])):
        i, o = Index(first[x]) * Index(3), x * Index(3)
        u, v, w = weights[x, Index(0)], weights[x, Index(1)], weights[x, Index(2)]
        for c in range(Index(3)):
            total = HALF + u * row[i + c] + v * row[i + Index(3) + c] + w * row[i + Index(6) + c]
            out[o + c] = np.uint8(np.int32(total))


@jit
def _row_of_any(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Resample one row of RGB pixels: (columns * 3,) float32 -> (size * 3,) uint8, rounded."""
    for x in range(Index(weights.shape[0])):
        i, o = Index(first[x]) * Index(3), x * Index(3)
        r, g, b = HALF, HALF, HALF
        for k in range(Index(weights.shape[1])):
            weight = weights[x, k]
            r += weight * row[i]
            g += weight * row[i + Index(1)]
            b += weight * row[i + Index(2)]
            i += Index(3)
        out[o] = np.uint8(np.int32(r))
        out[o + Index(1)] = np.uint8(np.int32(g))
        out[o + Index(2)] = np.uint8(np.int32(b))


@jit
def resample(
    picture: np.ndarray,
    top: int,
    left: int,
    first_down: np.ndarray,
    down: np.ndarray,
    first_across: np.ndarray,
    across: np.ndarray,
    out: np.ndarray,
) -> None:
    """Resample a square of a picture.

    Args:
        picture: (height, width * 3) uint8.
        top: First row of the square.
        left: First column of the square, in pixels.
        first_down, down: (size,) int64 and (size, taps) float32, the `area_weights` of the rows.
        first_across, across: Those of the columns.
        out: (size, size * 3) uint8, written.
    """
    size, taps = across.shape
    columns = (first_across[size - 1] + taps) * 3
    row = np.empty(columns, np.float32)
    start = left * 3
    for y in range(size):
        line = top + first_down[y]
        _first_row(row, picture[line, start : start + columns], down[y, 0])
        for k in range(1, down.shape[1]):
            if down[y, k] != 0:
                _add_row(row, picture[line + k, start : start + columns], down[y, k])
        if taps == 2:
            _row_of_2(row, first_across, across, out[y])
        elif taps == 3:
            _row_of_3(row, first_across, across, out[y])
        else:
            _row_of_any(row, first_across, across, out[y])


@jit
def _widen_row(row: np.ndarray, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Interpolate one row of RGB pixels: (columns * 3,) float32 -> (size * 3,) float32."""
    for x in range(Index(weights.shape[0])):
        i, o = Index(first[x]) * Index(3), x * Index(3)
        u, v = weights[x, Index(0)], weights[x, Index(1)]
        for c in range(Index(3)):
            out[o + c] = u * row[i + c] + v * row[i + Index(3) + c]


@jit
def _between_rows(above: np.ndarray, below: np.ndarray, u: np.float32, v: np.float32, out: np.ndarray) -> None:
    for j in range(out.size):
        out[j] = np.uint8(np.int32(HALF + u * above[j] + v * below[j]))


@jit
def enlarge(picture: np.ndarray, top: int, left: int, first: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Enlarge a square of a picture: as `resample`, but across first, for there are fewer rows than are wanted.

    Args:
        picture: (height, width * 3) uint8.
        top: First row of the square.
        left: First column of the square, in pixels.
        first, weights: (size,) int64 and (size, 2) float32, the `area_weights` of rows and columns both.
        out: (size, size * 3) uint8, written.
    """
    size = weights.shape[0]
    columns = (first[size - 1] + 2) * 3
    row = np.empty(columns, np.float32)
    wide = np.empty((2, size * 3), np.float32)  # the last two rows widened, row n in place n % 2
    done = -1
    for y in range(size):
        above = first[y]
        for line in range(max(above, done + 1), above + 2):
            # As floats first: the processor converts eight bytes at a time, but not bytes gathered from here and there.
            _first_row(row, picture[top + line, left * 3 : left * 3 + columns], np.float32(1))
            _widen_row(row, first, weights, wide[line % 2])
            done = line
        _between_rows(wide[above % 2], wide[(above + 1) % 2], weights[y, 0], weights[y, 1], out[y])


@jit
def _add_values(rows: np.ndarray, sums: np.ndarray) -> None:
    """Add four rows of bytes, place by place, to the sums."""
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    for j in range(sums.size):
        sums[j] += np.uint32(np.uint32(a[j]) + np.uint32(b[j])) + np.uint32(np.uint32(c[j]) + np.uint32(d[j]))


@jit
def _add_products(rows: np.ndarray, later: np.ndarray, products: np.ndarray) -> None:
    """Add the products of four rows of bytes with four others, place by place."""
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    p, q, r, s = later[0], later[1], later[2], later[3]
    for j in range(p.size):
        ap, bq = np.uint32(np.uint32(a[j]) * np.uint32(p[j])), np.uint32(np.uint32(b[j]) * np.uint32(q[j]))
        cr, ds = np.uint32(np.uint32(c[j]) * np.uint32(r[j])), np.uint32(np.uint32(d[j]) * np.uint32(s[j]))
        products[j] += np.uint32(np.uint32(ap + bq) + np.uint32(cr + ds))


@jit
def _colour_sums(images: np.ndarray, sums: np.ndarray, products: np.ndarray) -> None:
    count, height, width = images.shape
    places = np.empty((3, width), np.uint32)
    last = np.zeros((4, width), np.uint8)
    for y in range(height):
        places[:] = 0
        for n in range(0, count, 4):  # four at a time: the sums are loaded and stored a quarter as often
            if n + 4 <= count:
                rows = images[n : n + 4, y]
            else:
                last[: count - n] = images[n:, y]
                rows = last[:, :]
            _add_values(rows, sums[y])
            for ahead in range(3):
                _add_products(rows, rows[:, ahead:], places[ahead])
        # R, G, B follow each other, so the place modulo 3 says which two channels a product is of.
        for j in range(0, width, 3):
            products[0, 0] += places[0, j]
            products[1, 1] += places[0, j + 1]
            products[2, 2] += places[0, j + 2]
            products[0, 1] += places[1, j]
            products[1, 2] += places[1, j + 1]
            products[0, 2] += places[2, j]


def colour_sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums that the mean activity and the covariance need, in integers: exact in any order.

    Args:
        images: (N, size, size, 3) uint8, N at most 66,051 (255 * 255 * N < 2**32).

    Returns:
        (size, size, 3) uint32, the sum over the pictures; (3, 3) int64, the sum over pictures and pixels of the
        products of two channels.
    """
    count, height, width, _ = images.shape
    assert count <= 66_051
    sums = np.zeros((height, width * 3), np.uint32)
    products = np.zeros((3, 3), np.int64)
    _colour_sums(images.reshape(count, height, width * 3), sums, products)
    products += np.triu(products, 1).T
    return sums.reshape(height, width, 3), products

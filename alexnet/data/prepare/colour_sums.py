"""Exact sums over pictures, for the mean activity and the colour components (sections 3 and 5.1); compiled by Numba."""

import numpy as np

from alexnet.kernels.compile import jit, jit_without_wrapper


@jit_without_wrapper
def _add_values(rows: np.ndarray, sums: np.ndarray) -> None:
    """Add four rows of bytes to the sums, column by column."""
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    for j in range(sums.size):
        sums[j] += np.uint32(np.uint32(a[j]) + np.uint32(b[j])) + np.uint32(np.uint32(c[j]) + np.uint32(d[j]))


@jit_without_wrapper
def _add_products(rows: np.ndarray, shifted: np.ndarray, products: np.ndarray) -> None:
    """Add the products of four rows of bytes with four others, column by column."""
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    p, q, r, s = shifted[0], shifted[1], shifted[2], shifted[3]
    for j in range(p.size):
        ap, bq = np.uint32(np.uint32(a[j]) * np.uint32(p[j])), np.uint32(np.uint32(b[j]) * np.uint32(q[j]))
        cr, ds = np.uint32(np.uint32(c[j]) * np.uint32(r[j])), np.uint32(np.uint32(d[j]) * np.uint32(s[j]))
        products[j] += np.uint32(np.uint32(ap + bq) + np.uint32(cr + ds))


@jit
def _add_colour_sums(images: np.ndarray, sums: np.ndarray, products: np.ndarray) -> None:
    """Add pictures to the sums, and the upper triangle of their products to the products.

    Args:
        images: (N, height, width * 3) uint8.
        sums: (height, width * 3) uint32.
        products: (3, 3) int64.
    """
    count, height, width = images.shape
    column_products = np.empty((3, width), np.uint32)  # of each byte with itself, with the next and the one after
    last = np.zeros((4, width), np.uint8)
    for y in range(height):
        column_products[:] = 0
        for n in range(0, count, 4):  # four pictures at a time: the sums are loaded and stored a quarter as often
            if n + 4 <= count:
                rows = images[n : n + 4, y]
            else:
                last[: count - n] = images[n:, y]
                rows = last[:, :]
            _add_values(rows, sums[y])
            for shift in range(3):
                _add_products(rows, rows[:, shift:], column_products[shift])
        # The bytes are R, G, B, R, G, B, ..., so the column modulo 3 tells which two channels a product belongs to.
        for j in range(0, width, 3):
            products[0, 0] += column_products[0, j]
            products[1, 1] += column_products[0, j + 1]
            products[2, 2] += column_products[0, j + 2]
            products[0, 1] += column_products[1, j]
            products[1, 2] += column_products[1, j + 1]
            products[0, 2] += column_products[2, j]


def colour_sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums for the mean activity and the covariance, in integers: exact in any order.

    Args:
        images: (N, size, size, 3) uint8, N at most 66,051 (255 * 255 * N < 2**32).

    Returns:
        (size, size, 3) uint32, the sum over the pictures; (3, 3) int64, the sum over pictures and pixels of the
        product of each two channels.
    """
    count, height, width, _ = images.shape
    assert count <= 66_051
    sums = np.zeros((height, width * 3), np.uint32)
    products = np.zeros((3, 3), np.int64)
    _add_colour_sums(images.reshape(count, height, width * 3), sums, products)
    products += np.triu(products, 1).T
    return sums.reshape(height, width, 3), products

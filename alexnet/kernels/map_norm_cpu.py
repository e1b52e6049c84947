"""The loops of `map_norm` for the CPU.

They see all maps of a picture's row as one row of numbers: the next activation of a map is `maps` numbers further. Sums
go over rows first, then along the row of these sums. The window's size need not be constant in the compiled loops.
"""

from typing import NamedTuple

import numpy as np
from torch import Tensor

from alexnet.kernels.compile import jit, jit_without_wrapper
from alexnet.kernels.layout import flat_array, to_channels_last
from alexnet.kernels.normalisation_cpu import newton_steps, powers, to_compute_type
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import LANES, full_vectors, lane_count, load, store


class _CompileTime(NamedTuple):
    """What is constant in the compiled loops: the steps of `powers`; whether vectors divide a row. Each is a
    `constexpr`.
    """

    steps: tuple[int, ...]
    full_vectors: tuple[int, ...]


def map_norm(x: Tensor, size: int, k: float, alpha: float, beta: float, y: Tensor) -> None:
    """Write the normalised activations to y.

    Args:
        x, size, k, alpha, beta: As for `alexnet.kernels.map_norm.map_norm`.
        y: (N, C, H, W), in channels_last memory.
    """
    inputs, outputs, (n, maps, height, columns) = flat_array(to_channels_last(x)), flat_array(y), x.shape
    width = columns * maps
    static = _CompileTime(newton_steps(x, beta), full_vectors(width))
    k, alpha, beta = to_compute_type(x, k, alpha, beta)

    def normalise(start: int, stop: int) -> None:
        _forward(inputs, outputs, start, stop, height, width, maps, size, k, alpha, beta, static)

    parallel_for(normalise, n)


def map_norm_backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, dx: Tensor) -> None:
    """Write the gradient of x to dx.

    Args:
        g: (N, C, H, W), the gradient of the normalised activations.
        x, size, k, alpha, beta: As for `map_norm`.
        dx: (N, C, H, W), in channels_last memory.
    """
    inputs, gradients, outputs = flat_array(to_channels_last(x)), flat_array(to_channels_last(g)), flat_array(dx)
    n, maps, height, columns = x.shape
    width = columns * maps
    static = _CompileTime(newton_steps(x, beta), full_vectors(width))
    k, alpha, beta = to_compute_type(x, k, alpha, beta)

    def differentiate(start: int, stop: int) -> None:
        _backward(inputs, gradients, outputs, start, stop, height, width, maps, size, k, alpha, beta, static)

    parallel_for(differentiate, n)


@jit_without_wrapper
def _add_rows(squares, h, size, stride, width, sums, start):
    """Set sums[start : start + width] = the sums of `size` rows from row h on."""
    for i in range(0, width, LANES):
        total = load(squares, h * stride + i, LANES)
        for j in range(1, size):
            total = total + load(squares, (h + j) * stride + i, LANES)
        store(sums, start + i, total, LANES)


@jit_without_wrapper
def _add_along_row(sums, start, size, maps):
    """Return the sums of `size` numbers that are `maps` apart."""
    total = load(sums, start, LANES)
    for j in range(1, size):
        total = total + load(sums, start + j * maps, LANES)
    return total


@jit_without_wrapper
def _square_picture(x, start, squares, before, stride, height, width, static):
    """Write the squares of a picture `before` rows down. The rows around stay zero, as outside the map."""
    for h in range(height):
        for i in range(0, width, LANES):
            a = load(x, start + h * width + i, lane_count(width - i, static.full_vectors))
            store(squares, (before + h) * stride + i, a * a, LANES)


@jit
def _forward(x, y, start, stop, height, width, maps, size, k, alpha, beta, static):
    """Normalise pictures start to stop, whose rows have `width` activations."""
    before, stride = size // 2, -(-width // LANES) * LANES
    squares = np.zeros((height + size - 1) * stride, type(k))
    sums = np.zeros(stride + (size - 1) * maps, type(k))  # zeros left and right too
    for n in range(start, stop):
        _square_picture(x, n * height * width, squares, before, stride, height, width, static)
        for h in range(height):
            _add_rows(squares, h, size, stride, width, sums, before * maps)
            for i in range(0, width, LANES):
                index, count = (n * height + h) * width + i, lane_count(width - i, static.full_vectors)
                scale, _ = powers(k + alpha * _add_along_row(sums, i, size, maps), beta, static.steps)
                store(y, index, load(x, index, count) * scale, count)


@jit
def _backward(x, g, dx, start, stop, height, width, maps, size, k, alpha, beta, static):
    """Write the gradients of the pictures that `_forward` normalises.

    The formula is that of response_norm_cpu.py; `terms` is what the gradient sums over the positions around.
    """
    before, after, stride = size // 2, size - 1 - size // 2, -(-width // LANES) * LANES
    padded = (height + size - 1) * stride
    squares, terms = np.zeros(padded, type(k)), np.zeros(padded, type(k))
    padded_row = stride + (size - 1) * maps
    sums, sums_of_terms = np.zeros(padded_row, type(k)), np.zeros(padded_row, type(k))
    direct, factor = np.empty(height * stride, type(k)), type(k)(2) * alpha * beta
    for n in range(start, stop):
        _square_picture(x, n * height * width, squares, before, stride, height, width, static)
        for h in range(height):
            _add_rows(squares, h, size, stride, width, sums, before * maps)
            for i in range(0, width, LANES):
                index, count = (n * height + h) * width + i, lane_count(width - i, static.full_vectors)
                scale, inverse = powers(k + alpha * _add_along_row(sums, i, size, maps), beta, static.steps)
                scaled = load(g, index, count) * scale
                store(direct, h * stride + i, scaled, LANES)
                store(terms, (after + h) * stride + i, scaled * load(x, index, count) * inverse, count)
        for h in range(height):
            _add_rows(terms, h, size, stride, width, sums_of_terms, after * maps)
            for i in range(0, width, LANES):
                index, count = (n * height + h) * width + i, lane_count(width - i, static.full_vectors)
                total = _add_along_row(sums_of_terms, i, size, maps)
                gradient = load(direct, h * stride + i, LANES) - factor * load(x, index, count) * total
                store(dx, index, gradient, count)

"""The loops of `response_norm` for the CPU.

They take flat arrays and the index of the first activation in each. They go along a tower in vectors (see vectors.py)
and keep the vectors before and after, which windows reach into. LLVM's own vectorisation would leave a third of 48 maps
to a scalar loop, and memory that was just written cannot be read at another offset without a delay.
"""

import math
from typing import NamedTuple

from torch import Tensor

from alexnet.kernels.compile import constexpr, jit, jit_without_wrapper
from alexnet.kernels.layout import flat_array, to_channels_last
from alexnet.kernels.normalisation import window_reach
from alexnet.kernels.normalisation_cpu import newton_steps, powers, to_compute_type
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import (
    LANES,
    broadcast,
    fma,
    full_vectors,
    keep_first,
    lane_count,
    load,
    maximum,
    prefetch,
    store,
    where_above,
    window_sums,
)

WIDEST_WINDOW = 2 * LANES + 1  # a window reaches no further than the vectors before and after
_PREFETCH = 1024  # activations: how far ahead of the loop memory is prefetched; half of it for results


class _CompileTime(NamedTuple):
    """What is constant in the compiled loops: the window's reach before and after an activation, and its size; the
    steps of `powers`; whether vectors divide the maps of a tower. Each is a `constexpr`.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    size: tuple[int, ...]
    steps: tuple[int, ...]
    full_vectors: tuple[int, ...]


def response_norm(
    x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool, y: Tensor
) -> None:
    """Write the normalised activations to y.

    Args:
        x, size, k, alpha, beta, towers, relu: As for `alexnet.kernels.response_norm.response_norm`.
        y: (N, C, H, W), in channels_last memory.
    """
    inputs, outputs, (n, channels, height, width) = flat_array(to_channels_last(x)), flat_array(y), x.shape
    maps = channels // towers
    static = _compile_time(x, size, beta, maps)
    k, alpha, beta, low = to_compute_type(x, k, alpha, beta, 0 if relu else -math.inf)

    def normalise(start: int, stop: int) -> None:
        first = start * channels
        _forward(inputs, first, outputs, first, (stop - start) * towers, maps, k, alpha, beta, low, static)

    parallel_for(normalise, n * height * width)


def response_norm_backward(
    g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool, dx: Tensor
) -> None:
    """Write the gradient of x to dx.

    Args:
        g: (N, C, H, W), the gradient of the normalised activations.
        x, size, k, alpha, beta, towers, relu: As for `response_norm`.
        dx: (N, C, H, W), in channels_last memory.
    """
    inputs, gradients, outputs = flat_array(to_channels_last(x)), flat_array(to_channels_last(g)), flat_array(dx)
    n, channels, height, width = x.shape
    maps = channels // towers
    static = _compile_time(x, size, beta, maps)
    k, alpha, beta, low = to_compute_type(x, k, alpha, beta, 0 if relu else -math.inf)

    def differentiate(start: int, stop: int) -> None:
        first = start * channels
        _backward(
            inputs, first, gradients, first, outputs, first, (stop - start) * towers, maps, k, alpha, beta, low, static
        )

    parallel_for(differentiate, n * height * width if channels else 0)  # `_backward` needs at least one map


def _compile_time(x: Tensor, size: int, beta: float, maps: int) -> _CompileTime:
    before, after = window_reach(size)
    return _CompileTime(constexpr(before), constexpr(after), constexpr(size), newton_steps(x, beta), full_vectors(maps))


@jit_without_wrapper
def _load_activations(x, start, remaining, low, zero, static):
    """Return the next LANES of the `remaining` activations from `start`, at least `low`; zeros after the last."""
    if remaining <= 0:
        return zero
    return maximum(load(x, start, lane_count(remaining, static.full_vectors)), low)


@jit
def _forward(x, x_start, y, y_start, towers, maps, k, alpha, beta, low, static):
    """Normalise `towers` towers of `maps` activations each, one after another in memory.

    `low` is 0 with a ReLU and minus infinity without.
    """
    zero = broadcast(type(k)(0))
    for tower in range(towers):
        x_tower, y_tower, before = x_start + tower * maps, y_start + tower * maps, zero
        a = _load_activations(x, x_tower, maps, low, zero, static)
        current = a * a
        for i in range(0, maps, LANES):
            prefetch(x, x_tower + i + _PREFETCH)
            prefetch(y, y_tower + i + _PREFETCH // 2)
            next_a = _load_activations(x, x_tower + i + LANES, maps - i - LANES, low, zero, static)
            after = next_a * next_a
            divisor = fma(window_sums(before, current, after, static.before, static.size), alpha, k)
            scale = powers(divisor, beta, static.steps)[0]
            store(y, y_tower + i, a * scale, lane_count(maps - i, static.full_vectors))
            a, before, current = next_a, current, after


@jit_without_wrapper
def _store_gradient(dx, start, a, direct, before, current, after, factor, low, count, static):
    total = window_sums(before, current, after, static.after, static.size)
    store(dx, start, where_above(a, low, fma(factor * a, total, direct)), count)


@jit
def _backward(x, x_start, g, g_start, dx, dx_start, towers, maps, k, alpha, beta, low, static):
    """Write the gradients of as many towers as `_forward` normalises."""
    # dx_i = g_i d_i^-beta - 2 alpha beta a_i * (sum over the j whose window holds i of g_j a_j d_j^(-beta - 1)).
    # The divisors d are computed again: to store and read them would take longer. The terms of the sum, `terms`, are
    # needed of the next vector too: so dx is written one vector behind.
    zero, factor = broadcast(type(k)(0)), type(k)(-2) * alpha * beta
    for tower in range(towers):
        x_tower, g_tower, dx_tower = x_start + tower * maps, g_start + tower * maps, dx_start + tower * maps
        a = _load_activations(x, x_tower, maps, low, zero, static)
        before, current, last_a, direct, terms_before, terms = zero, a * a, zero, zero, zero, zero
        for i in range(0, maps, LANES):
            prefetch(x, x_tower + i + _PREFETCH)
            prefetch(g, g_tower + i + _PREFETCH)
            prefetch(dx, dx_tower + i + _PREFETCH // 2)
            next_a = _load_activations(x, x_tower + i + LANES, maps - i - LANES, low, zero, static)
            after = next_a * next_a
            divisor = fma(window_sums(before, current, after, static.before, static.size), alpha, k)
            scale, inverse = powers(divisor, beta, static.steps)
            scaled = load(g, g_tower + i, lane_count(maps - i, static.full_vectors)) * scale
            terms_after = scaled * a * inverse
            if len(static.full_vectors) == 0:
                terms_after = keep_first(terms_after, maps - i)
            if i > 0:
                last = dx_tower + i - LANES
                _store_gradient(dx, last, last_a, direct, terms_before, terms, terms_after, factor, low, LANES, static)
            last_a, direct, terms_before, terms = a, scaled, terms, terms_after
            a, before, current = next_a, current, after
        last = (maps - 1) // LANES * LANES
        count = lane_count(maps - last, static.full_vectors)
        _store_gradient(dx, dx_tower + last, last_a, direct, terms_before, terms, zero, factor, low, count, static)

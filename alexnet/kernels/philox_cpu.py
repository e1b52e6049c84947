"""The loops of `philox` for the CPU."""

import numpy as np

from alexnet.kernels.compile import jit, jit_without_wrapper

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_KEY_INCREMENTS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # added to the key in each round
_ROUNDS = 10


@jit_without_wrapper
def _multiply_high(a, b):
    """Return the upper 64 bits of a product."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a1 * b0 + (a0 * b0 >> _HALF)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF)


@jit
def fill_random(key, indices, numbers):
    """Fill numbers (N, count) with random numbers; arguments as for `alexnet.kernels.philox.philox`."""
    zero = np.uint64(0)
    for n in range(len(indices)):
        for block in range(numbers.shape[1] // 4):
            a, b, c, d = np.uint64(block + 1), zero, indices[n], zero
            k, l = key[0], key[1]  # noqa: E741
            for _ in range(_ROUNDS):
                e, f = _multiply_high(_MULTIPLIERS[0], a), _MULTIPLIERS[0] * a
                g, h = _multiply_high(_MULTIPLIERS[1], c), _MULTIPLIERS[1] * c
                a, b, c, d = g ^ b ^ k, h, e ^ d ^ l, f
                k, l = k + _KEY_INCREMENTS[0], l + _KEY_INCREMENTS[1]  # noqa: E741
            numbers[n, 4 * block : 4 * block + 4] = a, b, c, d

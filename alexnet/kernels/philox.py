"""Random words from any place of a Philox generator's counter, for many places at once.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), as `numpy.random.Philox` has it.
"""

import numpy as np

from alexnet.kernels.compile import jit

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_WEYL = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)  # added to the key in each round
_ROUNDS = 10


@jit
def _high(a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a product."""
    a0, a1, b0, b1 = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a1 * b0 + (a0 * b0 >> _HALF)
    other = a0 * b1 + (middle & _LOW)
    return a1 * b1 + (middle >> _HALF) + (other >> _HALF)


@jit
def _philox(key, indices, words):  # type: ignore[no-untyped-def]
    zero = np.uint64(0)
    for n in range(len(indices)):
        for block in range(words.shape[1] // 4):
            a, b, c, d = np.uint64(block + 1), zero, indices[n], zero
            k, l = key[0], key[1]  # noqa: E741
            for _ in range(_ROUNDS):
                e, f = _high(_MULTIPLIERS[0], a), _MULTIPLIERS[0] * a
                g, h = _high(_MULTIPLIERS[1], c), _MULTIPLIERS[1] * c
                a, b, c, d = g ^ b ^ k, h, e ^ d ^ l, f
                k, l = k + _WEYL[0], l + _WEYL[1]  # noqa: E741
            words[n, 4 * block : 4 * block + 4] = a, b, c, d


def philox(key: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """The first words from each of N places of the counter, whose third 64-bit word is the index.

    Args:
        key: (2,) uint64.
        indices: (N,) uint64.
        count: Words from each place; a multiple of 4, of which a round of the generator makes so many.

    Returns:
        (N, count) uint64.
    """
    words = np.empty((len(indices), count), np.uint64)
    _philox(key, indices, words)
    return words


def philox_reference(key: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """What `philox` gives, by NumPy's generator."""
    generator = np.random.Philox(key=key)
    state = generator.state
    words = np.empty((len(indices), count), np.uint64)
    for n, index in enumerate(indices):
        state["state"]["counter"][2] = index
        generator.state = state
        words[n] = generator.random_raw(count)
    return words

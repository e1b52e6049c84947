"""Random numbers from any position of a Philox generator's counter, for many positions at once.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), as `numpy.random.Philox` has it. The
loops for the CPU are in philox_cpu.py.
"""

import numpy as np

from alexnet.kernels.philox_cpu import fill_random


def philox(key: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """Return the first random numbers from each of N positions of the counter, whose third number is the index.

    Args:
        key: (2,) uint64.
        indices: (N,) uint64.
        count: Random numbers from each position; a multiple of 4, of which the generator computes as many at a time.

    Returns:
        (N, count) uint64.
    """
    numbers = np.empty((len(indices), count), np.uint64)
    fill_random(key, indices, numbers)
    return numbers


def philox_reference(key: np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """Compute `philox` by NumPy's generator."""
    generator = np.random.Philox(key=key)
    state = generator.state
    numbers = np.empty((len(indices), count), np.uint64)
    for n, index in enumerate(indices):
        state["state"]["counter"][2] = index
        generator.state = state
        numbers[n] = generator.random_raw(count)
    return numbers

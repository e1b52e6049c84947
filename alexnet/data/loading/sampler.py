"""The random numbers of an epoch: the order of the pictures, and the numbers of each picture.

They come from a counter-based Philox generator whose key is (seed, epoch). So they do not depend on the batch size, on
the number of workers or of processes, or on where a training run was interrupted.
"""

import numpy as np

from alexnet.kernels.philox import philox

_NUMBERS_PER_PICTURE = 8
_ORDER_COUNTER = 1  # the highest word of the counter for the order of an epoch; it is 0 for the numbers of the pictures


def _philox_key(seed: int, epoch: int) -> np.ndarray:
    """Return the key of the generator of an epoch."""
    return np.array([seed % 2**64, epoch % 2**64], np.uint64)


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the `count` pictures in an epoch: a (count,) int64 permutation."""
    counter = np.array([0, 0, 0, _ORDER_COUNTER], np.uint64)
    generator = np.random.Philox(key=_philox_key(seed, epoch), counter=counter)
    return np.asarray(generator.random_raw(count)).argsort(kind="stable")


def picture_uniforms(indices: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return the random numbers of pictures, uniform in [0, 1).

    The index of a picture is part of the generator's counter. So a picture has the same numbers in any batch, and new
    ones in each epoch.

    Args:
        indices: (N,) the indices of the pictures in their split.
        seed, epoch: The key of the generator.

    Returns:
        (N, 8) float64.
    """
    words = philox(_philox_key(seed, epoch), indices.astype(np.uint64), _NUMBERS_PER_PICTURE)
    uniforms: np.ndarray = (words >> np.uint64(11)) * 2.0**-53
    return uniforms

"""The random numbers of an epoch: the order of the pictures, and the numbers of each picture.

They come from a counter-based Philox generator whose key is (seed, epoch). So they do not depend on the batch size, on
the number of workers or of processes, or on where a training run was interrupted.
"""

import numpy as np

from alexnet.kernels.philox import philox

_NUMBERS_PER_PICTURE = 8
# The highest word of the counter for the order of an epoch and for that of a balanced one; 0 for the pictures' numbers.
_ORDER_COUNTER, _BALANCED_ORDER_COUNTER = 1, 2


def _philox_key(seed: int, epoch: int) -> np.ndarray:
    """Return the key of the generator of an epoch."""
    return np.array([seed % 2**64, epoch % 2**64], np.uint64)


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the `count` pictures in an epoch: a (count,) int64 permutation."""
    return _permutation(count, seed, epoch, _ORDER_COUNTER)


def balanced_draws(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return the draws of an epoch in which each class is drawn equally often, or once more than another.

    The pictures of a class are drawn in turns: none a second time before each was drawn once.

    Args:
        labels: (N,) int64, the class of each picture. A class without pictures is not drawn.
        seed, epoch: The key of the generator.

    Returns:
        (N,) int64 in random order. A draw is the index of a picture plus N times the number of its earlier draws in the
        epoch, so that each draw has random numbers of its own.
    """
    count = len(labels)
    order = epoch_order(count, seed=seed, epoch=epoch)
    classes, first_places, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    draw_counts = np.full(len(classes), count // len(classes))
    # The classes that the epoch's order begins with are drawn once more.
    draw_counts[np.argsort(first_places)[: count % len(classes)]] += 1
    by_class = np.split(order[np.argsort(labels[order], kind="stable")], np.cumsum(sizes)[:-1])
    draws: list[np.ndarray] = []
    for pictures, number in zip(by_class, draw_counts, strict=True):
        repetitions, places = np.divmod(np.arange(number), len(pictures))
        draws.append(pictures[places] + count * repetitions)
    return np.concatenate(draws).take(_permutation(count, seed, epoch, _BALANCED_ORDER_COUNTER))


def _permutation(count: int, seed: int, epoch: int, counter: int) -> np.ndarray:
    """Return a random (count,) int64 permutation."""
    generator = np.random.Philox(key=_philox_key(seed, epoch), counter=np.array([0, 0, 0, counter], np.uint64))
    return np.asarray(generator.random_raw(count)).argsort(kind="stable")


def picture_uniforms(indices: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return the random numbers of pictures, uniform in [0, 1).

    The index of a picture is part of the generator's counter. So a picture has the same numbers in any batch, and new
    ones in each epoch.

    Args:
        indices: (N,) the indices of the pictures in their split, or draws as of `balanced_draws`.
        seed, epoch: The key of the generator.

    Returns:
        (N, 8) float64.
    """
    words = philox(_philox_key(seed, epoch), indices.astype(np.uint64), _NUMBERS_PER_PICTURE)
    uniforms: np.ndarray = (words >> np.uint64(11)) * 2.0**-53
    return uniforms

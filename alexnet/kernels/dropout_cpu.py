"""The loops of `dropout` for the CPU, and the constants of its random numbers (Philox4x32-10)."""

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels.compile import jit, jit_without_wrapper
from alexnet.kernels.threads import parallel_for

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_INCREMENTS = 0x9E3779B9, 0xBB67AE85  # added to the key in each round
ROUNDS = 10
RANGE = 2**32  # random numbers are below
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # what entries are copied as, by their bytes; 0 is 0.0
_QUADS = 128  # counters of a block: their random numbers stay in the nearest cache
_SERIAL = 2**14  # entries below which waking a thread costs more than its help gains


def drop_threshold(p: float) -> int:
    """Return the number below which a random number means "dropped"; from 0 (none is) to 2**32 (all are)."""
    return round(p * RANGE)


def dropout(x: Tensor, key: Tensor, p: float, layer: int, row: int, column: int, y: Tensor) -> None:
    """Write x, but 0 where an entry is dropped, to y.

    Args:
        x, key, p, layer, row, column: As for `alexnet.kernels.dropout.dropout`.
        y: (N, C), contiguous.
    """
    inputs, outputs = (tensor.view(BITS[x.itemsize]).numpy() for tensor in (x.detach().contiguous(), y))
    constants = np.uint64(key.item() % 2**64), np.uint64(drop_threshold(p)), layer, row, column

    def drop(start: int, stop: int) -> None:
        _drop(inputs, outputs, start, stop, *constants)

    if x.numel() < _SERIAL:
        drop(0, len(x))
    else:
        parallel_for(drop, len(x))


@jit_without_wrapper
def _philox(numbers, first, row, layer, key):
    """Fill numbers (4 * counters) with those of the counters (first, row, layer, 0), (first + 1, row, layer, 0), ..."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    m, n = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
    for quad in range(len(numbers) // 4):
        a, b, c, d = np.uint64(first + quad), np.uint64(row), np.uint64(layer), np.uint64(0)
        k, l = key & low, key >> half  # noqa: E741
        for _ in range(ROUNDS):
            e, g = a * m, c * n
            a, b, c, d = (g >> half) ^ b ^ k, g & low, (e >> half) ^ d ^ l, e & low
            k, l = k + np.uint64(KEY_INCREMENTS[0]) & low, l + np.uint64(KEY_INCREMENTS[1]) & low  # noqa: E741
        numbers[4 * quad], numbers[4 * quad + 1], numbers[4 * quad + 2], numbers[4 * quad + 3] = a, b, c, d


@jit
def _drop(x, y, start, stop, key, threshold, layer, row, column):
    """Set y = x, but 0 where dropped, in rows start to stop."""
    columns = x.shape[1]
    numbers = np.empty(4 * _QUADS, np.uint32)
    for n in range(start, stop):
        for quad in range(column // 4, (column + columns + 3) // 4, _QUADS):
            _philox(numbers, quad, row + n, layer, key)
            begin = 4 * quad - column  # the column of the first random number, which may be before x
            first, last = max(begin, 0), min(begin + len(numbers), columns)
            number, old, new = numbers[first - begin : last - begin], x[n, first:last], y[n, first:last]
            for i in range(len(number)):
                new[i] = old[i] * (number[i] >= threshold)  # of bits, so that NaN and infinity drop to 0 too

"""The loops of `space_to_depth` for the CPU."""

import torch
from torch import Tensor

from alexnet.kernels.compile import jit
from alexnet.kernels.layout import flat_array, to_channels_last
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import LANES, load, store


def space_to_depth(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype, y: Tensor) -> None:
    """Write pictures cut into squares to y.

    Args:
        x, side, rows, columns, dtype: As for `alexnet.kernels.space_to_depth.space_to_depth`; of 32 bits or fewer.
        y: (N, side * side * C, rows, columns), in channels_last memory.
    """
    assert y.dtype == dtype
    inputs, outputs, (n, channels, *sides) = flat_array(to_channels_last(x)), flat_array(y), x.shape

    def cut(start: int, stop: int) -> None:
        _cut_squares(inputs, outputs, start, stop, (*sides, rows, columns), channels, side)

    parallel_for(cut, n * rows)


@jit
def _cut_squares(x, y, start, stop, shape, channels, side):
    """Cut out rows start to stop of all pictures' squares, in flat arrays of channels_last memory."""
    height, width, rows, columns = shape
    line, chunk = width * channels, side * channels
    for row in range(start, stop):
        top = row % rows * side
        first, to = (row // rows * height + top) * line, row * columns * side * chunk
        end = to + columns * side * chunk
        for left in range(0, columns * chunk, chunk):
            for h in range(side):
                index, available = first + h * line + left, line - left if top + h < height else 0
                for i in range(0, chunk, LANES):
                    # Numbers beyond the chunk are overwritten by the next one; beyond the row, other threads write.
                    count = LANES if to + i + LANES <= end else chunk - i
                    store(y, to + i, load(x, index + i, available - i), count)
                to += chunk

"""Activities in a memory-mapped file without a name, which is gone when the process ends, however it ends."""

import math
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.utils.files import explain_full_disk


class ActivityFile:
    """Rows of activities, each written once and then read many times.

    Args:
        folder: The folder in whose file system the file is made.
        rows: Number of rows; room for all of them is taken at once.
        shape: Shape of one row: (maps, rows, columns) or (units,).
        dtype: Type of the activities.

    Attributes:
        filled: (rows,) bool, whether a row has been written.

    Raises:
        OSError: The disk is full.
    """

    def __init__(self, folder: Path, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._shape = shape
        self.filled = np.zeros(rows, bool)
        size = rows * math.prod(shape) * dtype.itemsize
        if not rows:
            return
        with explain_full_disk(folder), tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process when a page is written
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)  # remains when the file is closed
        self._rows = torch.frombuffer(memory, dtype=dtype).view(rows, -1)

    def write(self, rows: np.ndarray, activities: Tensor) -> None:
        """Write the activities (n, *shape) of some rows; those beyond the end of the file are left out."""
        fits = rows < len(self.filled)
        if fits.any():
            flat = activities.movedim(1, -1).flatten(1)  # maps last, as they lie in channels_last memory
            self._rows[torch.from_numpy(rows[fits])] = flat[torch.from_numpy(fits)].cpu()
            self.filled[rows[fits]] = True

    def read(self, rows: np.ndarray) -> Tensor:
        """Return the activities of some rows, which have been written: (n, *shape), in channels_last memory."""
        maps, *sides = self._shape
        return self._rows[torch.from_numpy(rows)].view(len(rows), *sides, maps).movedim(-1, 1)

    def has(self, rows: np.ndarray) -> np.ndarray:
        """Return (n,) bool, which of some rows have been written."""
        has: np.ndarray = np.append(self.filled, False)[rows.clip(max=len(self.filled))]
        return has

"""The vectors of pictures as a NumPy file that is larger than memory: activities, or raw pixels (section 7.1)."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from alexnet.utils.arrays import load_array
from alexnet.utils.progress import Progress


def write_vectors(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], name: str, progress: bool = False
) -> np.ndarray:
    """Write the vectors of pictures to a NumPy file, block by block, and return them memory-mapped.

    They are not written through a memory map: a disk that becomes full would then end the process without a message.

    Args:
        path: The file.
        blocks: The vectors, (n, width) each, of the same type.
        shape: The number of all vectors, and their width.
        name: What they are, for the progress.
        progress: Whether to show progress on standard error.

    Returns:
        (N, width).
    """
    with path.open("wb") as file, Progress(name, shape[0], "pictures", shown=progress, early_line=True) as bar:
        for number, block in enumerate(blocks):
            if number == 0:
                header = {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(block.tobytes())
            bar.update(len(block))
    return load_array(path)

"""The mean that Caffe subtracts: a file of it, or three numbers."""

import math
from pathlib import Path

import numpy as np

from alexnet.convert.caffe_schema import parse_message
from alexnet.convert.from_caffe import read_blob
from alexnet.utils.arrays import load_array

_NPY = b"\x93NUMPY"


def read_caffe_mean(mean: str | Path, size: int) -> np.ndarray:
    """Return the mean in 0..255 units, in the order RGB.

    Args:
        mean: Three numbers "B,G,R", in Caffe's order; or a file: a .binaryproto, or a .npy of the same numbers, with a
            value for each channel and pixel, or for each channel.
        size: Side of the stored pictures, in pixels.

    Returns:
        (3,) or (3, size, size).

    Raises:
        FileNotFoundError: It is neither three numbers nor a file.
        ValueError: The file is damaged, or has another shape.
    """
    values = _parse_numbers(str(mean))
    array = _read_file(Path(mean)) if values is None else np.array(values)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.shape not in ((3,), (3, 1, 1), (3, size, size)) or not np.isfinite(array).all():
        raise ValueError(
            f"`mean` {mean} must have three finite numbers, or one for each channel and pixel, (3, {size}, {size}); "
            f"got {array.shape}"
        )
    return np.ascontiguousarray(array.squeeze()[::-1], float)


def _parse_numbers(text: str) -> list[float] | None:
    """Return the numbers of "B,G,R"; None if the text is something else."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return None
    return values if all(math.isfinite(value) for value in values) else None


def _read_file(file: Path) -> np.ndarray:
    if not file.is_file():
        raise FileNotFoundError(
            f"`mean` must be three numbers B,G,R or a file; there is no file {file}: check the path"
        )
    contents = file.read_bytes()
    try:
        if contents.startswith(_NPY):
            return np.asarray(load_array(file), float)
        return read_blob(parse_message("Blob", contents), "of the mean")
    except ValueError as error:
        raise ValueError(f"`mean` {file}: {error}") from error

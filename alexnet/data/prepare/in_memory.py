"""Pictures as Python programs have them: paths, contents of files, PIL pictures, arrays and tensors."""

import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from alexnet.data.prepare.central_square import resize_central_square
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.jpeg import check_pixel_count
from alexnet.data.prepare.other_formats import read_pil_picture
from alexnet.data.sources.web_file import is_web_address, read_web_file

Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Tensor
_KINDS = "a path, an http address, the bytes of a file, a PIL picture, an array (H, W, 3) or a tensor (3, H, W)"


def is_picture(value: object) -> bool:
    """Return whether a value is one picture, or at least no collection of pictures.

    Arrays and tensors of one picture have three dimensions.
    """
    if isinstance(value, np.ndarray):
        return value.ndim in (0, 2, 3)
    if isinstance(value, Tensor):
        return value.ndim in (0, 2, 3)
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image))


def read_picture(picture: Picture, size: int) -> np.ndarray:
    """Return the central square of a picture as 8-bit RGB, as `read_image` does of a file.

    Args:
        picture: The path of a picture file, its http or https address as a str, or its bytes; a PIL picture of any
            mode; an array (H, W, 3) or a tensor (3, H, W), RGB, of dtype uint8, or of a floating-point dtype with
            values from 0 to 1.
        size: Side of the square in pixels.

    Returns:
        (size, size, 3) uint8.

    Raises:
        TypeError: It is nothing of these.
        OSError: The file cannot be read or downloaded.
        ValueError: It is not a picture, is damaged or closed, or has another shape, dtype or range of values.
    """
    if isinstance(picture, str) and is_web_address(picture):
        contents = read_web_file(picture)
        try:
            return read_image(contents, size)
        except ValueError as error:
            raise ValueError(f"{picture}: not a readable picture: {error}") from error
    if isinstance(picture, (str, os.PathLike)):
        return read_image(Path(picture), size)
    if isinstance(picture, (bytes, bytearray, memoryview, Image.Image)):
        try:
            if isinstance(picture, Image.Image):
                return read_pil_picture(picture, size)
            return read_image(bytes(picture), size)
        except ValueError as error:
            raise ValueError(f"not a readable picture: {error}") from error
    if isinstance(picture, Tensor):
        return resize_central_square(_tensor_pixels(picture), size)
    if isinstance(picture, np.ndarray):
        return resize_central_square(_array_pixels(picture), size)
    raise TypeError(f"a picture must be {_KINDS}; got {type(picture).__name__}")


def _tensor_pixels(tensor: Tensor) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of a tensor (3, H, W)."""
    shape = tuple(tensor.shape)
    if len(shape) != 3 or shape[0] != 3:
        advice = ": use permute(2, 0, 1)" if len(shape) == 3 and shape[2] == 3 else ""
        raise ValueError(f"the tensor of a picture must have shape (3, H, W), RGB; got {shape}{advice}")
    tensor = tensor.detach().cpu()
    return _array_pixels((tensor.double() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy())


def _array_pixels(array: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of an array (H, W, 3) of dtype uint8, or of floats from 0 to 1."""
    if array.ndim != 3 or array.shape[2] != 3:
        advice = {2: ": np.stack([grey] * 3, -1) makes RGB of grey"}.get(array.ndim, "")
        if array.ndim == 3 and array.shape[0] == 3:
            advice = ": use transpose(1, 2, 0)"
        raise ValueError(f"the array of a picture must have shape (H, W, 3), RGB; got {array.shape}{advice}")
    check_pixel_count(array.shape[1], array.shape[0])
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(
            f"the pixels of a picture must be uint8, or floats from 0 to 1; got {array.dtype}: convert them"
        )
    if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
        raise ValueError(
            f"floating-point pixels must be from 0 to 1; got {array.min():g} to {array.max():g}: undo a normalisation, "
            "or convert values from 0 to 255 to uint8"
        )
    return np.asarray(np.rint(array * 255), np.uint8)

"""Crop, reflect, centre, shift the colour and cast, straight from a picture's bytes (sections 3 and 5.1).

For a CPU `transform_picture` does it all, a picture at a time. For a GPU `crop_batch` cuts the squares out of the
pictures, the bytes travel, and `transform_batch` does the rest there. Either way the floats are the same bit for bit.
"""

from typing import Any

import cv2
import numba
import numpy as np
import torch
from numba.extending import intrinsic
from torch import Tensor

from alexnet.kernels.compile import has_triton, jit
from alexnet.utils.console import note_once


@jit
def _place(pixels, top, left, mean, colour, factor, out):  # type: ignore[no-untyped-def]
    """Transform a crop whose rows are flat: pixels (H, 3 W) uint8, mean and out (crop, 3 crop), colour (3,)."""
    crop, width = out.shape
    shift = np.empty(width, np.float32)  # the colour again and again, so that the inner loop is one of vectors
    for j in range(width):
        shift[j] = colour[j % 3]
    for i in range(crop):
        row = pixels[top + i, 3 * left : 3 * left + width]
        for j in range(width):
            out[i, j] = (np.float32(row[j]) - mean[i, j] + shift[j]) * factor


def transform_picture(
    image: np.ndarray,
    top: int,
    left: int,
    reflect: bool,
    mean: np.ndarray,
    colour: np.ndarray,
    divisor: float,
    out: np.ndarray,
) -> None:
    """Write the square of a picture that starts at (top, left), prepared for the net, into `out`.

    Args:
        image: (H, W, 3) uint8, contiguous.
        top, left: The square's first row and column, in pixels; its side is that of `out`.
        reflect: Whether left and right are exchanged.
        mean: (crop, crop, 3) float32, subtracted from the (reflected) square.
        colour: (3,) float32, added to R, G and B after that (5.1).
        divisor: What the sum is divided by (multiplied by its reciprocal, to be exact); the paper has 1.
        out: (crop, crop, 3) float32, contiguous; written.
    """
    height, width, _ = image.shape
    crop = out.shape[0]
    assert 0 <= top <= height - crop, "the square must lie within the picture"
    assert 0 <= left <= width - crop, "the square must lie within the picture"
    assert mean.shape == out.shape == (crop, crop, 3)
    if reflect:  # OpenCV turns bytes around eight times as fast as a plain loop
        image = cv2.flip(image[top : top + crop, left : left + crop], 1)
        top = left = 0
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    factor = np.float32(1 / divisor)
    _place(rows, top, left, mean.reshape(crop, 3 * crop), colour, factor, out.reshape(crop, 3 * crop))


def transform_picture_reference(
    image: np.ndarray,
    top: int,
    left: int,
    reflect: bool,
    mean: np.ndarray,
    colour: np.ndarray,
    divisor: float,
    out: np.ndarray,
) -> None:
    """What `transform_picture` does, in plain NumPy; the results are equal bit for bit."""
    crop = out.shape[0]
    square = image[top : top + crop, left : left + crop]
    if reflect:
        square = square[:, ::-1]
    out[:] = (square.astype(np.float32) - mean + colour) * np.float32(1 / divisor)


def _pointer(_: Any, address: Any) -> tuple[Any, Any]:
    """An address as a pointer to bytes, in the machine code that Numba makes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return numba.types.CPointer(numba.types.uint8)(address), generate


_bytes_at: Any = intrinsic(_pointer)


@jit
def _gather(addresses, size, top, left, out):  # type: ignore[no-untyped-def]
    count, crop, width = out.shape
    for n in range(count):
        picture = numba.carray(_bytes_at(addresses[n]), (size, 3 * size))  # type: ignore[attr-defined]
        for i in range(crop):
            row = picture[top[n] + i, 3 * left[n] : 3 * left[n] + width]
            for j in range(width):
                out[n, i, j] = row[j]


def crop_batch(addresses: np.ndarray, size: int, top: np.ndarray, left: np.ndarray, out: np.ndarray) -> None:
    """Copy a square of each of N pictures, without Python's lock from the first to the last.

    Args:
        addresses: (N,) uint64, where in memory the pictures lie: (size, size, 3) uint8 each, contiguous.
        size: Their side, in pixels.
        top, left: (N,) int64, the squares' first rows and columns, in pixels; their side is that of `out`.
        out: (N, crop, crop, 3) uint8, contiguous; written.
    """
    count, crop, _, _ = out.shape
    assert len(addresses) == len(top) == len(left) == count
    if count == 0:
        return
    assert min(top.min(), left.min()) >= 0, "the squares must lie within the pictures"
    assert max(top.max(), left.max()) + crop <= size, "the squares must lie within the pictures"
    _gather(addresses, size, top, left, out.reshape(count, crop, 3 * crop))


def transform_batch(
    squares: Tensor,
    reflect: Tensor,
    mean: Tensor,
    colour: Tensor,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Prepare squares for the net where they lie: what `transform_picture` does, of a whole batch.

    On CUDA in one pass in Triton; in plain torch elsewhere, and where Triton is not installed.

    Args:
        squares: (N, crop, crop, 3) uint8, contiguous.
        reflect: (N,) bool, whether left and right are exchanged.
        mean: (crop, crop, 3) float32, subtracted from the (reflected) squares.
        colour: (N, 3) float32, added to R, G and B after that (5.1).
        divisor: What the sum is divided by (multiplied by its reciprocal, to be exact).
        dtype: Of the result; the arithmetic is in float32.

    Returns:
        (N, 3, crop, crop) in channels_last memory.
    """
    assert squares.is_contiguous() and mean.is_contiguous() and colour.is_contiguous()  # noqa: PT018
    if squares.is_cuda and has_triton():
        from alexnet.kernels.augment_triton import transform_batch_triton

        return transform_batch_triton(squares, reflect, mean, colour, divisor, dtype)
    if squares.is_cuda:
        note_once("batches are made by plain torch, in several passes; install triton for one")
    return transform_batch_reference(squares, reflect, mean, colour, divisor, dtype)


def transform_batch_reference(
    squares: Tensor,
    reflect: Tensor,
    mean: Tensor,
    colour: Tensor,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What `transform_batch` does, in plain torch; the results are equal bit for bit."""
    turned = torch.where(reflect[:, None, None, None], squares.flip(2), squares)
    factor = float(np.float32(1 / divisor))
    return ((turned.float() - mean + colour[:, None, None]) * factor).to(dtype).permute(0, 3, 1, 2)

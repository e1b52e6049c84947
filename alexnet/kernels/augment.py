"""Crop, reflect, centre, shift the colour and cast, straight from a picture's bytes (sections 3 and 5.1).

For a CPU `transform_picture` does all of it, one picture at a time. For a GPU `crop_batch` copies the crops out of the
pictures, and their bytes are sent to the GPU, where `transform_batch` does the rest. The results are the same bits.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from alexnet.kernels import augment_cpu
from alexnet.kernels.register import runs_triton


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
    """Write the crop of a picture that starts at (top, left), prepared for the net, to `out`.

    Args:
        image: (H, W, 3) uint8, contiguous.
        top, left: The crop's first row and column, in pixels; its side is that of `out`.
        reflect: Whether left and right are exchanged.
        mean: (crop, crop, 3) float32, subtracted from the (reflected) crop.
        colour: (3,) float32, added to R, G and B after that (5.1).
        divisor: What the sum is divided by (multiplied by its reciprocal, to be exact); the paper has 1.
        out: (crop, crop, 3) float32, contiguous; written.
    """
    height, width, _ = image.shape
    crop = out.shape[0]
    assert 0 <= top <= height - crop, "the crop must be within the picture"
    assert 0 <= left <= width - crop, "the crop must be within the picture"
    assert mean.shape == out.shape == (crop, crop, 3)
    if reflect:  # OpenCV reverses bytes eight times as fast as a plain loop
        image = cv2.flip(image[top : top + crop, left : left + crop], 1)
        top = left = 0
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    factor = np.float32(1 / divisor)
    flat_mean, flat_out = mean.reshape(crop, 3 * crop), out.reshape(crop, 3 * crop)
    augment_cpu.transform_crop(rows, top, left, flat_mean, colour, factor, flat_out)


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
    """Compute `transform_picture` in plain NumPy; the results are equal bit for bit."""
    side = out.shape[0]
    crop = image[top : top + side, left : left + side]
    if reflect:
        crop = crop[:, ::-1]
    out[:] = (crop.astype(np.float32) - mean + colour) * np.float32(1 / divisor)


def crop_batch(addresses: np.ndarray, size: int, top: np.ndarray, left: np.ndarray, out: np.ndarray) -> None:
    """Copy a crop of each of N pictures, all without the interpreter lock.

    Args:
        addresses: (N,) uint64, the addresses of the pictures in memory: (size, size, 3) uint8 each, contiguous.
        size: Side of the pictures, in pixels.
        top, left: (N,) int64, the crops' first rows and columns, in pixels; their side is that of `out`.
        out: (N, crop, crop, 3) uint8, contiguous; written.
    """
    count, crop, _, _ = out.shape
    assert len(addresses) == len(top) == len(left) == count
    if count == 0:
        return
    assert min(top.min(), left.min()) >= 0, "the crops must be within the pictures"
    assert max(top.max(), left.max()) + crop <= size, "the crops must be within the pictures"
    augment_cpu.copy_crops(addresses, size, top, left, out.reshape(count, crop, 3 * crop))


def transform_batch(
    crops: Tensor,
    reflect: Tensor,
    mean: Tensor,
    colour: Tensor,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Prepare a batch of crops for the net on their device, as `transform_picture` does for one.

    On CUDA in one pass in Triton; in plain torch elsewhere, and where Triton is not installed.

    Args:
        crops: (N, crop, crop, 3) uint8, contiguous.
        reflect: (N,) bool, whether left and right are exchanged.
        mean: (crop, crop, 3) float32, subtracted from the (reflected) crops.
        colour: (N, 3) float32, added to R, G and B after that (5.1).
        divisor: What the sum is divided by (multiplied by its reciprocal, to be exact).
        dtype: Type of the result; the arithmetic is in float32.

    Returns:
        (N, 3, crop, crop) in channels_last memory.
    """
    assert crops.is_contiguous() and mean.is_contiguous() and colour.is_contiguous()  # noqa: PT018
    if runs_triton(crops, "the transformation of batches"):
        from alexnet.kernels.augment_triton import transform_batch_triton  # when a GPU first needs it

        return transform_batch_triton(crops, reflect, mean, colour, divisor, dtype)
    return transform_batch_reference(crops, reflect, mean, colour, divisor, dtype)


def transform_batch_reference(
    crops: Tensor,
    reflect: Tensor,
    mean: Tensor,
    colour: Tensor,
    divisor: float,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute `transform_batch` in plain torch; the results are equal bit for bit."""
    reflected = torch.where(reflect[:, None, None, None], crops.flip(2), crops)
    factor = float(np.float32(1 / divisor))
    return ((reflected.float() - mean + colour[:, None, None]) * factor).to(dtype).permute(0, 3, 1, 2)

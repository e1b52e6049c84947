"""Crop, reflect, centre, shift the colour and cast, straight from a picture's bytes (sections 3 and 5.1)."""

import cv2
import numpy as np

from alexnet.kernels import compiled


@compiled
def _place(pixels, top, left, mean, colour, factor, out):  # type: ignore[no-untyped-def]
    """`place` on arrays whose rows are flat: pixels (H, 3 W) uint8, mean and out (crop, 3 crop), colour (3,)."""
    crop, width = out.shape
    shift = np.empty(width, np.float32)  # the colour again and again, so that the inner loop is one of vectors
    for j in range(width):
        shift[j] = colour[j % 3]
    for i in range(crop):
        row = pixels[top + i, 3 * left : 3 * left + width]
        for j in range(width):
            out[i, j] = (np.float32(row[j]) - mean[i, j] + shift[j]) * factor


def place(
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


def place_reference(
    image: np.ndarray,
    top: int,
    left: int,
    reflect: bool,
    mean: np.ndarray,
    colour: np.ndarray,
    divisor: float,
    out: np.ndarray,
) -> None:
    """What `place` does, in plain NumPy; the results are equal bit for bit."""
    crop = out.shape[0]
    square = image[top : top + crop, left : left + crop]
    if reflect:
        square = square[:, ::-1]
    out[:] = (square.astype(np.float32) - mean + colour) * np.float32(1 / divisor)

"""The central square of a picture at the size of the store (section 3)."""

import numpy as np

from alexnet.data.prepare.resize import area_weights, enlarge, resample


def resize_central_square(
    picture: np.ndarray,
    size: int,
    *,
    divisor: int = 1,
    full_size: tuple[int, int] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Crop the central square of a picture and resize it.

    Args:
        picture: (height, width, 3) uint8, the picture or one that the JPEG decoder has made smaller.
        size: Side of the resized square in pixels.
        divisor: The factor by which the decoder has divided its sides.
        full_size: The height and width before this division, from which the square is cropped.
        out: (size, size, 3) uint8, contiguous, where to write the result; by default a new array.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = full_size or picture.shape[:2]
    side = min(height, width)
    top, rows_before = divmod((height - side) // 2, divisor)
    left, columns_before = divmod((width - side) // 2, divisor)
    square = np.empty((size, size, 3), np.uint8) if out is None else out
    square_rows = square.reshape(size, size * 3)
    rows = np.ascontiguousarray(picture).reshape(picture.shape[0], picture.shape[1] * 3)
    if 1 < side < size:
        enlarge(rows, top, left, *area_weights(side, size), square_rows)
    else:
        row_weights = area_weights(side, size, divisor, rows_before)
        column_weights = area_weights(side, size, divisor, columns_before)
        resample(rows, top, left, *row_weights, *column_weights, square_rows)
    return square

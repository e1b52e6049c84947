"""The loops over the bytes of pictures for the CPU (sections 3 and 5.1)."""

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from alexnet.kernels.compile import jit


@jit
def transform_crop(pixels, top, left, mean, colour, factor, out):
    """Write a crop of a picture, centred, shifted and scaled, to `out`; the rows of all arrays are flat.

    Args:
        pixels: (H, 3 * W) uint8.
        top, left: The crop's first row and column, in pixels.
        mean: (crop, 3 * crop) float32, subtracted.
        colour: (3,) float32, added.
        factor: What the sum is multiplied by, float32.
        out: (crop, 3 * crop) float32, written.
    """
    crop, width = out.shape
    shift = np.empty(width, np.float32)  # the colour again and again, so that the inner loop can be vectorised
    for j in range(width):
        shift[j] = colour[j % 3]
    for i in range(crop):
        row = pixels[top + i, 3 * left : 3 * left + width]
        for j in range(width):
            out[i, j] = (np.float32(row[j]) - mean[i, j] + shift[j]) * factor


def _pointer(_: Any, address: Any) -> tuple[Any, Any]:
    """Return an intrinsic that turns an address into a pointer to bytes."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return numba.types.CPointer(numba.types.uint8)(address), code


_to_pointer: Any = intrinsic(_pointer)


@jit
def copy_crops(addresses, size, top, left, out):
    """Copy a crop of each of N pictures to `out`.

    Args:
        addresses: (N,) uint64, the addresses of the pictures in memory: (size, 3 * size) uint8 each.
        size: Side of the pictures, in pixels.
        top, left: (N,) int64, the crops' first rows and columns, in pixels.
        out: (N, crop, 3 * crop) uint8, written.
    """
    count, crop, width = out.shape
    for n in range(count):
        picture = numba.carray(_to_pointer(addresses[n]), (size, 3 * size))
        for i in range(crop):
            row = picture[top[n] + i, 3 * left[n] : 3 * left[n] + width]
            for j in range(width):
                out[n, i, j] = row[j]

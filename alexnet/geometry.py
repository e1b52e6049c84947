"""The sides of feature maps: where the paper's 224 becomes 55."""

from typing import Literal

Rounding = Literal["up", "down"]
"""How the number of steps between two kernels or windows is rounded, where the last one does not end at the edge."""


def conv_side(side: int, kernel: int, stride: int, padding: int, rounding: Rounding = "up") -> int:
    """Return the side of a convolution's output, in pixels.

    Rounded up, the last kernel may reach past the padded input: zeros are added on the right and at the bottom. So 224
    becomes 55 with an 11 x 11 kernel, stride 4 and no padding (Figure 2: 290,400 = 55 * 55 * 96). Rounded down, as in
    torch and Caffe, the last pixels may not be read.

    Args:
        side: Side of the input, in pixels.
        kernel: Side of a kernel, in pixels.
        stride: Distance between neighbouring kernels, in pixels.
        padding: Zeros on every side, in pixels.
        rounding: "up" (the paper) or "down".
    """
    return 1 + _steps(2 * padding + side - kernel, stride, rounding)


def pool_side(side: int, size: int, stride: int, rounding: Rounding = "up") -> int:
    """Return the side of a pooling layer's output, in pixels.

    Rounded up, as in Caffe, windows that reach past the right or the bottom edge are included. Rounded down, as in
    torch, they are left out.

    Args:
        side: Side of the input, in pixels.
        size: Side of a window, in pixels.
        stride: Distance between neighbouring windows, in pixels.
        rounding: "up" (the paper) or "down".
    """
    return 1 + _steps(side - size, stride, rounding)


def _steps(distance: int, stride: int, rounding: Rounding) -> int:
    return -(-distance // stride) if rounding == "up" else distance // stride

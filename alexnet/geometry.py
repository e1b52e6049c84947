"""The sides of feature maps: where the paper's 224 becomes 55."""

import math


def conv_side(side: int, kernel: int, stride: int, padding: int) -> int:
    """Return the side of a convolution's output, in pixels.

    It is rounded up: if the last kernel reaches past the padded input, zeros are added on the right and at the bottom.
    So 224 becomes 55 with an 11 x 11 kernel, stride 4 and no padding (Figure 2: 290,400 = 55 * 55 * 96).

    Args:
        side: Side of the input, in pixels.
        kernel: Side of a kernel, in pixels.
        stride: Distance between neighbouring kernels, in pixels.
        padding: Zeros on every side, in pixels.
    """
    return 1 + math.ceil((2 * padding + side - kernel) / stride)


def pool_side(side: int, size: int, stride: int) -> int:
    """Return the side of a pooling layer's output, in pixels.

    It is rounded up: windows that reach past the right or the bottom edge are included.

    Args:
        side: Side of the input, in pixels.
        size: Side of a window, in pixels.
        stride: Distance between neighbouring windows, in pixels.
    """
    return 1 + math.ceil((side - size) / stride)

"""The sides of the feature maps: where the paper's 224 becomes 55."""

import math


def conv_side(side: int, kernel: int, stride: int, padding: int) -> int:
    """Side of a convolution's output: rounded up, so zeros are added at the right and the bottom where needed.

    This is how 224 gives 55 with an 11 x 11 kernel, stride 4 and no padding (Figure 2: 290,400 = 55 * 55 * 96).
    """
    return 1 + math.ceil((2 * padding + side - kernel) / stride)


def pool_side(side: int, size: int, stride: int) -> int:
    """Side of a pooling layer's output, windows that stick out at the right and the bottom included."""
    return 1 + math.ceil((side - size) / stride)

"""The kernel of `space_to_depth` in Triton, for CUDA: one pass that pads, converts and rearranges."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.layout import to_channels_last

_ELEMENTS = 1024  # of a program: 8 a thread


def space_to_depth(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype, y: Tensor) -> None:
    """Write pictures cut into squares to y; arguments as for `alexnet.kernels.space_to_depth_cpu.space_to_depth`."""
    assert y.dtype == dtype
    n, channels, height, width = x.shape
    length = math.gcd(side * channels, width * channels, 8)
    vectors = _ELEMENTS // length
    if y.numel():
        programs = n * triton.cdiv(y[0].numel(), _ELEMENTS)
        sizes = height, width, channels, rows, columns, side, vectors, length
        with torch.cuda.device_of(x):
            space_to_depth_kernel[(programs,)](to_channels_last(x), y, *sizes)


@triton.jit
def space_to_depth_kernel(
    x, y,
    height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, side: tl.constexpr, vectors: tl.constexpr, length: tl.constexpr,
):  # fmt: skip
    # Vectors of `length` elements divide a row of the picture and of a square, so that none crosses an edge.
    line: tl.constexpr = width * channels // length
    chunk: tl.constexpr = side * channels // length  # a row of a square: contiguous in x and in y
    depth: tl.constexpr = side * chunk
    size: tl.constexpr = rows * columns * depth
    tiles: tl.constexpr = (size + vectors - 1) // vectors  # of a picture
    program = tl.program_id(0)
    picture = (program // tiles).to(tl.int64)
    to = program % tiles * vectors + tl.arange(0, vectors)[:, None]
    square, within = to // depth, to % depth
    h, left = square // columns * side + within // chunk, square % columns * chunk + within % chunk
    inside = to < size
    available = inside & (h < height) & (left < line)
    element = tl.arange(0, length)[None, :]
    value = tl.load(x + picture * (height * line * length) + ((h * line + left) * length + element), available, 0.0)
    tl.store(
        y + picture * (size * length) + (to * length + element), value.to(tl.float32).to(y.dtype.element_ty), inside
    )

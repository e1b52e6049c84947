"""Cutting pictures into squares (space to depth) in Triton, for a GPU: one pass that pads, converts and rearranges."""

# mypy: disable-error-code="no-untyped-def"
# (Triton gives the kernel's arguments their types.)

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.layout import to_channels_last

_ELEMENTS = 1024  # of a program: 8 a thread


@triton.jit
def _space_to_depth(
    x, y,
    height: tl.constexpr, width: tl.constexpr, channels: tl.constexpr,
    rows: tl.constexpr, columns: tl.constexpr, side: tl.constexpr, vectors: tl.constexpr, length: tl.constexpr,
):  # fmt: skip
    # In vectors of so many elements, which divide a picture's row and a square's, so that none crosses an edge.
    line: tl.constexpr = width * channels // length
    chunk: tl.constexpr = side * channels // length  # a row of a square: contiguous in x and in y
    depth: tl.constexpr = side * chunk
    size: tl.constexpr = rows * columns * depth
    tiles: tl.constexpr = (size + vectors - 1) // vectors  # of a picture
    program = tl.program_id(0)
    picture = (program // tiles).to(tl.int64)
    to = program % tiles * vectors + tl.arange(0, vectors)[:, None]
    place, within = to // depth, to % depth
    h, left = place // columns * side + within // chunk, place % columns * chunk + within % chunk
    inside = to < size
    there = inside & (h < height) & (left < line)
    element = tl.arange(0, length)[None, :]
    value = tl.load(x + picture * (height * line * length) + ((h * line + left) * length + element), there, 0.0)
    tl.store(
        y + picture * (size * length) + (to * length + element), value.to(tl.float32).to(y.dtype.element_ty), inside
    )


def space_to_depth(x: Tensor, y: Tensor, side: int) -> None:
    """Write `space_to_depth`'s result.

    Args:
        x: (N, C, H, W) of 32 bits or fewer.
        y: (N, side * side * C, rows, columns) of 32 bits or fewer, in channels_last memory.
        side: Of a square, in pixels.
    """
    x = to_channels_last(x)
    n, channels, height, width = x.shape
    _, _, rows, columns = y.shape
    length = math.gcd(side * channels, width * channels, 8)
    vectors = _ELEMENTS // length
    if y.numel():
        programs = n * triton.cdiv(y[0].numel(), _ELEMENTS)
        with torch.cuda.device_of(x):
            _space_to_depth[(programs,)](x, y, height, width, channels, rows, columns, side, vectors, length)

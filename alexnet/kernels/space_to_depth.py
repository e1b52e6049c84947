"""A picture cut into squares, whose pixels lie side by side as maps: so a strided convolution becomes one of stride 1.

Convolutions are fast where a place has many maps; conv1 reads three. Cut into squares of its stride, 4 x 4 pixels, the
picture has 48, and conv1's 11 x 11 pixels become 3 x 3 squares, a row and a column of them zeros: a fifth more
arithmetic in less time: on an H200, in bfloat16, 0.4 ms instead of 1.6 for 128 pictures, forward and back. (The cutting
is also known as space to depth.)

Loops do it on a CPU, and fold_triton.py on a GPU.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.compile import has_triton, jit
from alexnet.kernels.layout import check_feature_maps, flat_array, to_channels_last
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import LANES, load, store
from alexnet.utils.console import note_once


def space_to_depth_reference(
    x: Tensor, *, side: int, rows: int, columns: int, dtype: torch.dtype | None = None
) -> Tensor:
    """What `space_to_depth` computes, in plain differentiable torch."""
    n, maps, *_ = x.shape
    cut = x[:, :, : rows * side, : columns * side]
    padded = F.pad(cut, (0, columns * side - cut.shape[3], 0, rows * side - cut.shape[2]))
    squares = padded.to(dtype or x.dtype).reshape(n, maps, rows, side, columns, side)
    return squares.permute(0, 3, 5, 1, 2, 4).reshape(n, side * side * maps, rows, columns)


@jit
def _fold(x, y, start, stop, shape, maps, side):  # type: ignore[no-untyped-def]
    """Rows start to stop of all pictures' squares, in flat arrays of channels_last memory."""
    height, width, rows, columns = shape
    line, chunk = width * maps, side * maps
    for row in range(start, stop):
        to, end = row * columns * side * chunk, (row + 1) * columns * side * chunk
        for left in range(0, columns * chunk, chunk):
            for h in range(row % rows * side, row % rows * side + side):
                at, given = (row // rows * height + h) * line + left, line - left if h < height else 0
                for i in range(0, chunk, LANES):
                    # What is written too much is written over next; behind the row other threads write.
                    count = LANES if to + i + LANES <= end else chunk - i
                    store(y, to + i, load(x, at + i, given - i), count)
                to += chunk


@torch.library.custom_op("alexnet::space_to_depth", mutates_args=(), device_types="cpu")
def _folded(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    y: Tensor = _room(x, side, rows, columns, dtype)
    source, target, (n, maps, *shape) = flat_array(to_channels_last(x)), flat_array(y), x.shape

    def part(start: int, stop: int) -> None:
        _fold(source, target, start, stop, (*shape, rows, columns), maps, side)

    parallel_for(part, n * rows)
    return y


@_folded.register_kernel("cuda")
def _(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    from alexnet.kernels import space_to_depth_triton as fold_triton  # Triton is imported when a GPU first needs it

    y: Tensor = _room(x, side, rows, columns, dtype)
    fold_triton.space_to_depth(x, y, side)
    return y


@_folded.register_fake
def _room(x: Tensor, side: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    shape = (x.shape[0], side * side * x.shape[1], rows, columns)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
    x, ctx.side, *_ = inputs
    ctx.like = x.dtype, x.shape


def _gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    side, (dtype, (n, maps, height, width)) = ctx.side, ctx.like
    _, _, rows, columns = g.shape
    squares = g.to(dtype).reshape(n, side, side, maps, rows, columns).permute(0, 3, 4, 1, 5, 2)
    dx = squares.reshape(n, maps, rows * side, columns * side)[:, :, :height, :width]
    dx = F.pad(dx, (0, width - dx.shape[3], 0, height - dx.shape[2]))
    return (dx, *[None] * 4)


_folded.register_autograd(_gradient, setup_context=_keep)


_TRITON = has_triton()  # here, so that torch.compile need not look into it


def _has_kernel(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether there is a kernel for x's device, its type and that of the result; elsewhere plain torch works."""
    if x.device.type == "cuda" and not _TRITON:
        note_once(
            "pictures on the GPU are cut into squares by plain torch, several times slower: Triton is not installed"
        )
    supported = x.device.type == "cpu" or (x.device.type == "cuda" and _TRITON)
    return supported and torch.float64 not in {x.dtype, dtype}


def space_to_depth(x: Tensor, *, side: int, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
    """Cut pictures into `rows` x `columns` squares of `side` pixels, and take each as one place of more maps.

    Args:
        x: (N, C, H, W) of any floating type. What lies beyond it counts as zeros, what no square reaches not at all.
        side, rows, columns: At least 1.
        dtype: Of the result; that of x by default.

    Returns:
        (N, side * side * C, rows, columns); the maps in the order row, column, C. From a
            kernel (of 32 bits or fewer, on a CPU or a GPU with Triton), in channels_last memory.

    Raises:
        ValueError: x is no four-dimensional tensor of a floating type; or a number below 1.
    """
    check_feature_maps(x)
    if min(side, rows, columns) < 1:
        raise ValueError(f"side, rows and columns must be at least 1; got {side}, {rows}, {columns}")
    dtype = dtype or x.dtype
    if not _has_kernel(x, dtype):
        return space_to_depth_reference(x, side=side, rows=rows, columns=columns, dtype=dtype)
    result: Tensor = _folded(x, side, rows, columns, dtype)
    return result

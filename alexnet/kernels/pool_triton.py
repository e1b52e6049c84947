"""The kernels of max pooling in Triton, for CUDA: what pool_cpu.py computes, to the bit, gradients summed in float32.

Feature maps are in channels_last memory. A forward program takes some output positions of one picture and a block of
its channels. A backward program takes some cells of stride x stride input positions. The windows that reach into a cell
are the same for all its positions: they are loaded once, and each position adds those whose largest it was, from the
top left. So each gradient is written once, without atomic additions, and results are deterministic.

All sizes of a layer are compile-time constants, and all loops over windows are unrolled: there is no division by a
variable, and masks remain only where a window can be cut.
"""

# mypy: disable-error-code="assignment, var-annotated"
# (Triton gives the variables of a kernel their types.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.layout import to_channels_last

_ELEMENTS = 1024  # of a program: in 16 bits, a load of 16 bytes for each thread
_CHANNELS = 128  # of a program, at most


def max_pool(x: Tensor, size: int, stride: int, _ceil_mode: bool, y: Tensor, winners: Tensor) -> None:
    """Write the largest of each window, and its index in the window, row by row.

    Args:
        x: (N, C, H, W) of 32 bits or fewer.
        size, stride: Of the windows; the loops over them are unrolled, so at most about 8.
        _ceil_mode: As for `alexnet.kernels.pool.max_pool`; it has decided on the rows and columns already.
        y, winners: (N, C, rows, columns), in channels_last memory; of x's type, and uint8.
    """
    _, channels, *sides = x.shape
    if y.numel():
        tile = _tile(channels)
        programs = _count_programs(len(y), y.shape[2] * y.shape[3], channels, tile)
        sizes = *sides, *y.shape[2:], channels, size, stride
        with torch.cuda.device_of(x):
            forward_kernel[(programs,)](to_channels_last(x), y, winners, *sizes, **tile)


def max_pool_backward(g: Tensor, winners: Tensor, height: int, width: int, size: int, stride: int, dx: Tensor) -> None:
    """Write the gradient of each activation: the sum of those of the windows whose largest it was.

    Args:
        g, winners: (N, C, rows, columns), the gradient of what `max_pool` wrote, and the indices.
        height, width, size, stride: Sides of the maps and of a window, and distance of two windows.
        dx: (N, C, height, width), in channels_last memory, of g's type.
    """
    channels = g.shape[1]
    if dx.numel():
        tile = _tile(channels)
        cells = triton.cdiv(height, stride) * triton.cdiv(width, stride)
        programs = _count_programs(len(dx), cells, channels, tile)
        tensors = to_channels_last(g), to_channels_last(winners), dx
        with torch.cuda.device_of(g):
            backward_kernel[(programs,)](*tensors, height, width, *g.shape[2:], channels, size, stride, **tile)


def _tile(channels: int) -> dict[str, int]:
    """Return the positions and channels of a program: no thread idle, if a block of 32 channels or more allows that."""
    block = min(channels & -channels, _CHANNELS)
    if block < 32:
        block = min(triton.next_power_of_2(channels), _CHANNELS)
    return {"positions": _ELEMENTS // block, "block": block}


def _count_programs(pictures: int, positions: int, channels: int, tile: dict[str, int]) -> int:
    return int(pictures * triton.cdiv(positions, tile["positions"]) * triton.cdiv(channels, tile["block"]))


@triton.jit
def forward_kernel(
    x, y, winners,
    height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr, out_width: tl.constexpr,
    channels: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, positions: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (channels + block - 1) // block
    tiles: tl.constexpr = (out_height * out_width + positions - 1) // positions
    program = tl.program_id(0)
    picture = (program // (blocks * tiles)).to(tl.int64)
    position = program // blocks % tiles * positions + tl.arange(0, positions)[:, None]
    channel = program % blocks * block + tl.arange(0, block)[None, :]
    row, column = position // out_width * stride, position % out_width * stride  # of the window's first position
    inside = (position < out_height * out_width) & (channel < channels)
    x += picture * (height * width * channels)
    first = (row * width + column) * channels + channel
    best = tl.load(x + first, inside, 0.0).to(tl.float32)
    winner = tl.zeros(best.shape, tl.int32)
    for i in tl.static_range(size):
        for j in tl.static_range(size):
            if i + j > 0:
                mask = inside
                if (out_height - 1) * stride + i >= height:
                    mask = mask & (row + i < height)
                if (out_width - 1) * stride + j >= width:
                    mask = mask & (column + j < width)
                a = tl.load(x + first + (i * width + j) * channels, mask, float("-inf")).to(tl.float32)
                better = (a > best) | (a != a)  # the first of equals, the last NaN
                best = tl.where(better, a, best)
                winner = tl.where(better, i * size + j, winner)
    out = picture * (out_height * out_width * channels) + (position * channels + channel)
    tl.store(y + out, best.to(y.dtype.element_ty), inside)
    tl.store(winners + out, winner.to(tl.uint8), inside)


@triton.jit
def backward_kernel(
    g, winners, dx,
    height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr, out_width: tl.constexpr,
    channels: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, positions: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (channels + block - 1) // block
    cells_down: tl.constexpr = (height + stride - 1) // stride
    cells_across: tl.constexpr = (width + stride - 1) // stride
    tiles: tl.constexpr = (cells_down * cells_across + positions - 1) // positions
    reach: tl.constexpr = (size + stride - 1) // stride  # windows along a side that reach into a cell
    program = tl.program_id(0)
    picture = (program // (blocks * tiles)).to(tl.int64)
    cell = program // blocks % tiles * positions + tl.arange(0, positions)[:, None]
    channel = program % blocks * block + tl.arange(0, block)[None, :]
    row, column = cell // cells_across, cell % cells_across
    inside = (cell < cells_down * cells_across) & (channel < channels)
    g += picture * (out_height * out_width * channels)
    winners += picture * (out_height * out_width * channels)
    dx += picture * (height * width * channels)

    # The window `up` rows above and `left` columns left of the one that begins with the cell.
    first = (row * out_width + column) * channels + channel
    window_gradients = ()
    window_winners = ()
    for up in tl.static_range(reach):
        for left in tl.static_range(reach):
            mask = inside & (row >= up) & (row - up < out_height) & (column >= left) & (column - left < out_width)
            window = first - (up * out_width + left) * channels
            window_gradients = window_gradients + (tl.load(g + window, mask, 0.0).to(tl.float32),)  # noqa: RUF005
            window_winners = window_winners + (tl.load(winners + window, mask, 0).to(tl.int32),)  # noqa: RUF005

    to = (row * (stride * width) + column * stride) * channels + channel
    for i in tl.static_range(stride):
        for j in tl.static_range(stride):
            total = tl.zeros(to.shape, tl.float32)
            for up in tl.static_range(reach - 1, -1, -1):
                for left in tl.static_range(reach - 1, -1, -1):
                    if (i + up * stride < size) and (j + left * stride < size):
                        index = (i + up * stride) * size + j + left * stride
                        gradient = window_gradients[up * reach + left]
                        total += tl.where(window_winners[up * reach + left] == index, gradient, 0.0)
            mask = inside
            if i >= (height - 1) % stride + 1:
                mask = mask & (row * stride + i < height)
            if j >= (width - 1) % stride + 1:
                mask = mask & (column * stride + j < width)
            tl.store(dx + to + (i * width + j) * channels, total.to(dx.dtype.element_ty), mask)

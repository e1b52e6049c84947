"""Max pooling in Triton, for a GPU; what pool.py's loops compute, to the bit, with the gradients' sums in float32.

Activities lie in channels_last memory. A forward program takes some output places of one picture and a block of its
channels. A backward program takes some cells of stride x stride input places: the windows that reach into a cell are
the same for all its places, are loaded once, and each place adds those whose winner it is, from the top left. So each
gradient is written once, without atomic additions, and results are deterministic.

All sizes of a layer are compile-time constants, and all loops over windows are unrolled: there is no division by a
variable, and masks remain only where a window can be cut.
"""

# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"
# (Triton gives the kernels' arguments their types.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.layout import to_channels_last

_ELEMENTS = 1024  # of a program: in 16 bits, a load of 16 bytes for each thread
_CHANNELS = 128  # of a program, at most


@triton.jit
def _forward(
    x, y, which,
    height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr, out_width: tl.constexpr,
    channels: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, places: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (channels + block - 1) // block
    tiles: tl.constexpr = (out_height * out_width + places - 1) // places
    program = tl.program_id(0)
    picture = (program // (blocks * tiles)).to(tl.int64)
    place = program // blocks % tiles * places + tl.arange(0, places)[:, None]
    channel = program % blocks * block + tl.arange(0, block)[None, :]
    row, column = place // out_width * stride, place % out_width * stride  # of the window's first place
    inside = (place < out_height * out_width) & (channel < channels)
    x += picture * (height * width * channels)
    at = (row * width + column) * channels + channel
    best = tl.load(x + at, inside, 0.0).to(tl.float32)
    winner = tl.zeros(best.shape, tl.int32)
    for i in tl.static_range(size):
        for j in tl.static_range(size):
            if i + j > 0:
                there = inside
                if (out_height - 1) * stride + i >= height:
                    there = there & (row + i < height)
                if (out_width - 1) * stride + j >= width:
                    there = there & (column + j < width)
                a = tl.load(x + at + (i * width + j) * channels, there, float("-inf")).to(tl.float32)
                better = (a > best) | (a != a)  # the first of equals, the last NaN
                best = tl.where(better, a, best)
                winner = tl.where(better, i * size + j, winner)
    out = picture * (out_height * out_width * channels) + (place * channels + channel)
    tl.store(y + out, best.to(y.dtype.element_ty), inside)
    tl.store(which + out, winner.to(tl.uint8), inside)


@triton.jit
def _backward(
    g, which, dx,
    height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr, out_width: tl.constexpr,
    channels: tl.constexpr, size: tl.constexpr, stride: tl.constexpr, places: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (channels + block - 1) // block
    cells_down: tl.constexpr = (height + stride - 1) // stride
    cells_across: tl.constexpr = (width + stride - 1) // stride
    tiles: tl.constexpr = (cells_down * cells_across + places - 1) // places
    reach: tl.constexpr = (size + stride - 1) // stride  # windows along a side that reach into a cell
    program = tl.program_id(0)
    picture = (program // (blocks * tiles)).to(tl.int64)
    cell = program // blocks % tiles * places + tl.arange(0, places)[:, None]
    channel = program % blocks * block + tl.arange(0, block)[None, :]
    row, column = cell // cells_across, cell % cells_across
    inside = (cell < cells_down * cells_across) & (channel < channels)
    g += picture * (out_height * out_width * channels)
    which += picture * (out_height * out_width * channels)
    dx += picture * (height * width * channels)

    # The window `up` rows above and `left` columns left of the one that begins with the cell.
    at = (row * out_width + column) * channels + channel
    gradients = ()
    winners = ()
    for up in tl.static_range(reach):
        for left in tl.static_range(reach):
            there = inside & (row >= up) & (row - up < out_height) & (column >= left) & (column - left < out_width)
            window = at - (up * out_width + left) * channels
            gradients = gradients + (tl.load(g + window, there, 0.0).to(tl.float32),)  # noqa: RUF005
            winners = winners + (tl.load(which + window, there, 0).to(tl.int32),)  # noqa: RUF005

    to = (row * (stride * width) + column * stride) * channels + channel
    for i in tl.static_range(stride):
        for j in tl.static_range(stride):
            total = tl.zeros(to.shape, tl.float32)
            for up in tl.static_range(reach - 1, -1, -1):
                for left in tl.static_range(reach - 1, -1, -1):
                    if (i + up * stride < size) and (j + left * stride < size):
                        winner = (i + up * stride) * size + j + left * stride
                        value = gradients[up * reach + left]
                        total += tl.where(winners[up * reach + left] == winner, value, 0.0)
            there = inside
            if i >= (height - 1) % stride + 1:
                there = there & (row * stride + i < height)
            if j >= (width - 1) % stride + 1:
                there = there & (column * stride + j < width)
            tl.store(dx + to + (i * width + j) * channels, total.to(dx.dtype.element_ty), there)


def _blocks(channels: int) -> dict[str, int]:
    """Places and channels of a program: a block that leaves no threads idle, if one of 32 channels or more does."""
    block = min(channels & -channels, _CHANNELS)
    if block < 32:
        block = min(triton.next_power_of_2(channels), _CHANNELS)
    return {"places": _ELEMENTS // block, "block": block}


def _programs(pictures: int, places: int, channels: int, tile: dict[str, int]) -> int:
    return int(pictures * triton.cdiv(places, tile["places"]) * triton.cdiv(channels, tile["block"]))


def max_pool_forward(x: Tensor, y: Tensor, which: Tensor, size: int, stride: int) -> None:
    """Write the largest of each window, and the place of it in the window, row by row.

    Args:
        x: (N, C, H, W) of 32 bits or fewer.
        y, which: (N, C, rows, columns), in channels_last memory; of x's type, and uint8.
        size, stride: Of the windows; the loops over them are unrolled, so at most about 8.
    """
    x = to_channels_last(x)
    _, channels, *sides = x.shape
    tile = _blocks(channels) if channels else {}
    if y.numel():
        programs = _programs(len(y), y.shape[2] * y.shape[3], channels, tile)
        with torch.cuda.device_of(x):
            _forward[(programs,)](x, y, which, *sides, *y.shape[2:], channels, size, stride, **tile)


def max_pool_backward(g: Tensor, which: Tensor, dx: Tensor, size: int, stride: int) -> None:
    """Write the gradient of each activity: the sum of those of the windows whose largest it was.

    Args:
        g, which: (N, C, rows, columns): the gradient of what `max_pool_forward` wrote, and the places.
        dx: (N, C, H, W), in channels_last memory, of g's type.
        size, stride: As for `max_pool_forward`.
    """
    g, which = to_channels_last(g), to_channels_last(which)
    _, channels, height, width = dx.shape
    tile = _blocks(channels) if channels else {}
    if dx.numel():
        cells = triton.cdiv(height, stride) * triton.cdiv(width, stride)
        programs = _programs(len(dx), cells, channels, tile)
        with torch.cuda.device_of(g):
            _backward[(programs,)](g, which, dx, height, width, *g.shape[2:], channels, size, stride, **tile)

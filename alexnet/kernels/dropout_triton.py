"""The kernel of `dropout` in Triton, for CUDA: every entry is read and written once, the mask stays in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexnet.kernels.dropout_cpu import drop_threshold

QUADS = 256  # counters of a program, of four columns each: 8 entries a thread


def dropout(x: Tensor, key: Tensor, p: float, layer: int, row: int, column: int, y: Tensor) -> None:
    """Write x, but 0 where an entry is dropped, to y; arguments as for `alexnet.kernels.dropout_cpu.dropout`."""
    if y.numel():
        quads = triton.cdiv(column % 4 + x.shape[1], 4)
        block = min(QUADS, triton.next_power_of_2(quads))
        grid = (x.shape[0], triton.cdiv(quads, block))
        numbers = drop_threshold(p), layer, row, column // 4, x.shape[1]
        with torch.cuda.device_of(x):
            dropout_kernel[grid](x, y, key, *numbers, *x.stride(), SHIFT=column % 4, QUADS=block)


@triton.jit
def dropout_kernel(
    x,
    y,
    key,
    threshold,
    layer,
    row,
    first,
    columns,
    row_stride,
    column_stride,
    SHIFT: tl.constexpr,  # noqa: N803
    QUADS: tl.constexpr,  # noqa: N803
):
    """Drop entries of some columns of a row; x begins SHIFT columns after those of counter `first`, y has no gaps."""
    n = tl.program_id(0).to(tl.int64)
    quad = tl.program_id(1) * QUADS + tl.arange(0, QUADS)
    zero = (quad * 0).to(tl.uint32)
    a, b, c, d = tl.philox(
        tl.load(key), (quad + first).to(tl.uint32), (zero + (n + row)).to(tl.uint32), (zero + layer).to(tl.uint32), zero
    )
    numbers = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    index = tl.program_id(1) * (4 * QUADS) + tl.arange(0, 4 * QUADS) - SHIFT
    inside = index < columns
    if SHIFT:
        inside = inside & (index >= 0)
    value = tl.load(x + n * row_stride + index.to(tl.int64) * column_stride, mask=inside)
    dropped = tl.where(numbers.to(tl.int64) < threshold, 0, value)
    tl.store(y + n * columns + index, dropped, mask=inside)

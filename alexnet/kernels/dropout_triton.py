"""Dropout by place on CUDA, in Triton: every entry is read and written once, the mask never leaves the registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

QUADS = 256  # counters of a program, of four columns each: 8 entries a thread


@triton.jit
def _drop(  # type: ignore[no-untyped-def]
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
    """A program takes some columns of a row; x begins SHIFT columns after those of counter `first`, y has no gaps."""
    n = tl.program_id(0).to(tl.int64)
    quad = tl.program_id(1) * QUADS + tl.arange(0, QUADS)
    zero = (quad * 0).to(tl.uint32)
    a, b, c, d = tl.philox(
        tl.load(key), (quad + first).to(tl.uint32), (zero + (n + row)).to(tl.uint32), (zero + layer).to(tl.uint32), zero
    )
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    at = tl.program_id(1) * (4 * QUADS) + tl.arange(0, 4 * QUADS) - SHIFT
    inside = at < columns
    if SHIFT:
        inside = inside & (at >= 0)
    value = tl.load(x + n * row_stride + at.to(tl.int64) * column_stride, mask=inside)
    kept = tl.where(words.to(tl.int64) < threshold, 0, value)
    tl.store(y + n * columns + at, kept, mask=inside)


def dropout_triton(x: Tensor, key: Tensor, threshold: int, layer: int, row: int, column: int) -> Tensor:
    """What `alexnet.kernels.dropout.dropout` does, where its arguments lie.

    Args:
        threshold: Below which a word means "dropped".
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if y.numel():
        quads = triton.cdiv(column % 4 + x.shape[1], 4)
        block = min(QUADS, triton.next_power_of_2(quads))
        grid = (x.shape[0], triton.cdiv(quads, block))
        with torch.cuda.device_of(x):
            _drop[grid](
                x, y, key, threshold, layer, row, column // 4, x.shape[1], *x.stride(), SHIFT=column % 4, QUADS=block
            )
    return y

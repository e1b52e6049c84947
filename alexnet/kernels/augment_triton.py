"""The batch maker on CUDA, in Triton: bytes are read, and floats written, once (sections 3 and 5.1)."""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # values of a picture that a program makes: 8 a thread
PICTURES = 8  # of so many pictures, so that the mean is read an eighth as often


@triton.jit
def _place_batch(  # type: ignore[no-untyped-def]
    squares,
    reflect,
    mean,
    colour,
    out,
    factor,
    count,
    CROP: tl.constexpr,  # noqa: N803
    PICTURES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    size: tl.constexpr = 3 * CROP * CROP
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    channel, pixel = at % 3, at // 3
    opposite = 3 * (CROP - 1 - 2 * (pixel % CROP)) + at  # the same row and channel, the column from the other end
    centre = tl.load(mean + at, mask=inside)
    for k in tl.static_range(PICTURES):
        n = (tl.program_id(1) * PICTURES + k).to(tl.int64)
        if n < count:
            source = tl.where(tl.load(reflect + n) != 0, opposite, at)
            value = tl.load(squares + n * size + source, mask=inside).to(tl.float32)
            red, green, blue = tl.load(colour + 3 * n), tl.load(colour + 3 * n + 1), tl.load(colour + 3 * n + 2)
            shift = tl.where(channel == 0, red, tl.where(channel == 1, green, blue))
            value = (value - centre + shift) * factor  # in the order of `transform_picture`; nothing here can be fused
            tl.store(out + n * size + at, value.to(out.dtype.element_ty), mask=inside)


def transform_batch_triton(
    squares: Tensor, reflect: Tensor, mean: Tensor, colour: Tensor, divisor: float, dtype: torch.dtype
) -> Tensor:
    """What `alexnet.kernels.augment.transform_batch` does, where its arguments lie."""
    count, crop, _, _ = squares.shape
    out = torch.empty(squares.shape, dtype=dtype, device=squares.device)
    if count:
        grid = (triton.cdiv(3 * crop * crop, BLOCK), triton.cdiv(count, PICTURES))
        with torch.cuda.device_of(squares):
            _place_batch[grid](
                squares, reflect.view(torch.uint8), mean, colour, out, float(np.float32(1 / divisor)), count,
                CROP=crop, PICTURES=PICTURES, BLOCK=BLOCK,
            )  # fmt: skip
    return out.permute(0, 3, 1, 2)

"""The kernel of `transform_batch` in Triton, for CUDA (sections 3 and 5.1); bytes are read and floats written once."""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # values of a picture that a program writes: 8 a thread
_PICTURES = 8  # of a program, so that the mean is read an eighth as often


def transform_batch_triton(
    crops: Tensor, reflect: Tensor, mean: Tensor, colour: Tensor, divisor: float, dtype: torch.dtype
) -> Tensor:
    """Compute `alexnet.kernels.augment.transform_batch` on a CUDA device."""
    count, crop, _, _ = crops.shape
    out = torch.empty(crops.shape, dtype=dtype, device=crops.device)
    if count:
        grid = (triton.cdiv(3 * crop * crop, _BLOCK), triton.cdiv(count, _PICTURES))
        with torch.cuda.device_of(crops):
            _transform_batch_kernel[grid](
                crops, reflect.view(torch.uint8), mean, colour, out, float(np.float32(1 / divisor)), count,
                CROP=crop, PICTURES=_PICTURES, BLOCK=_BLOCK,
            )  # fmt: skip
    return out.permute(0, 3, 1, 2)


@triton.jit
def _transform_batch_kernel(
    crops,
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
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    channel, pixel = index % 3, index // 3
    opposite = 3 * (CROP - 1 - 2 * (pixel % CROP)) + index  # the same row and channel, the column from the other end
    mean_value = tl.load(mean + index, mask=inside)
    for k in tl.static_range(PICTURES):
        n = (tl.program_id(1) * PICTURES + k).to(tl.int64)
        if n < count:
            source = tl.where(tl.load(reflect + n) != 0, opposite, index)
            value = tl.load(crops + n * size + source, mask=inside).to(tl.float32)
            red, green, blue = tl.load(colour + 3 * n), tl.load(colour + 3 * n + 1), tl.load(colour + 3 * n + 2)
            shift = tl.where(channel == 0, red, tl.where(channel == 1, green, blue))
            # In the order of `transform_picture`; nothing here can be fused.
            value = (value - mean_value + shift) * factor
            tl.store(out + n * size + index, value.to(out.dtype.element_ty), mask=inside)

"""The update rule of section 6 in Triton, for CUDA: one launch updates all parameters.

It reads their coefficients from the device.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements of a program: 8 a thread, in vectors of four
_MOST_PARAMETERS = 32  # of a launch, whose addresses are its arguments


def update_triton(parameters: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
    """Update parameters of one CUDA device.

    Args:
        parameters: Weight, velocity, gradient and coefficients of each (`alexnet.kernels.update.ParameterUpdate`), the
            first three as vectors without gaps.
    """
    parameters = [parameter for parameter in parameters if parameter[0].numel()]
    for begin in range(0, len(parameters), _MOST_PARAMETERS):
        weights, velocities, gradients, coefficients = zip(*parameters[begin : begin + _MOST_PARAMETERS], strict=True)
        sizes = tuple(weight.numel() for weight in weights)
        grid = (sum(triton.cdiv(size, BLOCK) for size in sizes),)
        tensors = weights, velocities, gradients, coefficients
        with torch.cuda.device_of(weights[0]):
            # Without fusing, each product and sum is rounded by itself, as everywhere else.
            update_kernel[grid](*tensors, sizes, COUNT=len(sizes), BLOCK=BLOCK, enable_fp_fusion=False)


@triton.jit
def update_kernel(weights, velocities, gradients, coefficients, sizes, COUNT: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """Find the parameter that the program's block is in; the loop is unrolled, since the parameters' types differ."""
    block = tl.program_id(0).to(tl.int64)
    first = block * 0
    for n in tl.static_range(COUNT):
        end = first + tl.cdiv(sizes[n], BLOCK)
        if (block >= first) & (block < end):
            start = (block - first) * BLOCK
            _update_block(weights[n], velocities[n], gradients[n], coefficients[n], sizes[n], start, BLOCK)
        first = end


@triton.jit
def _update_block(weight, velocity, gradient, coefficients, size, start, BLOCK: tl.constexpr):  # noqa: N803
    wide = tl.float64 if weight.dtype.element_ty == tl.float64 else tl.float32
    rate = tl.load(coefficients).to(wide)
    decayed = tl.load(coefficients + 1).to(wide)
    momentum = tl.load(coefficients + 2).to(wide)
    if rate != 0:
        index = start + tl.arange(0, BLOCK)
        inside = index < size
        w = tl.load(weight + index, mask=inside).to(wide)
        v = tl.load(velocity + index, mask=inside).to(wide)
        g = tl.load(gradient + index, mask=inside).to(wide)
        v = momentum * v - decayed * w - rate * g
        tl.store(velocity + index, v.to(velocity.dtype.element_ty), mask=inside)
        tl.store(weight + index, (w + v).to(weight.dtype.element_ty), mask=inside)

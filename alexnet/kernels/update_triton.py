"""The update rule on CUDA, in Triton: one launch moves all parameters, and reads their rates from the device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from alexnet.kernels.update import ParameterUpdate

BLOCK = 1024  # elements of a program: 8 a thread, in vectors of four
MOST = 32  # parameters of a launch, whose addresses are its arguments


@triton.jit
def _rule(weight, velocity, gradient, rates, size, start, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    wide = tl.float64 if weight.dtype.element_ty == tl.float64 else tl.float32
    rate = tl.load(rates).to(wide)
    decayed = tl.load(rates + 1).to(wide)
    momentum = tl.load(rates + 2).to(wide)
    if rate != 0:
        at = start + tl.arange(0, BLOCK)
        inside = at < size
        w = tl.load(weight + at, mask=inside).to(wide)
        v = tl.load(velocity + at, mask=inside).to(wide)
        g = tl.load(gradient + at, mask=inside).to(wide)
        v = momentum * v - decayed * w - rate * g
        tl.store(velocity + at, v.to(velocity.dtype.element_ty), mask=inside)
        tl.store(weight + at, (w + v).to(weight.dtype.element_ty), mask=inside)


@triton.jit
def _update(weights, velocities, gradients, rates, sizes, COUNT: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Each program finds the parameter its block lies in; the loop is unrolled, since the parameters' types differ."""
    block = tl.program_id(0).to(tl.int64)
    first = block * 0
    for n in tl.static_range(COUNT):
        end = first + tl.cdiv(sizes[n], BLOCK)
        if (block >= first) & (block < end):
            _rule(weights[n], velocities[n], gradients[n], rates[n], sizes[n], (block - first) * BLOCK, BLOCK)
        first = end


def update_triton(parts: Sequence["ParameterUpdate"]) -> None:
    """What `alexnet.kernels.update.update` does, on vectors without gaps that lie on one device.

    Args:
        parts: Their tensors of one dimension.
    """
    parts = [part for part in parts if part.weight.numel()]
    for begin in range(0, len(parts), MOST):
        some = parts[begin : begin + MOST]
        weights, velocities, gradients, rates = zip(*some, strict=True)
        sizes = tuple(weight.numel() for weight in weights)
        grid = (sum(triton.cdiv(size, BLOCK) for size in sizes),)
        with torch.cuda.device_of(weights[0]):
            # Without fusing, each product and sum is rounded by itself, as everywhere else.
            _update[grid](
                weights, velocities, gradients, rates, sizes, COUNT=len(some), BLOCK=BLOCK, enable_fp_fusion=False
            )

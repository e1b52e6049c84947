"""Pooling (section 4.4): the largest or the mean of each window of a feature map.

Max pooling has loops for the CPU (pool_cpu.py) and kernels for CUDA (pool_triton.py), average pooling has loops for the
CPU, all of them for 16 and 32 bits. For all else torch's own operations are used, which are the plain references. The
loops compute what torch does, in float32 to the bit: with `ceil_mode`, a window that reaches over the right or the
lower edge is cut, without it left out; of equals the first is the largest, and the last NaN if there is one; a mean is
over the positions that a cut window has left.

They work on channels_last memory. Max pooling keeps the index of the largest in its window, in eight bits, and nothing
else for the backward pass. Results do not depend on the number of threads.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels import pool_cpu
from alexnet.kernels.layout import check_feature_maps, empty_channels_last
from alexnet.kernels.register import register_kernels, runs_triton

_WIDEST = 16  # side of a window whose positions eight bits can number
_WIDEST_ON_GPU = 8  # size and stride that pool_triton.py's loops are unrolled for; beyond, compiling takes too long


def max_pool(x: Tensor, *, size: int, stride: int, ceil_mode: bool = True) -> Tensor:
    """Return the largest of each `size` x `size` window of a map (section 4.4), as torch's max_pool2d does.

    Args:
        x: (N, C, H, W) activations, of any floating type.
        size: Side of a window, in positions.
        stride: Positions from one window to the next.
        ceil_mode: Whether a window that reaches over the right or the lower edge is cut (the paper), or left out.

    Returns:
        (N, C, rows, columns); of 32 bits or fewer, in channels_last memory on a CPU and on a GPU with Triton.

    Raises:
        ValueError: x is not four-dimensional or not of a floating type; no window fits; size or stride is below 1.
    """
    _check(x, size, stride, ceil_mode)
    if not _has_max_kernel(x, size, stride):
        return F.max_pool2d(x, size, stride, ceil_mode=ceil_mode)
    y: Tensor = _max_pool(x, size, stride, ceil_mode)[0]
    return y


def average_pool(x: Tensor, *, size: int, stride: int, ceil_mode: bool = True) -> Tensor:
    """Return the mean of each `size` x `size` window of a map (the 2012 program), as torch's avg_pool2d does.

    Args, Returns, Raises: As for `max_pool`.
    """
    _check(x, size, stride, ceil_mode)
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return F.avg_pool2d(x, size, stride, ceil_mode=ceil_mode)
    y: Tensor = _average_pool(x, size, stride, ceil_mode)
    return y


def _check(x: Tensor, size: int, stride: int, ceil_mode: bool) -> None:
    check_feature_maps(x)
    if size < 1 or stride < 1 or min(_pooled_side(side, size, stride, ceil_mode) for side in x.shape[2:]) < 1:
        raise ValueError(f"size and stride must be at least 1 and fit the maps, {tuple(x.shape)}; got {size}, {stride}")


def _has_max_kernel(x: Tensor, size: int, stride: int) -> bool:
    """Return whether max pooling has a kernel for x's device and type and for such windows."""
    if x.dtype == torch.float64:  # only checks of gradients use it
        return False
    if x.device.type == "cpu":
        return size <= _WIDEST
    return runs_triton(x, "max pooling") and max(size, stride) <= _WIDEST_ON_GPU


def _pooled_side(side: int, size: int, stride: int, ceil_mode: bool) -> int:
    """Return the number of windows along a side; with `ceil_mode` the last one may be cut, but must begin within."""
    if not ceil_mode:
        return (side - size) // stride + 1
    steps = -(-(side - size) // stride)
    return steps + 1 - (steps * stride >= side)


def _allocate_pooled(x: Tensor, size: int, stride: int, ceil_mode: bool) -> Tensor:
    rows, columns = (_pooled_side(side, size, stride, ceil_mode) for side in x.shape[2:])
    return empty_channels_last(x, x.shape[1], rows, columns)


def _allocate_max_pooled(x: Tensor, size: int, stride: int, ceil_mode: bool) -> tuple[Tensor, Tensor]:
    y = _allocate_pooled(x, size, stride, ceil_mode)
    return y, torch.empty_like(y, dtype=torch.uint8)


def _allocate_max_gradient(g: Tensor, _winners: Tensor, height: int, width: int, *_: int) -> Tensor:
    return empty_channels_last(g, g.shape[1], height, width)


def _allocate_average_gradient(g: Tensor, height: int, width: int, *_: int) -> Tensor:
    return empty_channels_last(g, g.shape[1], height, width)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, size, stride, _ = inputs
    ctx.numbers = (*x.shape[2:], size, stride)
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])


def _max_pool_gradient(ctx: Any, g: Tensor, _winners: None) -> tuple[Any, ...]:
    return _max_pool_backward(g, *ctx.saved_tensors, *ctx.numbers), None, None, None


def _average_pool_gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return _average_pool_backward(g, *ctx.numbers), None, None, None


_max_pool = register_kernels(
    "max_pool",
    "(Tensor x, SymInt size, SymInt stride, bool ceil_mode) -> (Tensor, Tensor)",
    allocate=_allocate_max_pooled,
    cpu=pool_cpu.max_pool,
    cuda="alexnet.kernels.pool_triton:max_pool",
    setup_context=_setup_context,
    backward=_max_pool_gradient,
)
_max_pool_backward = register_kernels(
    "max_pool_backward",
    "(Tensor g, Tensor winners, SymInt height, SymInt width, SymInt size, SymInt stride) -> Tensor",
    allocate=_allocate_max_gradient,
    cpu=pool_cpu.max_pool_backward,
    cuda="alexnet.kernels.pool_triton:max_pool_backward",
)
_average_pool = register_kernels(
    "average_pool",
    "(Tensor x, SymInt size, SymInt stride, bool ceil_mode) -> Tensor",
    allocate=_allocate_pooled,
    cpu=pool_cpu.average_pool,
    setup_context=_setup_context,
    backward=_average_pool_gradient,
)
_average_pool_backward = register_kernels(
    "average_pool_backward",
    "(Tensor g, SymInt height, SymInt width, SymInt size, SymInt stride) -> Tensor",
    allocate=_allocate_average_gradient,
    cpu=pool_cpu.average_pool_backward,
)

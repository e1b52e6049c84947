"""Normalisation within a feature map, over the positions around: the 2012 program's second one, not in the paper.

The loops for the CPU are in map_norm_cpu.py, the kernels for CUDA in map_norm_triton.py. As those of `response_norm`
they work on channels_last memory and keep nothing but their input for the backward pass.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels import map_norm_cpu
from alexnet.kernels.layout import check_feature_maps, widen
from alexnet.kernels.normalisation import divide_by_power, register_normalisation, window_reach
from alexnet.kernels.register import runs_triton


def map_norm(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """Divide each activation by (k + alpha * sum of squares over size x size positions of its own map)**beta.

    Positions outside the map count as zeros.

    Args:
        x: (N, C, H, W) activations, of any floating type; sums are computed in float32 or better.
        size: Side of the window, in positions; it begins size // 2 before an activation, in rows and columns.
        k, alpha, beta: The constants of the divisor; alpha as it is, not divided by the number of positions.

    Returns:
        (N, C, H, W); in channels_last memory on a CPU and a GPU.

    Raises:
        ValueError: size is below 1.
    """
    check_feature_maps(x)
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    if not _has_kernel(x):
        return map_norm_reference(x, size=size, k=k, alpha=alpha, beta=beta)
    y: Tensor = _map_norm(x, size, k, alpha, beta)
    return y


def map_norm_reference(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """Compute `map_norm` in plain differentiable torch."""
    before, after = window_reach(size)
    a = widen(x)  # (N, C, H, W)
    squares = F.pad(a.square(), (before, after, before, after))  # (N, C, H + size - 1, W + size - 1)
    total = F.avg_pool2d(squares, size, stride=1, divisor_override=1)  # (N, C, H, W)
    return divide_by_power(a, k + alpha * total, beta).to(x.dtype)


def _has_kernel(x: Tensor) -> bool:
    """Return whether there is a kernel for x's device and type."""
    return x.device.type == "cpu" or (runs_triton(x, "normalisation within maps") and x.dtype != torch.float64)


_map_norm = register_normalisation(
    "map_norm",
    "SymInt size, float k, float alpha, float beta",
    cpu=(map_norm_cpu.map_norm, map_norm_cpu.map_norm_backward),
    cuda=("alexnet.kernels.map_norm_triton:map_norm", "alexnet.kernels.map_norm_triton:map_norm_backward"),
)

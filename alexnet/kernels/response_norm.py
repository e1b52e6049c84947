"""Response normalisation across the feature maps of a tower (section 4.3).

The loops for the CPU (response_norm_cpu.py) and the kernels for CUDA (response_norm_triton.py) read and write every
activation once. They work on channels_last memory, where the channels of a position are side by side; other memory is
converted. Activations of 16 bits are widened and rounded in the loops. Results do not depend on the number of threads.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels import response_norm_cpu
from alexnet.kernels.layout import check_feature_maps, widen
from alexnet.kernels.normalisation import divide_by_power, register_normalisation, window_reach
from alexnet.kernels.register import runs_triton
from alexnet.utils.console import note_once


def response_norm(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, towers: int = 1, relu: bool = False
) -> Tensor:
    """Divide each activation by (k + alpha * sum of squares over `size` maps around it)**beta (section 4.3).

    Args:
        x: (N, C, H, W) activations, of any floating type; sums are computed in float32 or better.
        size: The paper's n. The window of map i is i - size // 2 to i - size // 2 + size - 1, cut at the ends of its
            tower. Above 33, plain torch computes it on a CPU.
        k, alpha, beta: The paper's constants. (The 2012 program, torch and Caffe divide alpha by size: a caller who
            wants that passes it divided.)
        towers: Number of equal groups of maps; no window reaches into another group.
        relu: Whether to apply max(0, x) first, in the same pass.

    Returns:
        (N, C, H, W); in channels_last memory on a CPU and a GPU.

    Raises:
        ValueError: The towers do not divide the maps, or size is below 1.
    """
    check_feature_maps(x)
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    if towers < 1 or x.shape[1] % towers:
        raise ValueError(f"towers must divide the number of maps, {x.shape[1]}; got {towers}")
    if not _has_kernel(x, size):
        return response_norm_reference(x, size=size, k=k, alpha=alpha, beta=beta, towers=towers, relu=relu)
    y: Tensor = _response_norm(x, size, k, alpha, beta, towers, relu)
    return y


def response_norm_reference(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, towers: int = 1, relu: bool = False
) -> Tensor:
    """Compute `response_norm` in plain differentiable torch: a sum of `size` shifted slices."""
    a = widen(x.relu() if relu else x)  # (N, C, H, W)
    before, after = window_reach(size)
    squares = a.square().unflatten(1, (towers, -1))  # (N, towers, C / towers, H, W)
    maps = squares.shape[2]
    padded = F.pad(squares, (0, 0, 0, 0, before, after))  # (N, towers, C / towers + size - 1, H, W)
    total = padded[:, :, :maps]
    for j in range(1, size):
        total = total + padded[:, :, j : j + maps]  # (N, towers, C / towers, H, W)
    return divide_by_power(a, k + alpha * total.flatten(1, 2), beta).to(x.dtype)


def _has_kernel(x: Tensor, size: int) -> bool:
    """Return whether there is a kernel for x's device and type and windows of `size` maps."""
    if x.device.type == "cpu":
        if size > response_norm_cpu.WIDEST_WINDOW:
            note_once(
                f"response normalisation over more than {response_norm_cpu.WIDEST_WINDOW} maps runs in plain torch on "
                "a CPU, several times slower"
            )
        return size <= response_norm_cpu.WIDEST_WINDOW
    return runs_triton(x, "response normalisation") and x.dtype != torch.float64


_response_norm = register_normalisation(
    "response_norm",
    "SymInt size, float k, float alpha, float beta, SymInt towers, bool relu",
    cpu=(response_norm_cpu.response_norm, response_norm_cpu.response_norm_backward),
    cuda=(
        "alexnet.kernels.response_norm_triton:response_norm",
        "alexnet.kernels.response_norm_triton:response_norm_backward",
    ),
)

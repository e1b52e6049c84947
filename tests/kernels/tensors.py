"""Random tensors in any memory layout, for the tests of the kernels."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # whether Triton's kernels run in its interpreter
LAYOUTS = ("channels_last", "contiguous", "strided")


def random_tensor(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Tensor:
    """Return normal numbers; the same for all types and devices but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)


def to_layout(x: Tensor, layout: str) -> Tensor:
    """Return the same numbers in another memory layout."""
    if layout == "strided":
        return x.new_zeros(*x.shape[:3], 2 * x.shape[3])[..., ::2].copy_(x)
    return x.contiguous(memory_format=getattr(torch, layout + "_format" * (layout == "contiguous")))


def gradient(operation: Callable[..., Tensor], x: Tensor, g: Tensor, **constants: Any) -> Tensor:
    """Return the gradient of x, given that of operation(x)."""
    x = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(operation(x, **constants), x, g)
    return dx

"""Activities as the flat arrays that compiled loops take: in channels_last memory, a place's maps side by side."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# 16-bit types, which NumPy and Numba have no arithmetic for, as whole numbers (see vectors.py).
_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def check_feature_maps(x: Tensor) -> None:
    """Raise a ValueError unless x is (N, C, H, W) of a floating type."""
    if x.ndim != 4:
        raise ValueError(f"x must have four dimensions (pictures, maps, rows, columns); got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be of a floating type; got {x.dtype}")


def compute_type(x: Tensor) -> Any:
    """NumPy's type of the numbers that x is computed in: float64 if it is of that, else float32."""
    return np.float64 if x.dtype == torch.float64 else np.float32


def to_channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) in channels_last memory; copied only if it is not."""
    return x.contiguous(memory_format=torch.channels_last)


def flat_array(x: Tensor) -> np.ndarray:
    """(N, C, H, W) activities in channels_last memory -> the same memory as a flat array."""
    x = x.detach().permute(0, 2, 3, 1).reshape(-1)
    return x.view(_BITS.get(x.dtype, x.dtype)).numpy()

"""The memory of feature maps: channels_last, the channels of a position side by side, as a flat array for the loops."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# NumPy and Numba have no arithmetic for these 16-bit types: their bits as integers (see vectors.py).
_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def check_feature_maps(x: Tensor) -> None:
    """Raise a ValueError unless x is (N, C, H, W) of a floating type."""
    if x.ndim != 4:
        raise ValueError(f"x must have four dimensions (pictures, maps, rows, columns); got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be of a floating type; got {x.dtype}")


def compute_type(x: Tensor) -> Any:
    """Return NumPy's type that the loops compute x in: float64 for float64, else float32."""
    return np.float64 if x.dtype == torch.float64 else np.float32


def widen(x: Tensor) -> Tensor:
    """Return x in the type that it is computed in: float64 for float64, else float32."""
    return x if x.dtype == torch.float64 else x.float()


def to_channels_last(x: Tensor) -> Tensor:
    """Return (N, C, H, W) in channels_last memory; copied only where it is not."""
    return x.contiguous(memory_format=torch.channels_last)


def empty_channels_last(
    like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Return uninitialised feature maps (N, channels, height, width) in channels_last memory.

    Args:
        like: Gives the number of pictures N, the device and, without `dtype`, the type.
        channels, height, width: The other dimensions.
        dtype: Type of the result.
    """
    shape = (like.shape[0], channels, height, width)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last)


def flat_array(x: Tensor) -> np.ndarray:
    """Return the memory of (N, C, H, W) feature maps in channels_last memory as a flat array, without a copy."""
    x = x.detach().permute(0, 2, 3, 1).reshape(-1)
    return x.view(_BITS.get(x.dtype, x.dtype)).numpy()

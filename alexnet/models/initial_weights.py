"""Initial kernels that are smooth, as pictures are (not in the paper)."""

import math

import torch
from torch import Tensor


def blurred_noise(
    shape: torch.Size, *, deviation: float, blur: float, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Return Gaussian noise that is blurred with a Gaussian over its last two dimensions.

    The weights of the blur add up to 1. So the noise's slow changes keep their size, and its deviation becomes smaller:
    by a factor of 0.28 for a blur of one pixel.

    Args:
        shape: (..., height, width) of the result.
        deviation: Standard deviation of the noise before it is blurred.
        blur: Standard deviation of the Gaussian, in pixels; above 0. It is cut off after three deviations.
        device: Device of the result.
        generator: Source of the random numbers; torch's own by default.
    """
    reach = math.ceil(3 * blur)
    *outer, height, width = shape
    noise = torch.empty(*outer, height + 2 * reach, width + 2 * reach, device=device)
    noise.normal_(0.0, deviation, generator=generator)
    weights = [math.exp(-0.5 * (offset / blur) ** 2) for offset in range(-reach, reach + 1)]
    total = sum(weights)
    noise = torch.stack([w / total * noise[..., i : i + height, :] for i, w in enumerate(weights)]).sum(0)
    return torch.stack([w / total * noise[..., i : i + width] for i, w in enumerate(weights)]).sum(0)

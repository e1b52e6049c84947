"""Local contrast normalisation, of Jarrett et al. (2009), whom section 4.1 cites; not in the paper's net.

In plain torch: only a net of theirs, which the paper is compared with, has it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.layout import check_feature_maps, widen

LOWEST_DEVIATION = 1e-4  # where no activation differs from those around, rounding must not become a contrast


def contrast_norm(x: Tensor, *, size: int, deviation: float, towers: int = 1) -> Tensor:
    """Subtract the mean of the activations around, and divide by their deviation.

    Mean and deviation are over all maps of a tower, and over size x size positions by Gaussian weights w:

        v = x - sum of w x
        s = sqrt(sum of w v**2)
        y = v / max(s, mean of s over the positions of the picture)

    Positions outside the map do not count: the weights of those within have the sum 1.

    Args:
        x: (N, C, H, W) activations, of any floating type; computed in float32 or better.
        size: Side of the window, in positions; odd.
        deviation: Standard deviation of the weights, in positions.
        towers: Number of towers; the maps of another one do not count.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: size is even or below 1, or deviation is not above 0.
    """
    check_feature_maps(x)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size must be an odd whole number; got {size}")
    if not deviation > 0:
        raise ValueError(f"deviation must be above 0; got {deviation}")
    weights = gaussian_weights(size, deviation)
    a = widen(x).unflatten(1, (towers, -1))  # (N, towers, C / towers, H, W)
    v = a - _local_mean(a.mean(2), weights).unsqueeze(2)
    s = _local_mean(v.square().mean(2), weights)  # (N, towers, H, W)
    s = s.clamp_min(LOWEST_DEVIATION**2).sqrt()
    factor = torch.maximum(s, s.mean((2, 3), keepdim=True)).reciprocal()  # of a map only: divisions are slow
    y: Tensor = v * factor.unsqueeze(2)
    return y.flatten(1, 2).to(x.dtype)


def gaussian_weights(size: int, deviation: float) -> tuple[float, ...]:
    """Return the weights of a window in one dimension: a Gaussian of this deviation, of sum 1."""
    weights = torch.exp(-((torch.arange(size, dtype=torch.float64) - size // 2) ** 2) / (2 * deviation**2))
    return tuple((weights / weights.sum()).tolist())


def _local_mean(x: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Return the mean of (N, towers, H, W) over the positions around, by weights in rows and in columns."""
    for dim in (2, 3):
        x = _weighted_sum(x, weights, dim) / _weighted_sum(torch.ones_like(x), weights, dim)
    return x


def _weighted_sum(x: Tensor, weights: tuple[float, ...], dim: int) -> Tensor:
    """Return the weighted sum over a window along one dimension, zeros outside. (No autocast: no convolution.)"""
    reach, length = len(weights) // 2, x.shape[dim]
    padding = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
    padded = F.pad(x, padding)
    total = weights[0] * padded.narrow(dim, 0, length)
    for offset, weight in enumerate(weights[1:], 1):
        total = total + weight * padded.narrow(dim, offset, length)
    return total

"""Local contrast normalisation, of Jarrett et al. (2009), whom section 4.1 cites; not in the paper's net.

In plain torch: only a net of theirs, which the paper is compared with, has it.
"""

import torch
from torch import Tensor

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
    a = widen(x).unflatten(1, (towers, -1))  # (N, towers, C / towers, H, W)
    rows, columns = (window_weights(side, size, deviation, a.dtype, a.device) for side in a.shape[3:])
    v = a - _local_mean(a.mean(2), rows, columns).unsqueeze(2)
    s = _local_mean(v.square().mean(2), rows, columns)  # (N, towers, H, W)
    s = s.clamp_min(LOWEST_DEVIATION**2).sqrt()
    factor = torch.maximum(s, s.mean((2, 3), keepdim=True)).reciprocal()  # of a map only: divisions are slow
    y: Tensor = v * factor.unsqueeze(2)
    return y.flatten(1, 2).to(x.dtype)


def window_weights(
    side: int, size: int, deviation: float, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Return the weights (side, side) of all positions along one dimension in the window around each of them."""
    positions = torch.arange(side, dtype=dtype, device=device)
    distances = positions[:, None] - positions
    weights = torch.exp(-distances.square() / (2 * deviation**2)) * (distances.abs() <= size // 2)
    return weights / weights.sum(1, keepdim=True)


def _local_mean(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the mean of (N, towers, H, W) around each position, by the weights (H, H) and (W, W).

    As matrix products: they are faster than a sum over the window, however wide it is.
    """
    device = "cpu" if x.is_meta else x.device.type  # torch knows no autocast of the meta device
    with torch.autocast(device, enabled=False):  # which would round the sums
        return rows @ (x @ columns.t())

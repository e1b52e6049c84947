"""The views of a test picture, batches of them, and the mean of their predictions (section 5.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels.augment import transform_picture
from alexnet.kernels.threads import parallel_for


class View(NamedTuple):
    """A crop of a test picture: its first row and column, in pixels, and whether it is reflected."""

    top: int
    left: int
    reflected: bool


def check_view_count(count: int) -> None:
    """Raise a ValueError unless there is a set of `count` views."""
    if count not in (1, 9, 10):
        raise ValueError(
            "views must be 1 (the centre), 9 (corners, edges, centre) or 10 (corners, centre, and their reflections); "
            f"got {count}"
        )


def ten_views(size: int, crop: int) -> list[View]:
    """Return the ten views of the paper (5.1).

    Returns:
        The centre, the corners (top left, top right, bottom left, bottom right), then the same five reflected. If the
        crop is as large as the picture, only the picture and its reflection.
    """
    centre, end = (size - crop) // 2, size - crop
    positions = dict.fromkeys([(centre, centre), (0, 0), (0, end), (end, 0), (end, end)])
    return [View(top, left, reflected) for reflected in (False, True) for top, left in positions]


def nine_views(size: int, crop: int) -> list[View]:
    """Return the nine views of the 2012 program's CIFAR-10 nets with translations.

    Returns:
        The centre, then the corners and the middles of the edges, from left to right and from top to bottom, none
        reflected. If the crop is as large as the picture, only the picture.
    """
    centre, end = (size - crop) // 2, size - crop
    grid = [(top, left) for top in (0, centre, end) for left in (0, centre, end)]
    return [View(top, left, False) for top, left in dict.fromkeys([(centre, centre), *grid])]


def select_views(count: int, size: int, crop: int) -> list[View]:
    """Return the different ones of the 1, 9 or 10 views, the centre first.

    Raises:
        ValueError: There is no set of `count` views.
    """
    check_view_count(count)
    if count == 9:
        return nine_views(size, crop)
    return ten_views(size, crop)[: None if count == 10 else 1]


def make_view_batch(pictures: Sequence[np.ndarray], views: Sequence[View], mean: Tensor) -> Tensor:
    """Return all views of some pictures, centred, as one batch.

    Args:
        pictures: N pictures, (size, size, 3) uint8 each.
        views: V views.
        mean: (crop, crop, 3) float32, the centre crop of the mean activity (`centre_mean`), on the network's device.

    Returns:
        (N * V, 3, crop, crop) float32 in channels_last memory on that device; the views of a picture are adjacent.
    """
    if mean.device.type != "cpu":
        return make_view_batch_on_device(torch.from_numpy(np.stack(pictures)).to(mean.device), views, mean)
    mean_array, no_shift = mean.numpy(), np.zeros(3, np.float32)
    batch = np.empty((len(pictures) * len(views), *mean_array.shape), np.float32)

    def fill(start: int, stop: int) -> None:
        for n in range(start, stop):
            top, left, reflected = views[n % len(views)]
            transform_picture(pictures[n // len(views)], top, left, reflected, mean_array, no_shift, 1.0, batch[n])

    parallel_for(fill, len(batch))
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def make_view_batch_on_device(pictures: Tensor, views: Sequence[View], mean: Tensor) -> Tensor:
    """Return what `make_view_batch` does, for (N, size, size, 3) uint8 pictures on the device of the mean.

    So the pictures are copied to a GPU as bytes, not as floats.
    """
    crop = mean.shape[0]
    crops = [pictures[:, top : top + crop, left : left + crop] for top, left, _ in views]
    reflected = [c.flip(2) if view.reflected else c for c, view in zip(crops, views, strict=True)]
    batch = torch.stack(reflected, 1).flatten(0, 1).float() - mean  # (N * V, crop, crop, 3)
    return batch.permute(0, 3, 1, 2)

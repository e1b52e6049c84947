"""The views of a test picture whose predictions are averaged, and batches of them (section 5.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels.augment import transform_picture
from alexnet.kernels.threads import parallel_for

View = tuple[int, int, bool]
"""A view's first row, first column (in pixels) and whether it is reflected."""


def check_view_count(number: int) -> None:
    """Raise a ValueError unless there is such a number of views."""
    if number not in (1, 9, 10):
        raise ValueError(
            "views must be 1 (the centre), 9 (corners, edges, centre) or 10 (corners, centre, and their reflections); "
            f"got {number}"
        )


def ten_views(size: int, crop: int) -> list[View]:
    """The views whose predictions are averaged at test time (5.1).

    Returns:
        The centre, the corners (top left, top right, bottom left, bottom right), then the same five reflected; where
        the crop is the whole picture, only the picture and its reflection.
    """
    centre, end = (size - crop) // 2, size - crop
    places = [(centre, centre), (0, 0), (0, end), (end, 0), (end, end)]
    distinct = list(dict.fromkeys(places))
    return [(top, left, reflected) for reflected in (False, True) for top, left in distinct]


def nine_views(size: int, crop: int) -> list[View]:
    """The views of the 2012 program's CIFAR-10 nets with translations.

    Returns:
        The centre, then the corners and the middles of the edges from left to right and from top to bottom, none
        reflected; where the crop is the whole picture, only the picture.
    """
    centre, end = (size - crop) // 2, size - crop
    places = [(top, left) for top in (0, centre, end) for left in (0, centre, end)]
    return [(top, left, False) for top, left in dict.fromkeys([(centre, centre), *places])]


def select_views(number: int, size: int, crop: int) -> list[View]:
    """The views that differ of the 1, 9 or 10 asked for, the centre first.

    Raises:
        ValueError: Another number.
    """
    check_view_count(number)
    return nine_views(size, crop) if number == 9 else ten_views(size, crop)[: None if number == 10 else 1]


def make_view_batch(pictures: Sequence[np.ndarray], views: Sequence[View], centre: Tensor) -> Tensor:
    """All views of some pictures, centred, in one batch.

    Args:
        pictures: N pictures, (size, size, 3) uint8 each.
        views: V of them.
        centre: (crop, crop, 3) float32, the mean activity's centre (`centre_mean`), on the net's device.

    Returns:
        (N * V, 3, crop, crop) float32 in channels_last memory on that device, the views of a picture together.
    """
    if centre.device.type != "cpu":
        return _on_device(torch.from_numpy(np.stack(pictures)).to(centre.device), views, centre)
    mean, no_shift = centre.numpy(), np.zeros(3, np.float32)
    batch = np.empty((len(pictures) * len(views), *mean.shape), np.float32)

    def make(start: int, stop: int) -> None:
        for n in range(start, stop):
            top, left, reflected = views[n % len(views)]
            transform_picture(pictures[n // len(views)], top, left, reflected, mean, no_shift, 1.0, batch[n])

    parallel_for(make, len(batch))
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def _on_device(pictures: Tensor, views: Sequence[View], centre: Tensor) -> Tensor:
    """`make_view_batch` of (N, size, size, 3) uint8 where they are: bytes travel to a GPU, not floats."""
    crop = centre.shape[0]
    squares = [pictures[:, top : top + crop, left : left + crop] for top, left, _ in views]
    turned = [s.flip(2) if reflected else s for s, (_, _, reflected) in zip(squares, views, strict=True)]
    batch = torch.stack(turned, 1).flatten(0, 1).float() - centre  # (N * V, crop, crop, 3)
    return batch.permute(0, 3, 1, 2)


def mean_over_views(probabilities: Tensor) -> Tensor:
    """Average the softmax outputs over the views of each picture: the network's prediction (5.1).

    Args:
        probabilities: (N, views, classes), softmax outputs for each view of each picture.

    Returns:
        (N, classes).
    """
    return probabilities.mean(1)

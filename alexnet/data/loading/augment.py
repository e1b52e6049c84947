"""Data augmentation: random crops, reflections and colour shifts of training pictures (section 5.1)."""

from dataclasses import dataclass

import cv2
import numpy as np

from alexnet.data.loading.colour_shift import draw_colour_shifts
from alexnet.data.loading.sampler import picture_uniforms
from alexnet.data.store.statistics import Statistics
from alexnet.kernels.augment import transform_picture


@dataclass(frozen=True)
class Augmentation:
    """The random choices for the N pictures of a batch.

    Attributes:
        top, left: (N,) int64, the first row and column of the crop, in pixels.
        side: (N,) int64, the side of the crop, in pixels. If it is not the side of the network's input, the crop is
            resized.
        reflect: (N,) bool, whether left and right are exchanged.
        colour_shift: (N, 3) float32, what is added to red, green and blue, in 0..255 units.
    """

    top: np.ndarray
    left: np.ndarray
    side: np.ndarray
    reflect: np.ndarray
    colour_shift: np.ndarray


def draw_augmentation(
    indices: np.ndarray,
    *,
    seed: int,
    epoch: int,
    size: int,
    crop: int,
    reflect: bool,
    crop_area: tuple[float, float] | None,
    random_crops: bool = True,
    colour_deviation: float,
    statistics: Statistics,
) -> Augmentation:
    """Draw the crops, reflections and colour shifts of a batch (5.1).

    They depend only on the seed, the epoch and the index of each picture, not on the batch.

    Args:
        indices: (N,) the indices of the pictures in their split, or draws as of `balanced_draws`.
        seed, epoch: The key of the random number generator.
        size, crop: The sides of the stored pictures and of the network's input, in pixels.
        reflect: Whether pictures are reflected, each with probability one half.
        crop_area: The smallest and the largest area of a crop, as a fraction of the picture's area; None for crops with
            a side of `crop` pixels.
        random_crops: Whether the crops are at random positions, or all at the centre.
        colour_deviation: The deviation of the Gaussian that scales each colour component; 0 for no shift.
        statistics: The statistics of the training pictures.
    """
    u = picture_uniforms(indices, seed=seed, epoch=epoch)  # area, top, left, reflection, four for the colour shift
    side = np.full(len(indices), crop)
    if crop_area is not None:
        low, high = crop_area
        side = np.round(size * np.sqrt(low + u[:, 0] * (high - low))).astype(np.int64)
        side = side.clip(min(-(-crop // 4), size), size)  # no crop is enlarged more than four times
    centre, positions = (size - side) // 2, size - side + 1
    return Augmentation(
        top=(u[:, 1] * positions).astype(np.int64) if random_crops else centre,
        left=(u[:, 2] * positions).astype(np.int64) if random_crops else centre,
        side=side,
        reflect=reflect & (u[:, 3] < 0.5),
        colour_shift=draw_colour_shifts(u[:, 4:], colour_deviation, statistics),
    )


def centre_mean(mean: np.ndarray, crop: int) -> np.ndarray:
    """Return the centre crop of the mean activity. It is subtracted from all crops, wherever they are in the picture.

    Args:
        mean: (3, size, size) float32.
        crop: The side of the network's input, in pixels.

    Returns:
        (crop, crop, 3) float32, contiguous.
    """
    start = (mean.shape[1] - crop) // 2
    return np.ascontiguousarray(mean[:, start : start + crop, start : start + crop].transpose(1, 2, 0), np.float32)


def resized_mean(mean: np.ndarray, side: int) -> np.ndarray:
    """Return the centre crop of the mean activity for smaller training crops.

    Args:
        mean: (crop, crop, 3) float32.
        side: The side of the training crops, in pixels.

    Returns:
        (side, side, 3) float32, contiguous.
    """
    return mean if side == len(mean) else np.asarray(cv2.resize(mean, (side, side), interpolation=cv2.INTER_AREA))


def _resized_crop(
    image: np.ndarray, augmentation: Augmentation, n: int, crop: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the crop of picture `n`, resized to (crop, crop, 3) uint8."""
    top, left, side = int(augmentation.top[n]), int(augmentation.left[n]), int(augmentation.side[n])
    pixels = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side > crop else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (crop, crop), out, interpolation=interpolation))


def augment_picture(
    image: np.ndarray, augmentation: Augmentation, n: int, mean: np.ndarray, divisor: float, out: np.ndarray
) -> None:
    """Write a picture, cropped, reflected, centred and shifted, into `out`.

    Args:
        image: (size, size, 3) uint8.
        augmentation: The random choices for the batch.
        n: The index of the picture in the batch.
        mean: (crop, crop, 3) float32, the centre crop of the mean activity.
        divisor: The number that the shifted picture is divided by.
        out: (crop, crop, 3) float32; written.
    """
    top, left, crop = int(augmentation.top[n]), int(augmentation.left[n]), out.shape[0]
    if augmentation.side[n] != crop:
        image, top, left = _resized_crop(image, augmentation, n, crop), 0, 0
    reflect, colour_shift = bool(augmentation.reflect[n]), augmentation.colour_shift[n]
    transform_picture(image, top, left, reflect, mean, colour_shift, divisor, out)


def crop_picture(image: np.ndarray, augmentation: Augmentation, n: int, out: np.ndarray) -> None:
    """Write the crop of a picture into `out`, for `transform_batch`, which does the other steps.

    Args:
        image: (size, size, 3) uint8.
        augmentation: The random choices for the batch.
        n: The index of the picture in the batch.
        out: (crop, crop, 3) uint8, contiguous; written. It is not reflected yet.
    """
    top, left, crop = int(augmentation.top[n]), int(augmentation.left[n]), out.shape[0]
    if augmentation.side[n] != crop:
        _resized_crop(image, augmentation, n, crop, out)
    else:
        out[:] = image[top : top + crop, left : left + crop]

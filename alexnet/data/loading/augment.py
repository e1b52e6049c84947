"""What is drawn for each training picture (section 5.1)."""

from dataclasses import dataclass

import cv2
import numpy as np

from alexnet.data.store.statistics import Statistics
from alexnet.kernels.augment import transform_picture
from alexnet.kernels.philox import philox

_WORDS = 8  # random 64-bit words per picture: area, top, left, reflection, and four for the three Gaussians
_ORDER = 1  # the counter's highest word where it gives the order of an epoch; 0 where it gives a picture's numbers


@dataclass(frozen=True)
class Augmentation:
    """The random choices for the N pictures of a batch.

    Attributes:
        top, left: (N,) int64, first row and column of the square cut out, in pixels.
        side: (N,) int64, side of that square; where it is not the crop's, the square is resized to the crop.
        reflect: (N,) bool.
        colour: (N, 3) float32, amounts added to R, G and B, in 0..255 units.
    """

    top: np.ndarray
    left: np.ndarray
    side: np.ndarray
    reflect: np.ndarray
    colour: np.ndarray


def _key(seed: int, epoch: int) -> np.ndarray:
    """The key of the Philox generator that all numbers of an epoch are drawn from."""
    return np.array([seed % 2**64, epoch % 2**64], np.uint64)


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch takes its `count` pictures: a (count,) int64 permutation."""
    generator = np.random.Philox(key=_key(seed, epoch), counter=np.array([0, 0, 0, _ORDER], np.uint64))
    return np.asarray(generator.random_raw(count)).argsort(kind="stable")


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
    """Draw crops, reflections and colour shifts (5.1).

    Each picture's numbers come from a Philox generator keyed by (seed, epoch) with the picture's index in its counter:
    they are the same whatever the batch, the order or the number of workers, and drawn anew in each epoch.

    Args:
        indices: (N,) places of the pictures in their set.
        seed, epoch: The generator's key.
        size, crop: Sides of the stored pictures and of the net's input, in pixels.
        reflect: Whether each picture is reflected with probability one half.
        crop_area: The least and greatest share of the picture's area to cut out; None: always `crop` pixels a side.
        random_crops: Whether squares are cut out at random places, or all at the centre.
        colour_deviation: Deviation of the Gaussian that scales each colour component; 0 for no shift. The components
            have the square roots of the eigenvalues as length, as the 2012 program has it.
        statistics: Of the training set.
    """
    count = len(indices)
    words = philox(_key(seed, epoch), indices.astype(np.uint64), _WORDS)
    u = (words >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
    side = np.full(count, crop)
    if crop_area is not None:
        low, high = crop_area
        side = np.round(size * np.sqrt(low + u[:, 0] * (high - low))).astype(np.int64)
        side = side.clip(min(-(-crop // 4), size), size)  # no square is enlarged more than four times
    centre, room = (size - side) // 2, size - side + 1
    return Augmentation(
        top=(u[:, 1] * room).astype(np.int64) if random_crops else centre,
        left=(u[:, 2] * room).astype(np.int64) if random_crops else centre,
        side=side,
        reflect=reflect & (u[:, 3] < 0.5),
        colour=_colour(u[:, 4:], colour_deviation, statistics),
    )


def _colour(u: np.ndarray, deviation: float, statistics: Statistics) -> np.ndarray:
    """Colour shifts (N, 3) from uniform numbers (N, 4), by the Box-Muller transform."""
    if deviation == 0:
        return np.zeros((len(u), 3), np.float32)
    radius = np.sqrt(-2 * np.log1p(-u[:, :2]))
    angle = 2 * np.pi * u[:, 2:]
    gaussian = np.concatenate([radius * np.cos(angle), radius[:, :1] * np.sin(angle[:, :1])], axis=1)
    lengths = deviation * gaussian * statistics.colour_deviations()
    # Not a matrix product: its rounding may depend on the number of rows.
    shifts: np.ndarray = (lengths[:, :, None] * statistics.components).sum(axis=1)
    return shifts.astype(np.float32)


def centre_mean(mean: np.ndarray, crop: int) -> np.ndarray:
    """The centre of the mean activity, which is subtracted whatever the crop's place.

    Args:
        mean: (3, size, size) float32.
        crop: Side of the net's input, in pixels.

    Returns:
        (crop, crop, 3) float32, contiguous.
    """
    start = (mean.shape[1] - crop) // 2
    return np.ascontiguousarray(mean[:, start : start + crop, start : start + crop].transpose(1, 2, 0), np.float32)


def _resized(image: np.ndarray, draws: Augmentation, n: int, crop: int, out: np.ndarray | None = None) -> np.ndarray:
    """The square drawn for a picture, (crop, crop, 3) uint8, where its side is another."""
    top, left, side = int(draws.top[n]), int(draws.left[n]), int(draws.side[n])
    square = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > crop else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (crop, crop), out, interpolation=how))


def augment_picture(
    image: np.ndarray, draws: Augmentation, n: int, mean: np.ndarray, divisor: float, out: np.ndarray
) -> None:
    """Write a picture, changed as the batch's draws say for its place `n`, into `out`.

    Args:
        image: (size, size, 3) uint8.
        draws: Of the batch.
        n: The picture's place in the batch.
        mean: (crop, crop, 3) float32, the mean's centre.
        divisor: What the shifted picture is divided by.
        out: (crop, crop, 3) float32; written.
    """
    top, left, crop = int(draws.top[n]), int(draws.left[n]), out.shape[0]
    if draws.side[n] != crop:
        image, top, left = _resized(image, draws, n, crop), 0, 0
    transform_picture(image, top, left, bool(draws.reflect[n]), mean, draws.colour[n], divisor, out)


def cut_crop(image: np.ndarray, draws: Augmentation, n: int, out: np.ndarray) -> None:
    """Write the square that the batch's draws say for its place `n`, for `transform_batch` to transform.

    Args:
        image: (size, size, 3) uint8.
        draws: Of the batch.
        n: The picture's place in the batch.
        out: (crop, crop, 3) uint8, contiguous; written. Not yet reflected.
    """
    top, left, crop = int(draws.top[n]), int(draws.left[n]), out.shape[0]
    if draws.side[n] != crop:
        _resized(image, draws, n, crop, out)
    else:
        out[:] = image[top : top + crop, left : left + crop]

"""Which pixels of a picture speak for a class: maps by occlusion and by the gradient, and pictures of them.

The maps are of the centre view: the pixels that the net sees of a picture if it sees one crop (5.1).
"""

import difflib
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from alexnet.checked import require, require_finite
from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import make_view_batch, select_views
from alexnet.data.prepare.in_memory import Picture, read_picture
from alexnet.results.classifier import Classifier
from alexnet.training.inference import pictures_per_batch
from alexnet.training.precision import autocast

_SQUARES_PER_SIDE = 7  # of the default size: 32 pixels of 224
_SAMPLES_PER_BATCH = 8  # noisy copies; their activities are kept for the gradient
_STRONGEST = 99.5  # per cent of the pixels that a drawing does not cut off; the few strongest would hide all others
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)
_HIGH_COLOUR, _LOW_COLOUR = np.array([230, 20, 20], np.float32), np.array([20, 90, 230], np.float32)  # RGB
_OPACITY = 0.85  # of the strongest colour over the picture


def centre_crop(classifier: Classifier, picture: Picture) -> np.ndarray:
    """Return the pixels of a picture that the net sees, which the maps are about.

    Args:
        classifier: The net.
        picture: The picture, as for `Classifier.predict`.

    Returns:
        (H, W, 3) uint8: 224 x 224 pixels in the paper.

    Raises:
        TypeError, ValueError, OSError: As `Classifier.predict`.
    """
    size, crop = classifier.recipe.store_size, classifier.recipe.net.image_size
    start = (size - crop) // 2
    return read_picture(picture, size)[start : start + crop, start : start + crop]


def class_index(classifier: Classifier, label: str) -> int:
    """Return the number of a class.

    Raises:
        ValueError: The net has no such class.
    """
    if label in classifier.classes:
        return classifier.classes.index(label)
    similar = difflib.get_close_matches(label, classifier.classes, 3, 0.5)
    names = ", ".join(map(repr, similar or classifier.classes[:3]))
    raise ValueError(
        f"label must be one of the {len(classifier.classes):,} classes of the run; got {label!r}: try {names}"
    )


def occlusion_map(
    classifier: Classifier,
    picture: Picture,
    label: str,
    *,
    size: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
) -> np.ndarray:
    """Return how much the probability of a class falls where a grey square hides the picture (Zeiler and Fergus 2013).

    The square has the mean colour of the training pictures, and slides over the whole picture. The value of a pixel is
    the mean over the squares that cover it, weighted by how near to their centres it is. It is negative where the class
    becomes more probable.

    Args:
        classifier: The net.
        picture: The picture, as for `Classifier.predict`.
        label: The name of the class.
        size: Side of the square, in pixels; by default a seventh of the side that the net sees.
        stride: Pixels from one square to the next, at most `size`; by default half of it.
        batch_size: Squares that go through the net at a time; by default a number that suits the device.

    Returns:
        (H, W) float32, as large as `centre_crop`; from -1 to 1.

    Raises:
        TypeError, ValueError, OSError: As `Classifier.predict`; ValueError also if the net has no such class or a
            number is out of range.
    """
    side, index = classifier.recipe.net.image_size, class_index(classifier, label)
    size, stride = size_and_stride(side, size, stride)
    batch_size = pictures_per_batch(classifier.net.device, 1) if batch_size is None else batch_size
    require(batch_size >= 1, "batch_size", "at least 1", batch_size)
    pixels, mean = _centred_pixels(classifier, centre_crop(classifier, picture))
    starts = sorted({*range(0, side - size + 1, stride), side - size})  # the last square ends at the edge
    corners = [(top, left) for top in starts for left in starts]
    (probability,) = _probabilities(classifier, pixels, index).tolist()
    rising = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1  # to the middle of the square, and falling again
    weight = np.outer(rising, rising)
    falls, weights = np.zeros((side, side)), np.zeros((side, side))
    grey = mean.mean((0, 1)) - mean  # (side, side, 3): the mean colour, centred as the pixels are
    for first in range(0, len(corners), batch_size):
        batch = corners[first : first + batch_size]
        occluded = pixels.repeat(len(batch), 1, 1, 1)
        for row, (top, left) in zip(occluded, batch, strict=True):
            area = slice(top, top + size), slice(left, left + size)
            row[:, area[0], area[1]] = grey[area].permute(2, 0, 1)
        for (top, left), value in zip(batch, _probabilities(classifier, occluded, index).tolist(), strict=True):
            falls[top : top + size, left : left + size] += (probability - value) * weight
            weights[top : top + size, left : left + size] += weight
    return (falls / weights).astype(np.float32)


def size_and_stride(side: int, size: int | None, stride: int | None) -> tuple[int, int]:
    """Return the size of the square that slides over a picture of a side, and its stride: these, or the default ones.

    Raises:
        ValueError: One is out of range.
    """
    size = max(1, side // _SQUARES_PER_SIDE) if size is None else size
    require(1 <= size <= side, "size", f"from 1 to {side} pixels, the side that the net sees", size)
    stride = max(1, size // 2) if stride is None else stride
    require(1 <= stride <= size, "stride", f"from 1 to {size} pixels, the size of the square", stride)
    return size, stride


def gradient_map(
    classifier: Classifier,
    picture: Picture,
    label: str,
    *,
    samples: int = 16,
    noise: float = 0.15,
    blur: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return how steeply the log-probability of a class changes with each pixel.

    The gradient of a single picture (Simonyan and others 2013; `samples=1, noise=0`) changes much between pictures that
    look the same. So the gradients for noisy copies are combined, as the root of the mean of their squares: SmoothGrad
    (Smilkov and others 2017) with the squares that Hooker and others (2019) found better than the plain mean. The
    value of a pixel is the largest of its three colours; the map is then blurred a little, since a convolution of
    stride 4 reads neighbouring pixels unevenly.

    Args:
        classifier: The net.
        picture: The picture, as for `Classifier.predict`.
        label: The name of the class.
        samples: Number of noisy copies.
        noise: Standard deviation of the normal noise, as a fraction of the range of the picture's values.
        blur: Standard deviation of the blur, in pixels; by default a hundredth of the side that the net sees.
        seed: Seed of the noise.

    Returns:
        (H, W) float32, as large as `centre_crop`; at least 0, per unit of a pixel's value from 0 to 255.

    Raises:
        TypeError, ValueError, OSError: As `Classifier.predict`; ValueError also if the net has no such class or a
            number is out of range.
    """
    index = class_index(classifier, label)
    require(samples >= 1, "samples", "at least 1", samples)
    require_finite("noise", noise)
    blur = classifier.recipe.net.image_size / 100 if blur is None else blur
    require_finite("blur", blur)
    crop = centre_crop(classifier, picture)
    pixels, _ = _centred_pixels(classifier, crop)
    deviation = noise * float(np.ptp(crop))
    squares = torch.zeros_like(pixels)
    for copies in _noisy_copies(pixels, samples, deviation, seed):
        copies.requires_grad_()
        # In float32 the gradient would be zero where the probability rounds to one.
        log_probabilities = classifier.net(copies).double().log_softmax(1)[:, index]
        (gradients,) = torch.autograd.grad(log_probabilities.sum(), copies)
        squares += gradients.square().sum(0)
    values = np.asarray((squares / samples).sqrt().amax(1)[0].cpu())
    return cv2.GaussianBlur(values, (0, 0), blur, borderType=cv2.BORDER_REFLECT) if blur else values


def overlay(picture: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return a map drawn over its picture: red where the values are high, blue where they are below 0.

    The picture is grey, so that all colour is the map's. The colours are relative to the strongest value.

    Args:
        picture: (H, W, 3) uint8, as `centre_crop` returns it.
        values: (H, W) float, the map.

    Returns:
        (H, W, 3) uint8.
    """
    sides = picture.shape[:2]
    require(sides == values.shape, "the shape of the map", f"{sides}, as the picture's", values.shape)
    strongest = np.percentile(np.abs(values), _STRONGEST) or np.abs(values).max() or 1.0
    strength = np.clip(values / strongest, -1, 1)[..., None]
    grey = (picture.astype(np.float32) @ _GREY_WEIGHTS)[..., None]
    colours = np.where(strength < 0, _LOW_COLOUR, _HIGH_COLOUR)
    opacity = _OPACITY * np.abs(strength)
    return np.asarray(np.round((1 - opacity) * grey + opacity * colours), np.uint8)


def _centred_pixels(classifier: Classifier, crop: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return what the net gets for a crop, (1, 3, H, W) float32, and the mean activity (H, W, 3), on the device."""
    side = len(crop)
    mean = torch.from_numpy(centre_mean(classifier.mean, side)).to(classifier.net.device)
    return make_view_batch([crop], select_views(1, side, side), mean), mean


@torch.inference_mode()
def _probabilities(classifier: Classifier, pixels: Tensor, index: int) -> Tensor:
    """Return the probability of a class for centred pixels (N, 3, H, W), as (N,) float32 on the CPU."""
    with autocast(pixels.device, classifier.recipe):
        logits: Tensor = classifier.net(pixels)
    return logits.double().softmax(1)[:, index].cpu()


def _noisy_copies(pixels: Tensor, samples: int, deviation: float, seed: int) -> Iterator[Tensor]:
    """Yield copies of centred pixels (1, 3, H, W) with normal noise, in batches (n, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that all devices draw the same noise
    for start in range(0, samples, _SAMPLES_PER_BATCH):
        count = min(_SAMPLES_PER_BATCH, samples - start)
        drawn = torch.randn(count, *pixels.shape[1:], generator=generator)
        yield (pixels + deviation * drawn.to(pixels.device)).contiguous(memory_format=torch.channels_last)

"""Calibration: whether a net is right as often as its probabilities say (not in the paper)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BINS = 15  # as in Guo and others, "On Calibration of Modern Neural Networks" (2017)


@dataclass(frozen=True)
class CalibrationBin:
    """The pictures whose most probable class has a probability in one range.

    Args:
        low, high: The range: above `low`, up to and including `high`.
        images: The number of the pictures.
        confidence: The mean of these probabilities; None if there are no pictures.
        accuracy: The share of the pictures whose most probable class is the correct one; None if there are none.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = _BINS) -> list[CalibrationBin]:
    """Divide the pictures into ranges of equal width by the probability of their most probable class.

    Args:
        probabilities: (N, classes).
        labels: (N,) int.
        bins: The number of ranges.
    """
    confidence = probabilities.max(1).astype(np.float64)
    correct = probabilities.argmax(1) == labels
    edges = np.arange(bins + 1) / bins
    numbers = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(numbers, minlength=bins)
    sums = (np.bincount(numbers, values, bins) for values in (confidence, correct))
    means = (np.divide(total, counts, out=np.zeros(bins), where=counts > 0).tolist() for total in sums)
    return [
        CalibrationBin(low, high, count, mean if count else None, accuracy if count else None)
        for low, high, count, mean, accuracy in zip(
            edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), *means, strict=True
        )
    ]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean over the pictures of |accuracy - confidence| of their bin, a fraction."""
    total = sum(part.images for part in bins)
    gaps = (
        part.images * abs(part.accuracy - part.confidence)
        for part in bins
        if part.accuracy is not None and part.confidence is not None
    )
    return sum(gaps) / total

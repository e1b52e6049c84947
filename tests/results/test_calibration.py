"""The expected calibration error, against its definition written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.results.calibration import calibration_bins, expected_calibration_error


def written_out(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Compute the mean over the bins of |accuracy - confidence|, weighted by their pictures, with loops."""
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        members = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if (low < row.max() <= high) or (number == 0 and row.max() == 0)
        ]
        if members:
            confidence, accuracy = np.mean([m[0] for m in members]), np.mean([m[1] for m in members])
            error += len(members) / len(labels) * abs(accuracy - confidence)
    return error


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 20))
def test_the_error_is_that_of_the_definition(seed: int, classes: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(classes, 0.4), 50)
    labels = random.integers(0, classes, 50)
    parts = calibration_bins(probabilities, labels, bins)
    assert expected_calibration_error(parts) == pytest.approx(written_out(probabilities, labels, bins))
    assert sum(part.images for part in parts) == 50
    assert [part.low for part in parts] == pytest.approx([number / bins for number in range(bins)])
    for part in parts:
        assert (part.confidence is None) == (part.accuracy is None) == (part.images == 0)
        assert part.confidence is None or part.low < part.confidence <= part.high + 1e-12


def test_a_net_that_is_sure_and_half_of_the_time_right_is_off_by_a_half() -> None:
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    parts = calibration_bins(probabilities, np.array([0, 1]))
    assert (parts[-1].images, parts[-1].confidence, parts[-1].accuracy) == (2, 1.0, 0.5)
    assert expected_calibration_error(parts) == 0.5


def test_a_net_whose_probabilities_are_true_is_calibrated() -> None:
    probabilities = np.tile(np.array([[0.75, 0.25]], np.float32), (8, 1))
    labels = np.array([0, 0, 0, 1] * 2)
    assert expected_calibration_error(calibration_bins(probabilities, labels)) == 0

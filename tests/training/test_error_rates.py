"""Which of two nets is kept: the one with the lower error, else the better log-probability, else the later one."""

import pytest

from alexnet.training.error_rates import ErrorRates


@pytest.mark.parametrize(
    ("error", "log_prob", "is_better"),
    [
        (None, None, True),  # there is no other net
        (0.6, 0.1, True),
        (0.4, 9.0, False),
        (0.5, 1.1, True),
        (0.5, 1.0, True),  # all is equal: the later epoch
        (0.5, 0.9, False),
        (0.5, None, True),  # an earlier version saved the other net
    ],
)
def test_the_error_decides_then_the_log_probability(
    error: float | None, log_prob: float | None, is_better: bool
) -> None:
    assert ErrorRates(20, 0.5, 0.1, 1.0).is_better_than(error, log_prob) is is_better

"""Wilson's interval, against published values, the test that it inverts, and its formula in another form."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.utils.intervals import (
    format_error_rate,
    format_interval,
    format_percent,
    mean_rate_interval,
    wilson_interval,
)

Z = NormalDist().inv_cdf(0.975)


@pytest.mark.parametrize(
    ("errors", "count", "low", "high"),
    [  # Newcombe (1998), Table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_has_published_values(errors: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(errors / count, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 200_000).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_the_limits_are_where_the_score_test_begins_to_reject(case: tuple[int, int]) -> None:
    errors, count = case
    rate = errors / count
    low, high = wilson_interval(rate, count)
    assert 0 <= low <= rate <= high <= 1
    for limit in {low, high} - {0.0, 1.0}:  # at 0 and 1 the test has no spread
        assert abs(rate - limit) == pytest.approx(Z * math.sqrt(limit * (1 - limit) / count), rel=1e-6)
    # Brown, Cai and DasGupta (2001), equation 4: around the rate with z² / 2 errors and as many successes added.
    added = count + Z**2
    centre = (errors + Z**2 / 2) / added
    width = Z * math.sqrt(count) / added * math.sqrt(rate * (1 - rate) + Z**2 / (4 * count))
    assert (low, high) == (pytest.approx(centre - width, abs=1e-12), pytest.approx(centre + width, abs=1e-12))


def test_no_error_and_only_errors_have_exact_limits() -> None:
    for count in (1, 3, 7, 10, 49, 180, 2945, 50_000, 150_000):
        assert wilson_interval(0.0, count)[0] == 0
        assert wilson_interval(1.0, count)[1] == 1
        assert wilson_interval(0.0, count)[1] == pytest.approx(1 - wilson_interval(1.0, count)[0])


def test_the_interval_of_the_mean_of_equal_classes_is_that_of_all_pictures() -> None:
    assert mean_rate_interval(0.3, [10] * 3) == pytest.approx(wilson_interval(0.3, 30))
    assert mean_rate_interval(4 / 9, [9]) == pytest.approx(wilson_interval(4 / 9, 9))
    for count in (1, 7, 50):
        assert mean_rate_interval(0.0, [count, 3])[0] == 0
        assert mean_rate_interval(1.0, [count, 3])[1] == 1


@pytest.mark.parametrize("counts", [(50, 10, 20, 200), (30, 400), (5,) * 20])
def test_the_interval_of_a_mean_over_classes_holds_it_in_95_of_100_cases(counts: tuple[int, ...]) -> None:
    errors = np.random.default_rng(0).binomial(counts, 0.3, (4000, len(counts)))
    intervals = [mean_rate_interval(rate, counts) for rate in (errors / counts).mean(1).tolist()]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_an_error_rate_is_printed_with_its_interval() -> None:
    assert format_error_rate(0.177, 1000) == "17.7 % (15.5 to 20.2)"
    assert format_error_rate(0.0, 20) == "0.0 % (0.0 to 16.1)"
    assert format_error_rate(0.177, 1000, [0.1, 0.25]) == "17.7 % (10.0 to 25.0)"
    assert format_error_rate(0.375, 150_000) == "37.50 % (37.26 to 37.75)"
    assert format_interval(81 / 263, 263) == "25.5 to 36.6"
    assert (format_percent(0.4066, 4999), format_percent(0.4066, 5000)) == ("40.7", "40.66")

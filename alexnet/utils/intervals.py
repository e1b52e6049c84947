"""95 % confidence intervals of error rates and of means, and how an error rate is printed."""

import math
import statistics
from collections.abc import Sequence

_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
_PICTURES_FOR_TWO_DECIMALS = 5000  # with fewer, the second decimal of a percentage is far below its interval


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a rate (Wilson 1927; equation 4 of Brown, Cai and DasGupta 2001).

    It holds the rates that the score test at 5 % does not reject:

        (rate + z² / 2n ± z √(rate (1 - rate) / n + z² / 4n²)) / (1 + z² / n),    z = 1.96, n = count

    It counts the choice of the test pictures only: neither the seed of the training nor that the pictures have chosen
    the checkpoint.

    Args:
        rate: The share of the pictures that are errors, as a fraction.
        count: The number of pictures, at least 1.

    Returns:
        The lower and the upper limit, as fractions.
    """
    return _score_interval(round(rate * count), count)


def mean_rate_interval(rate: float, counts: Sequence[int]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of several rates, such as of the classes' error rates.

    It is Wilson's interval for Kish's effective sample size: m rates of n pictures each count as m² / Σ (1 / n)
    pictures, of which a plain rate would have the same variance, if all rates were equal (Kish 1965). So a class with
    few pictures makes the interval wide, and where all classes have equally many it is that of the plain rate.

    Args:
        rate: The mean of the rates, as a fraction.
        counts: The number of pictures of each rate, at least 1.

    Returns:
        The lower and the upper limit, as fractions.
    """
    count = len(counts) ** 2 / sum(1 / n for n in counts)
    return _score_interval(rate * count, count)


def _score_interval(errors: float, count: float) -> tuple[float, float]:
    square = _Z**2
    middle = errors + square / 2
    half_width = _Z * math.sqrt(errors * (count - errors) / count + square / 4)
    low, high = (middle - half_width) / (count + square), (middle + half_width) / (count + square)
    # Exactly 0 and 1 where rounding would miss them by a last digit.
    return (0.0 if errors == 0 else low), (1.0 if errors == count else high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of independent values, by the normal distribution: mean ± 1.96 s / √n.

    Args:
        values: At least two values, better a hundred or more.
    """
    mean, half_width = statistics.fmean(values), _Z * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half_width, mean + half_width


def format_percent(fraction: float, count: int) -> str:
    """Return a fraction of `count` pictures in percent, without the sign: "17.7"; two decimals from 5,000 pictures."""
    return f"{100 * fraction:.{2 if count >= _PICTURES_FOR_TWO_DECIMALS else 1}f}"


def format_interval(rate: float, count: int, interval: Sequence[float] | None = None) -> str:
    """Return an interval of a rate, by default Wilson's, in percent, without the sign: "15.4 to 20.3"."""
    low, high = interval or wilson_interval(rate, count)
    return f"{format_percent(low, count)} to {format_percent(high, count)}"


def format_error_rate(rate: float, count: int, interval: Sequence[float] | None = None) -> str:
    """Return an error rate in percent with a 95 % interval, by default Wilson's: "17.7 % (15.4 to 20.3)"."""
    return f"{format_percent(rate, count)} % ({format_interval(rate, count, interval)})"

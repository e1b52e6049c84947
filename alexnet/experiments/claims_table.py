"""The table of the experiment `claims`: each claim with its means, its spread, and perhaps a verdict.

The test is Welch's t-test of the values over seeds, two-sided: it compares the means of two nets without taking their
spreads as equal (Welch 1947). An average of nets is one value, with which the single nets are compared by the t-test of
one sample. A verdict needs p < 0.05.
"""

import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from alexnet.experiments.claim_list import AVERAGE, MEASURES, Claim
from alexnet.experiments.result import ExperimentResult
from alexnet.utils.extras import missing_extra

_LEVEL = 0.05


@dataclass(frozen=True)
class ClaimRow:
    """A claim and what was measured.

    Args:
        claim: The claim.
        net, changed: The measure's values of the net and of the changed net, one for each seed.
    """

    claim: Claim
    net: tuple[float, ...]
    changed: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The mean of the changed net minus that of the net."""
        return statistics.mean(self.changed) - statistics.mean(self.net)

    @property
    def p_value(self) -> float | None:
        """The p-value of the difference; None if there are too few seeds, or no spread."""
        test = self._t_test()
        return None if test is None else float(test.pvalue)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the difference; None where there is no p-value."""
        test = self._t_test()
        if test is None:
            return None
        interval = test.confidence_interval(1 - _LEVEL)
        # Of one sample it is the interval of the net's mean, not of the difference from the one changed value.
        changed = self.changed[0] if len(self.changed) == 1 else 0.0
        return changed - float(interval.high), changed - float(interval.low)

    def _t_test(self) -> Any | None:
        """Return the t-test of the net's values against the changed net's; None if it cannot be made."""
        if len(self.net) < 2 or (len(self.changed) < 2 and self.claim.variant != AVERAGE):
            return None
        stats = import_scipy_stats()
        if statistics.stdev(self.net) == 0 and (len(self.changed) < 2 or statistics.stdev(self.changed) == 0):
            return None  # no spread, nothing to test by
        if len(self.changed) == 1:
            return stats.ttest_1samp(self.net, self.changed[0])
        with warnings.catch_warnings():  # one of the two nets may have no spread, which SciPy warns of
            warnings.simplefilter("ignore", RuntimeWarning)
            return stats.ttest_ind(self.net, self.changed, equal_var=False)

    @property
    def verdict(self) -> str:
        """What the spread over the seeds allows to say."""
        p_value = self.p_value
        if p_value is None:
            return "too few seeds"
        if p_value >= _LEVEL:
            return "undecided"
        return "as the paper says" if self.difference * self.claim.sign > 0 else "the opposite"

    def cells(self) -> list[str]:
        """Return the row of the table."""
        claim, p_value = self.claim, self.p_value
        return [
            f"{claim.text} ({claim.section})",
            MEASURES[claim.measure],
            _format_values(self.net),
            _format_values(self.changed),
            f"{self.difference:+.2f}",
            "-" if claim.paper is None else f"{claim.paper:+g}",
            "-" if p_value is None else f"{p_value:.2g}",
            self.verdict,
        ]


@dataclass
class ClaimsResult(ExperimentResult):
    """The result of the experiment `claims`.

    Args:
        claims: The claims, with what was measured.
    """

    claims: list[ClaimRow] = field(default_factory=list)

    def to_markdown(self) -> str:
        """Return the table of claims, then the table of errors, the notes and the figures as Markdown."""
        if not self.claims:
            return super().to_markdown()
        heading = ["claim", "measure", "the net", "changed", "difference", "the paper's", "p", "verdict"]
        rows = [heading, ["---"] * len(heading), *(row.cells() for row in self.claims)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
        expected = _LEVEL * sum(row.p_value is not None for row in self.claims)
        verdicts = Counter(row.verdict for row in self.claims)
        counts = "; ".join(f"{verdict}: {count}" for verdict, count in verdicts.most_common())
        notes = (
            f"- Of {len(self.claims)} claims: {counts}.\n"
            "- a ± b (n): the mean and the standard deviation over n seeds.\n"
            f"- p: Welch's t-test over the seeds, two-sided; for an average of nets the t-test of one sample. A "
            f"verdict needs p < {_LEVEL}. If no claim were true, {expected:.1f} verdicts would be expected by chance.\n"
        )
        title, _, rest = super().to_markdown().partition("\n")
        return f"{title}\n\n{table}\n\n{notes}{rest}"


def import_scipy_stats() -> Any:
    """Return the module scipy.stats.

    Raises:
        ValueError: It is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise missing_extra("the test of the claims", "claims", error) from error
    return stats


def _format_values(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} ({len(values)})"

"""The figure of the experiment `claims`: what each change does to the error, beside what the paper says."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from alexnet.experiments.claims_table import ClaimRow
from alexnet.results.figures import LIGHT


def draw_differences(claims: Sequence[ClaimRow]) -> Figure:
    """Draw the change of the error for each claim about it, with its 95 % interval, and the paper's as a diamond.

    Args:
        claims: The claims, of which those of the measure "error" are drawn, the first on top.
    """
    rows = [row for row in claims if row.claim.measure == "error"]
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color=LIGHT.text, linewidth=0.8)
    for y, row in enumerate(rows):
        if (interval := row.interval) is not None:
            axes.plot(interval, (y, y), "-", color=LIGHT.bar, linewidth=4, solid_capstyle="butt", zorder=1)
        axes.plot(row.difference, y, "o", color=LIGHT.training, markersize=5, zorder=2)
        if row.claim.paper is not None:
            axes.plot(row.claim.paper, y, "D", color=LIGHT.validation, fillstyle="none", markersize=6, zorder=3)
    axes.set_yticks(range(len(rows)), [row.claim.text.partition(":")[0] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first claim is on top
    axes.set_xlabel("Change of the top-1 error, in points")
    axes.grid(axis="y", color=LIGHT.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.plot([], [], "o", color=LIGHT.training, markersize=5, label="here, with its 95 % interval")
    axes.plot([], [], "D", color=LIGHT.validation, fillstyle="none", markersize=6, label="the paper")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure

"""Figures of an evaluation: the confusion matrix of any number of classes, and the reliability diagram."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alexnet.results.calibration import CalibrationBin
from alexnet.results.figures import LIGHT, Palette, new_figure, shorten_name
from alexnet.results.fonts import fit_name
from alexnet.utils.intervals import wilson_interval

_NUMBERED_CLASSES = 30  # the most for which the cells have numbers
_NAMED_CLASSES = 150  # the most for which each row and column has its name
_MAX_CELLS = 250  # along a side; with more classes, a cell stands for several
_NAMES_OF_MANY = 40  # along a side where not each row has its name
_POWER = 0.5  # of a share, for its colour: a few pictures among many must be seen


# ---- Confusion matrix -----------------------------------------------------------------------------------------------


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], palette: Palette = LIGHT) -> Figure:
    """Draw a confusion matrix: a row for each correct class, a column for each predicted class.

    A cell's colour is the share of the row's pictures, blue on the diagonal, red elsewhere. With up to 30 classes the
    cells have the numbers of pictures, with up to 150 each row has its name. With more than 250 a cell stands for
    neighbours in the order of the classes.

    Args:
        confusion: (classes, classes) int.
        classes: The class names.
        palette: The colours.
    """
    block = math.ceil(len(classes) / _MAX_CELLS)
    counts = _sum_blocks(confusion, block)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    inches, font = _cell_size(len(counts))
    step = 1 if len(classes) <= _NAMED_CLASSES else math.ceil(len(classes) / _NAMES_OF_MANY)
    names = {number / block: fit_name(shorten_name(classes[number]))[0] for number in range(0, len(classes), step)}
    figure, axes, bars = _place_axes(max(2.5, inches * len(counts)), _width_of(names.values(), font), palette)
    on_diagonal = np.eye(len(shares), dtype=bool)
    for bar, part, colour, label in (
        (bars[0], on_diagonal, palette.training, "on the diagonal"),
        (bars[1], ~on_diagonal, palette.validation, "elsewhere"),
    ):
        values = np.ma.masked_array(shares, ~part)
        norm = PowerNorm(_POWER, 0, max(float(shares[part].max(initial=0)), 1e-3))
        colours = LinearSegmentedColormap.from_list("", [palette.background, colour])
        axes.imshow(values, norm=norm, cmap=colours, interpolation="nearest")
        _draw_scale(bar, ScalarMappable(norm, colours), f"share of the row, {label}", palette)
    if len(classes) <= _NUMBERED_CLASSES:
        for row, column in np.argwhere(counts).tolist():
            axes.text(column, row, counts[row, column], ha="center", va="center", color=palette.text, fontsize=font)
    _name_classes(axes, names, font, palette)
    axes.set_xlabel("predicted class" + (f"; a cell is {block} x {block} classes" if block > 1 else ""))
    axes.set_ylabel("correct class")
    return figure


def _sum_blocks(matrix: np.ndarray, block: int) -> np.ndarray:
    """Return the sums of the blocks of a square matrix; the last ones may be smaller."""
    starts = np.arange(0, len(matrix), block)
    return np.asarray(np.add.reduceat(np.add.reduceat(matrix, starts, axis=0), starts, axis=1))


def _cell_size(cells: int) -> tuple[float, float]:
    """Return the side of a cell in inches, and the size of the names and numbers in points."""
    if cells <= _NUMBERED_CLASSES:
        return 0.36, 8
    if cells <= _NAMED_CLASSES:
        return 0.125, 7
    return 13 / cells, 8


def _width_of(names: Iterable[str], font: float) -> float:
    """Return an upper estimate of the width of the longest name, in inches: the scripts of East Asia are wider."""
    ems = (sum(1.0 if ord(letter) >= 0x1100 else 0.62 for letter in name) for name in names)
    return max(ems) * font / 72


def _place_axes(side: float, names: float, palette: Palette) -> tuple[Figure, Axes, list[Axes]]:
    """Return a figure with a square of a side in inches, room for names on the left and below, and two bars.

    matplotlib's own layouts would draw hundreds of names several times, which takes seconds.
    """
    left, right, bottom, top = names + 0.5, 2.0, names + 0.5, 0.15
    width, height = left + side + right, bottom + side + top
    figure = new_figure(width, height, palette, constrained=False)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    scale_side = min(side, 4.0)
    low = (bottom + side - scale_side) / height
    bars = [
        figure.add_axes(((left + side + 0.2 + 0.9 * number) / width, low, 0.15 / width, scale_side / height))
        for number in range(2)
    ]
    return figure, axes, bars


def _name_classes(axes: Axes, names: Mapping[float, str], font: float, palette: Palette) -> None:
    """Write names at the rows and columns of these positions."""
    axes.set_xticks(list(names), list(names.values()), rotation=90)
    axes.set_yticks(list(names), list(names.values()))
    axes.tick_params(colors=palette.text, labelsize=font, length=2)
    _, families = fit_name("".join(names.values()))
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontfamily(families)
        label.set_parse_math(False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(palette.text)
    axes.set_facecolor(palette.background)
    axes.spines[:].set_color(palette.grid)


def _draw_scale(bar: Axes, scale: ScalarMappable, label: str, palette: Palette) -> None:
    """Draw the colours of a scale with their shares."""
    figure = bar.get_figure()
    assert isinstance(figure, Figure)
    drawn = figure.colorbar(scale, cax=bar, format=PercentFormatter(1, decimals=None))
    drawn.set_label(label, color=palette.text, fontsize=8)
    bar.tick_params(colors=palette.text, labelsize=8)
    bar.spines[:].set_visible(False)


# ---- Reliability diagram --------------------------------------------------------------------------------------------


def draw_reliability(bins: Sequence[CalibrationBin], palette: Palette = LIGHT) -> Figure:
    """Draw how often the net is right against the probability that it gives, and the number of pictures below.

    Args:
        bins: The bins. Each with pictures has a point, with Wilson's 95 % interval of its accuracy.
        palette: The colours.
    """
    figure = new_figure(4.5, 4.2, palette)
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=palette.text, linestyle=":", linewidth=1)
    for part in bins:
        if part.confidence is not None and part.accuracy is not None:
            above.plot([part.confidence] * 2, wilson_interval(part.accuracy, part.images), color=palette.training)
            above.plot(part.confidence, part.accuracy, "o", color=palette.training, markersize=5)
    for part in bins:
        below.bar(part.low, part.images, part.high - part.low, align="edge", color=palette.bar, linewidth=0)
    above.set(xlim=(0, 1), ylim=(0, 1))
    above.set_title("Calibration", loc="left", fontsize=11, fontweight="bold", color=palette.text)
    above.set_ylabel("share that is right", color=palette.text, fontsize=9)
    below.set_ylabel("pictures", color=palette.text, fontsize=9)
    below.set_xlabel("probability of the most probable class", color=palette.text, fontsize=9)
    below.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    for axes in (above, below):
        axes.set_facecolor(palette.background)
        axes.grid(color=palette.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=palette.text, labelsize=9, length=0)
        axes.spines[:].set_visible(False)
    return figure

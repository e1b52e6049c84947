"""The pictures of a run: its curves, its first layer's kernels (Figure 3), its guesses at pictures (Figure 4, left).

Each function returns a matplotlib `Figure` made without pyplot, so that nothing global changes and threads may draw.
"""

import functools
import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from alexnet.results.run_history import RunHistory

KERNELS_PER_ROW = 16
# Beside matplotlib's own letters, those of the writings it lacks, where the machine has such a font.
FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans", "Arial Unicode MS")


@dataclass(frozen=True)
class Palette:
    """The colours of a figure."""

    paper: str
    ink: str
    grid: str
    training: str
    validation: str
    top5: str
    bar: str
    right: str


LIGHT = Palette(
    paper="#ffffff", ink="#24292f", grid="#e3e6ea", training="#2f6db5", validation="#c8372d", top5="#d98a2b",
    bar="#cfdced", right="#ea7f75",
)  # fmt: skip
DARK = Palette(
    paper="#1b1f24", ink="#dfe3e8", grid="#343a42", training="#6ea8e8", validation="#f07a6e", top5="#e6b062",
    bar="#3d5673", right="#b8423a",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Example:
    """A picture and what the net says of it.

    Args:
        picture: (size, size, 3) uint8 RGB.
        name: Its name in the store.
        correct: The name of its class.
        guesses: The most probable classes and their probabilities, the most probable first; five, or all there are.
    """

    picture: np.ndarray
    name: str
    correct: str
    guesses: tuple[tuple[str, float], ...]


def losses(axes: Axes, history: RunHistory, theme: Palette) -> None:
    """Draw the training loss, over stretches of steps and over epochs, and the validation set's mean -log p."""
    if history.steps:
        x = [history.place(line) for line in history.steps]
        axes.plot(x, [line["loss"] for line in history.steps], color=theme.training, alpha=0.35, linewidth=0.8)
    _lines(
        axes, history, (("train_loss", theme.training, "training"), ("val_log_prob", theme.validation, "validation"))
    )
    axes.set_ylim(bottom=0)
    _finish(axes, theme, "Loss")


def error_rates(axes: Axes, history: RunHistory, theme: Palette) -> None:
    """Draw the training error and the validation errors, top-1 and, where there are more than five classes, top-5."""
    lines = [("train_error", theme.training, "training"), ("val_top1_error", theme.validation, "validation")]
    if history.start.get("classes", 6) > 5:
        lines.append(("val_top5_error", theme.top5, "validation, top-5"))
    _lines(axes, history, lines)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _finish(axes, theme, "Error")


def rates(axes: Axes, history: RunHistory, theme: Palette) -> None:
    """Draw the learning rate of the weights, the greatest of all layers, on a logarithmic scale."""
    lines = [line for line in history.steps or history.epochs if line["rate"] > 0]  # the scale has no zero
    x = [history.place(line) for line in lines]
    axes.plot(x, [line["rate"] for line in lines], color=theme.ink, linewidth=1.5)
    if lines:
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _finish(axes, theme, "Learning rate")


CURVES: dict[str, Callable[[Axes, RunHistory, Palette], None]] = {"loss": losses, "error": error_rates, "rate": rates}


def curve(which: str, history: RunHistory, theme: Palette = LIGHT) -> Figure:
    """One of the curves by itself: "loss", "error" or "rate"."""
    figure = _figure(4.5, 2.9, theme)
    CURVES[which](figure.add_subplot(), history, theme)
    return figure


def curves(history: RunHistory, theme: Palette = LIGHT) -> Figure:
    """All curves of a training, side by side."""
    figure = _figure(13, 3.3, theme)
    for axes, draw in zip(figure.subplots(1, len(CURVES)), CURVES.values(), strict=True):
        draw(axes, history, theme)
    return figure


def kernel_tiles(weights: np.ndarray, towers: int) -> list[np.ndarray]:
    """The kernels of a layer that reads pictures as pictures, each scaled to its own range (Figure 3).

    Args:
        weights: (maps, 3, kernel, kernel) float.
        towers: Number of equal parts the maps are spread over.

    Returns:
        For each tower (height, width, 4) uint8 RGBA: its kernels row by row, a transparent pixel between neighbours.
    """
    low = weights.min(axis=(1, 2, 3), keepdims=True)
    high = weights.max(axis=(1, 2, 3), keepdims=True)
    spread = np.where(high > low, high - low, 1)
    pictures = np.round(255 * (weights - low) / spread).astype(np.uint8).transpose(0, 2, 3, 1)
    maps, side = len(weights) // towers, weights.shape[2]
    columns = min(maps, KERNELS_PER_ROW)
    rows = -(-maps // columns)
    tiles = np.zeros((towers, rows * (side + 1) - 1, columns * (side + 1) - 1, 4), np.uint8)
    for number, picture in enumerate(pictures):
        tower, place = divmod(number, maps)
        top, left = (side + 1) * (place // columns), (side + 1) * (place % columns)
        tiles[tower, top : top + side, left : left + side, :3] = picture
        tiles[tower, top : top + side, left : left + side, 3] = 255
    return list(tiles)


def tower_names(towers: int) -> tuple[str, ...]:
    """What the towers are called: "GPU 1", "GPU 2" as in the paper; a single one has no name."""
    return tuple(f"GPU {number + 1}" for number in range(towers)) if towers > 1 else ("",)


def kernels(weights: np.ndarray, towers: int, theme: Palette = LIGHT) -> Figure:
    """The first layer's kernels, a block for each tower (Figure 3).

    Args:
        weights: (maps, 3, kernel, kernel) float.
        towers: Number of equal parts the maps are spread over.
        theme: Colours.
    """
    blocks = kernel_tiles(weights, towers)
    height, width = blocks[0].shape[:2]
    inches = 0.56 * (width + 1) / (weights.shape[2] + 1)  # a kernel takes about half an inch
    figure = _figure(inches + 0.5, towers * (inches * height / width + 0.15), theme)
    for axes, block, name in zip(np.atleast_1d(figure.subplots(towers)), blocks, tower_names(towers), strict=True):
        axes.imshow(block, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, color=theme.ink, fontsize=10)
        axes.set_facecolor(theme.paper)
        axes.spines[:].set_visible(False)
    return figure


def guesses(examples: Sequence[Example], theme: Palette = LIGHT) -> Figure:
    """Pictures with their correct class and the most probable classes, the correct one's bar in red (Figure 4, left).

    Args:
        examples: What to show, four in a row.
        theme: Colours.
    """
    columns = min(4, len(examples))
    rows = math.ceil(len(examples) / columns)
    figure = _figure(2.5 * columns, 4.1 * rows, theme)
    families = installed_fonts()
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.4, 1.5] * rows)
    for number, example in enumerate(examples):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[2 * row, column])
        few = len(example.picture) < 100  # single pixels of a small picture are meant to be seen
        axes.imshow(example.picture, interpolation="nearest" if few else "antialiased")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        label = axes.set_xlabel(
            shorten_name(example.correct), color=theme.ink, fontsize=10, fontweight="bold", labelpad=5
        )
        label.set_fontfamily(families)
        label.set_parse_math(False)
        _bars(figure.add_subplot(grid[2 * row + 1, column]), example, theme)
    return figure


def _bars(axes: Axes, example: Example, theme: Palette) -> None:
    """The bars of one picture's guesses, the names written over them."""
    names, chances = zip(*example.guesses, strict=True)
    colours = [theme.right if name == example.correct else theme.bar for name in names]
    axes.barh(range(len(names)), chances, color=colours, height=0.82)
    families = installed_fonts()
    for place, name in enumerate(names):
        text = axes.text(0.02, place, shorten_name(name), va="center", color=theme.ink, fontsize=9, family=families)
        text.set_parse_math(False)
    axes.set(xlim=(0, 1), ylim=(4.5, -0.5), xticks=[], yticks=[], facecolor=theme.paper)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "left", color=theme.grid)


def shorten_name(name: str, most: int = 28) -> str:
    """A class name cut to fit."""
    return name if len(name) <= most else name[: most - 1] + "…"


@functools.cache
def installed_fonts() -> list[str]:
    """The fonts of FONTS that this machine has."""
    known = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in known]


def to_png(figure: Figure, dpi: int = 144) -> bytes:
    """A figure as a PNG file's bytes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A class may be named in a writing no font here has; its letters are boxes then, and the rest is as good.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(file, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return file.getvalue()


def _figure(width: float, height: float, theme: Palette) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), layout=layout, facecolor=theme.paper)


def _lines(axes: Axes, history: RunHistory, lines: Sequence[tuple[str, str, str]]) -> None:
    """Draw columns of the epochs' lines, where they have them: (name, colour, what it is called).

    What is measured while training is a mean over the epoch, and stands at its middle.
    """
    for name, colour, text in lines:
        back = 0.5 if name.startswith("train") else 0.0
        points = [(line["epoch"] - back, line[name]) for line in history.epochs if name in line]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, label=text, linewidth=1.7, marker="o" if len(x) < 4 else None, markersize=4)


def _finish(axes: Axes, theme: Palette, title: str) -> None:
    """Give axes their title and colours."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=theme.ink)
    axes.set_xlabel("epochs", color=theme.ink, fontsize=9)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.set_facecolor(theme.paper)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=theme.ink, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)

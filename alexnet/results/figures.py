"""Figures of a run: its curves, its first layer's kernels (Figure 3), its guesses for pictures (Figure 4, left).

Each function returns a matplotlib `Figure` made without pyplot, so that no global state changes and threads may draw.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from alexnet.results.examples import Example
from alexnet.results.fonts import set_name
from alexnet.results.run_history import RunHistory
from alexnet.training.error_rates import split_adjective
from alexnet.utils.files import SOFTWARE
from alexnet.utils.wordnet import WNID

KERNELS_PER_ROW = 16
_WNID_BEFORE_WORDS = re.compile(rf"^{WNID.pattern} (?=\S)")
_NAME_LENGTH = 28  # characters of a class name that are shown


@dataclass(frozen=True)
class Palette:
    """The colours of a figure."""

    background: str
    text: str
    grid: str
    training: str
    validation: str
    top5: str
    bar: str
    correct_bar: str


LIGHT = Palette(
    background="#ffffff", text="#24292f", grid="#e3e6ea", training="#2f6db5", validation="#c8372d", top5="#d98a2b",
    bar="#cfdced", correct_bar="#ea7f75",
)  # fmt: skip
DARK = Palette(
    background="#1b1f24", text="#dfe3e8", grid="#343a42", training="#6ea8e8", validation="#f07a6e", top5="#e6b062",
    bar="#3d5673", correct_bar="#b8423a",
)  # fmt: skip


# ---- Curves ---------------------------------------------------------------------------------------------------------


def _draw_losses(axes: Axes, history: RunHistory, palette: Palette) -> None:
    """Draw the training loss, by steps and by epochs, and the mean -log p of the validation or test pictures."""
    if history.steps:
        x = [history.epoch_of(line) for line in history.steps]
        axes.plot(
            x, [line["loss"] for line in history.steps], color=palette.training, alpha=0.45, linewidth=0.8,
            label=f"training, every {history.steps[0]['step']} steps", marker="o" if len(x) < 4 else None, markersize=3,
        )  # fmt: skip
    columns = (("train_loss", palette.training, ""), ("val_log_prob", palette.validation, ""))
    _draw_epochs(axes, history, columns)
    _start_at_zero(axes)
    _finish(axes, palette, "Loss")


def _draw_errors(axes: Axes, history: RunHistory, palette: Palette) -> None:
    """Draw the training error and the errors measured: top-1 and, if there are more than five classes, top-5."""
    columns = [("train_error", palette.training, ""), ("val_top1_error", palette.validation, "")]
    if history.start.get("classes", 6) > 5:
        columns.append(("val_top5_error", palette.top5, ", top-5"))
    _draw_epochs(axes, history, columns)
    _start_at_zero(axes)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    _finish(axes, palette, "Error")


def _draw_rates(axes: Axes, history: RunHistory, palette: Palette) -> None:
    """Draw the learning rate of the weights, the highest of all layers, on a logarithmic scale, which has no zero."""
    points = [(epoch, rate) for epoch, rate in history.learning_rates() if rate > 0]
    axes.plot([epoch for epoch, _ in points], [rate for _, rate in points], color=palette.text, linewidth=1.5)
    if points:
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _finish(axes, palette, "Learning rate")


CURVES: dict[str, Callable[[Axes, RunHistory, Palette], None]] = {
    "loss": _draw_losses,
    "error": _draw_errors,
    "rate": _draw_rates,
}


def draw_curve(name: str, history: RunHistory, palette: Palette = LIGHT) -> Figure:
    """Draw one of the curves: "loss", "error" or "rate"."""
    figure = new_figure(4.5, 2.9, palette)
    CURVES[name](figure.add_subplot(), history, palette)
    return figure


def draw_curves(history: RunHistory, palette: Palette = LIGHT) -> Figure:
    """Draw all curves of a training, side by side."""
    figure = new_figure(13, 3.3, palette)
    for axes, draw in zip(figure.subplots(1, len(CURVES)), CURVES.values(), strict=True):
        draw(axes, history, palette)
    return figure


def _draw_epochs(axes: Axes, history: RunHistory, columns: Sequence[tuple[str, str, str]]) -> None:
    """Draw columns of the lines of event "epoch", where the lines have them: (name, colour, end of the label).

    A value measured in training is a mean over the epoch; it is drawn at the middle of the epoch. What was measured
    after it is labelled by its pictures: first the validation pictures and then, once these are folded in, the test
    pictures.
    """
    for name, colour, ending in columns:
        in_training = name.startswith("train")
        points: dict[str, list[tuple[float, float]]] = {}
        for line in history.epochs:
            if name in line:
                split = "train" if in_training else history.split_of(line)
                points.setdefault(split, []).append((line["epoch"] - 0.5 * in_training, line[name]))
        for split, line_points in points.items():
            x, y = zip(*line_points, strict=True)
            axes.plot(
                x, y, color=colour, label=split_adjective(split) + ending, linewidth=1.7,
                linestyle="--" if len(points) > 1 and split == "test" else "-",
                marker="o" if len(x) < 4 else None, markersize=4,
            )  # fmt: skip


def _start_at_zero(axes: Axes) -> None:
    """Let the vertical axis begin at 0, and end a little above the highest line."""
    axes.set_ylim(0, 1.05 * axes.dataLim.y1 if axes.lines else None)


def _finish(axes: Axes, palette: Palette, title: str) -> None:
    """Add the title, the labels and the colours to a curve."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=palette.text)
    axes.set_xlabel("epochs", color=palette.text, fontsize=9)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.set_facecolor(palette.background)
    axes.grid(color=palette.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=palette.text, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=palette.text, fontsize=9)


# ---- Kernels --------------------------------------------------------------------------------------------------------


def kernel_tiles(weights: np.ndarray, towers: int) -> list[np.ndarray]:
    """Return the kernels of the first layer as pictures, each kernel scaled to its own range (Figure 3).

    Args:
        weights: (maps, 3, kernel, kernel) float.
        towers: The number of equal parts that the maps are divided into.

    Returns:
        For each tower (height, width, 4) uint8 RGBA: its kernels row by row, with a transparent pixel between them.
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
        tower, position = divmod(number, maps)
        top, left = (side + 1) * (position // columns), (side + 1) * (position % columns)
        tiles[tower, top : top + side, left : left + side, :3] = picture
        tiles[tower, top : top + side, left : left + side, 3] = 255
    return list(tiles)


def tower_names(towers: int) -> tuple[str, ...]:
    """Return the names of the towers, "GPU 1" and "GPU 2" as in the paper; a single tower has an empty name."""
    return tuple(f"GPU {number + 1}" for number in range(towers)) if towers > 1 else ("",)


def draw_kernels(weights: np.ndarray, towers: int, palette: Palette = LIGHT) -> Figure:
    """Draw the first layer's kernels, a block for each tower (Figure 3).

    Args:
        weights: (maps, 3, kernel, kernel) float.
        towers: The number of equal parts that the maps are divided into.
        palette: The colours.
    """
    blocks = kernel_tiles(weights, towers)
    height, width = blocks[0].shape[:2]
    inches = 0.56 * (width + 1) / (weights.shape[2] + 1)  # a kernel takes about half an inch
    figure = new_figure(inches + 0.5, towers * (inches * height / width + 0.15), palette)
    for axes, block, name in zip(np.atleast_1d(figure.subplots(towers)), blocks, tower_names(towers), strict=True):
        axes.imshow(block, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, color=palette.text, fontsize=10)
        axes.set_facecolor(palette.background)
        axes.spines[:].set_visible(False)
    return figure


# ---- Guesses --------------------------------------------------------------------------------------------------------


def draw_guesses(examples: Sequence[Example], palette: Palette = LIGHT) -> Figure:
    """Draw pictures with their correct class and the most probable classes (Figure 4, left).

    The bar of the correct class is red.

    Args:
        examples: The pictures, four in a row.
        palette: The colours.
    """
    columns = min(4, len(examples))
    rows = math.ceil(len(examples) / columns)
    figure = new_figure(2.5 * columns, 4.1 * rows, palette)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.4, 1.5] * rows)
    for number, example in enumerate(examples):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[2 * row, column])
        small = len(example.picture) < 100  # the single pixels of a small picture should be visible
        axes.imshow(example.picture, interpolation="nearest" if small else "antialiased")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        label = axes.set_xlabel("", color=palette.text, fontsize=9, fontweight="bold", labelpad=5)
        set_name(label, shorten_name(example.correct))
        draw_bars(figure.add_subplot(grid[2 * row + 1, column]), example.guesses, example.correct, palette)
    return figure


def draw_bars(axes: Axes, guesses: Sequence[tuple[str, float]], marked: str, palette: Palette) -> None:
    """Draw the probabilities of a picture's guesses as bars, with the names over them; one class is red."""
    names, probabilities = zip(*guesses, strict=True)
    colours = [palette.correct_bar if name == marked else palette.bar for name in names]
    axes.barh(range(len(names)), probabilities, color=colours, height=0.82)
    for row, name in enumerate(names):
        set_name(axes.text(0.02, row, "", va="center", color=palette.text, fontsize=9), shorten_name(name))
    axes.set(xlim=(0, 1), ylim=(4.5, -0.5), xticks=[], yticks=[], facecolor=palette.background)
    for side, spine in axes.spines.items():
        spine.set(visible=side == "left", color=palette.grid)


def shorten_name(name: str) -> str:
    """Return a class name without its WordNet ID, or the beginning of it if it is long."""
    name = _WNID_BEFORE_WORDS.sub("", name)
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


# ---- All figures ----------------------------------------------------------------------------------------------------


def to_png(figure: Figure, dpi: int = 144, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a figure as the bytes of a PNG file, with textual metadata."""
    file = io.BytesIO()
    metadata = {"Software": SOFTWARE} | dict(metadata or {})
    figure.savefig(file, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata=metadata)
    return file.getvalue()


def new_figure(width: float, height: float, palette: Palette, *, constrained: bool = True) -> Figure:
    """Return an empty figure, its size in inches; `constrained` makes room for labels, else the caller does."""
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08) if constrained else None
    return Figure(figsize=(width, height), layout=layout, facecolor=palette.background)

"""The report as HTML: what the template is given, as plain values."""

import base64
import datetime
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from alexnet.recipe import Recipe, recipe_differences
from alexnet.recipes import RECIPES
from alexnet.results import figures
from alexnet.results.figures import DARK, LIGHT, Example
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint
from alexnet.training.error_rates import ErrorRates

WORST = 10  # classes in the table
MATRIX_CLASSES = 12  # the most for which all confusions are shown, as a matrix
PAIRS = 8  # confusions listed where there are more
SHOWN = 224  # pixels a side that a picture is kept with at most
SMALL = 100  # pixels a side up to which a picture is kept exactly and shown with square pixels
KERNEL_WIDTH = 46  # pixels a kernel is shown with


@dataclass(frozen=True)
class ClassResult:
    """How a class fares: its pictures, how many are taken for another class, and which that is most often."""

    name: str
    pictures: int
    wrong: int
    taken_for: str
    times: int

    @property
    def error(self) -> float:
        """Share of its pictures that are taken for another class."""
        return self.wrong / self.pictures


def render(
    *,
    run: str,
    history: RunHistory,
    found: Checkpoint,
    split: str,
    chosen_here: bool,
    results: Mapping[int, ErrorRates],
    kernels: np.ndarray | None,
    guesses: Sequence[Example],
    mistakes: Sequence[Example],
    confusion: np.ndarray,
) -> str:
    """The page.

    Args:
        run: The run's name.
        history: Its training so far.
        found: The net reported.
        split: Name of the pictures tested on.
        chosen_here: Whether the epoch reported was chosen by the error on these pictures.
        results: The errors by number of views.
        kernels: (maps, 3, kernel, kernel), the first layer's weights; None where that is no convolution.
        guesses, mistakes: Pictures to show with what the net says of them.
        confusion: (classes, classes), pictures of each class (row) taken for each (column).
    """
    classes = found.classes
    views = max(results)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "duration": duration, "data_uri": picture_uri}
    template = resources.files("alexnet.results").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        run=run,
        history=history,
        recipe=found.recipe,
        recipe_name=recipe_name(found.recipe),
        differences=differences_from_paper(found.recipe),
        classes=classes,
        epoch=found.state.epoch,
        seconds=history.epochs[-1]["seconds"] if history.epochs else found.state.seconds,
        split=split,
        chosen_here=chosen_here,
        results=results,
        views=views,
        spread=math.sqrt(results[views].top1_error * (1 - results[views].top1_error) / results[views].images),
        log_classes=math.log(len(classes)),
        curves={name: figure_uris(name, history) for name in figures.CURVES},
        kernels=kernels,
        towers=[] if kernels is None else towers(kernels, found.recipe.net.towers),
        kernel_width=KERNEL_WIDTH,
        small=found.recipe.store_size <= SMALL,
        guesses=guesses,
        mistakes=mistakes,
        worst=[c for c in class_results(classes, confusion) if c.wrong][:WORST],
        matrix=confusion if len(classes) <= MATRIX_CLASSES else None,
        pairs=pairs(classes, confusion)[:PAIRS],
        plain=plain,
        version=metadata.version("alexnet"),
        now=datetime.datetime.now(datetime.UTC),
    )


def towers(kernels: np.ndarray, count: int) -> list[tuple[str, np.ndarray, int]]:
    """The first layer's kernels by tower: (its name, (height, width, 4) uint8 RGBA, kernels in a row)."""
    columns = min(figures.KERNELS_PER_ROW, len(kernels) // count)
    blocks = zip(figures.tower_names(count), figures.kernel_tiles(kernels, count), strict=True)
    return [(name, tiles, columns) for name, tiles in blocks]


def class_results(classes: Sequence[str], confusion: np.ndarray) -> list[ClassResult]:
    """The classes that have pictures, the one with the highest error first.

    Args:
        classes: Their names.
        confusion: (classes, classes), pictures of each class (row) taken for each (column).
    """
    found = []
    wrong = _off_diagonal(confusion)
    for name, row, others in zip(classes, confusion, wrong, strict=True):
        other = int(others.argmax())
        if row.any():
            found.append(ClassResult(name, int(row.sum()), int(others.sum()), classes[other], int(others[other])))
    return sorted(found, key=lambda result: -result.error)


def pairs(classes: Sequence[str], confusion: np.ndarray) -> list[tuple[str, str, int, int]]:
    """Confusions, the most frequent first: (correct class, class taken for it, how often, pictures of the class)."""
    wrong = _off_diagonal(confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")
    places = ((int(flat) // len(classes), int(flat) % len(classes)) for flat in order[: np.count_nonzero(wrong)])
    return [(classes[i], classes[j], int(wrong[i, j]), int(confusion[i].sum())) for i, j in places]


def _off_diagonal(confusion: np.ndarray) -> np.ndarray:
    """A copy with zeros in place of the right answers."""
    return np.asarray(confusion * (1 - np.eye(len(confusion), dtype=int)))


def recipe_name(recipe: Recipe) -> str:
    """The name of a recipe, whatever its seed; "" where it is none of the named ones."""
    return next((name for name, make in RECIPES.items() if replace(make(), seed=recipe.seed) == recipe), "")


def differences_from_paper(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return where a recipe differs from the paper's: (field, the paper's value, this one's), as text."""
    return [(path, plain(old), plain(new)) for path, old, new in recipe_differences(Recipe(), recipe)]


def plain(value: Any) -> str:
    """A value for reading."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items() if part is not None) or "none"
    return str(value)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * share:.{digits}f}%"


def duration(seconds: float) -> str:
    """A time for reading: its two largest units."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min" if hours < 48 else f"{int(hours / 24)} d {int(hours % 24)} h"


def data_uri(contents: bytes, kind: str) -> str:
    """A file's bytes, of a media type such as "image/png", as a URI."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


def figure_uris(curve: str, history: RunHistory) -> dict[str, str]:
    """A curve as PNG, for light and for dark pages."""
    themes = {"light": LIGHT, "dark": DARK}
    made = {name: figures.to_png(figures.curve(curve, history, theme)) for name, theme in themes.items()}
    return {name: data_uri(contents, "image/png") for name, contents in made.items()}


def picture_uri(picture: np.ndarray) -> str:
    """A picture, (height, width, 3 or 4) uint8: small ones exactly, others as JPEG of at most SHOWN pixels a side."""
    image = Image.fromarray(picture)
    file = io.BytesIO()
    if max(image.size) <= SMALL or image.mode == "RGBA":
        image.save(file, "PNG", optimize=True)
        return data_uri(file.getvalue(), "image/png")
    image.thumbnail((SHOWN, SHOWN))
    image.save(file, "JPEG", quality=85)
    return data_uri(file.getvalue(), "image/jpeg")

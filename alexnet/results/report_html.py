"""The report as HTML: renders the template report.html.j2 with plain values."""

import base64
import datetime
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata, resources
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from alexnet.recipe import Recipe, recipe_differences
from alexnet.recipes import RECIPES
from alexnet.results.calibration import CalibrationBin, expected_calibration_error
from alexnet.results.confusion import ClassResult, class_results, frequent_confusions
from alexnet.results.evaluation_figures import draw_confusion, draw_reliability
from alexnet.results.examples import Example
from alexnet.results.explanation import ExplainedExample
from alexnet.results.figures import (
    CURVES,
    DARK,
    KERNELS_PER_ROW,
    LIGHT,
    Palette,
    draw_curve,
    kernel_tiles,
    to_png,
    tower_names,
)
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint
from alexnet.training.error_rates import ErrorRates, split_adjective
from alexnet.utils.checksums import BLANK_CHECKSUM
from alexnet.utils.console import format_duration
from alexnet.utils.intervals import format_error_rate, format_interval, format_percent

_MATRIX_CLASSES = 12  # the most for which the confusion matrix is a table; else it is a picture
_CONFUSIONS = 20  # listed
_PICTURE_SIDE = 224  # pixels; larger pictures are scaled down to it
_SMALL_SIDE = 100  # pixels; pictures up to this size are kept exactly and shown with square pixels
_KERNEL_WIDTH = 46  # pixels on the page
# For what the line "start" of metrics.jsonl calls validation although it can be the test pictures.
_START_TITLES = {"validation_pictures": "pictures measured on after each epoch", "validation_split": "their split"}


@dataclass(frozen=True)
class ReportData:
    """The values that the report shows.

    Args:
        run: The name of the run.
        history: Its training so far.
        checkpoint: The net that the report is about.
        split: The name of the split that was evaluated.
        chosen_on_split: Whether the epoch of the net was chosen by the error on these pictures.
        results: The errors by number of views.
        kernels: (maps, 3, kernel, kernel), the first layer's weights; None if it is not a convolution.
        guesses: Pictures drawn at random, with the net's guesses.
        mistakes: The most confident mistakes.
        explained: Pictures that are classified right, then some that are not, with maps of why.
        confusion: (classes, classes), the confusion matrix.
        calibration: The bins of the reliability diagram.
        hierarchical: ILSVRC-2010's hierarchical error and its interval by number of guesses; empty without the costs.
    """

    run: str
    history: RunHistory
    checkpoint: Checkpoint
    split: str
    chosen_on_split: bool
    results: Mapping[int, ErrorRates]
    kernels: np.ndarray | None
    guesses: Sequence[Example]
    mistakes: Sequence[Example]
    explained: Sequence[ExplainedExample]
    confusion: np.ndarray
    calibration: Sequence[CalibrationBin]
    hierarchical: Mapping[int, tuple[float, tuple[float, float] | None]] = field(default_factory=dict)


def render_report(data: ReportData) -> str:
    """Return the report as an HTML page, with room for its checksum."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _format_percent,
        "error_rate": format_error_rate,
        "interval": format_interval,
        "rounded": format_percent,
        "adjective": split_adjective,
        "duration": format_duration,
        "plain": _format_value,
        "data_uri": picture_uri,
    }
    template, script = (_read_resource(name) for name in ("report.html.j2", "report.js"))
    checkpoint, history, kernels = data.checkpoint, data.history, data.kernels
    classes, recipe = checkpoint.classes, checkpoint.recipe
    views = max(data.results)
    return environment.from_string(template).render(
        vars(data),
        checksum=BLANK_CHECKSUM,
        recipe=recipe,
        recipe_name=recipe_name(recipe),
        differences=differences_from_paper(recipe),
        classes=classes,
        epoch=checkpoint.state.epoch,
        seconds=history.epochs[-1]["seconds"] if history.epochs else checkpoint.state.seconds,
        views=views,
        log_classes=math.log(len(classes)),
        curves={name: _themed_uris(partial(draw_curve, name, history)) for name in CURVES},
        towers=[] if kernels is None else _kernels_by_tower(kernels, recipe.net.towers),
        kernel_width=_KERNEL_WIDTH,
        small=recipe.store_size <= _SMALL_SIDE,
        **_evaluation_values(data),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        version=metadata.version("alexnet"),
        start_titles=_START_TITLES,
        now=datetime.datetime.now(datetime.UTC),
    )


def _read_resource(name: str) -> str:
    return resources.files("alexnet.results").joinpath(name).read_text(encoding="utf-8")


def _evaluation_values(data: ReportData) -> dict[str, Any]:
    """Return the results of the classes, the confusion matrix as a table or a picture, and the calibration."""
    classes, confusion = data.checkpoint.classes, data.confusion
    as_table = len(classes) <= _MATRIX_CLASSES
    return {
        "class_results": _most_errors_first(class_results(classes, confusion)),
        "matrix": confusion if as_table else None,
        "matrix_picture": None if as_table else _themed_uris(partial(draw_confusion, confusion, classes), dpi=96),
        "confusions": frequent_confusions(classes, confusion)[:_CONFUSIONS],
        "calibration_error": expected_calibration_error(data.calibration),
        "reliability": _themed_uris(partial(draw_reliability, data.calibration)),
    }


def _most_errors_first(results: Sequence[ClassResult]) -> list[ClassResult]:
    """Return the classes with the highest error first, and last those that have no pictures."""
    return sorted(results, key=lambda result: 2 if result.recall is None else result.recall)


def _kernels_by_tower(kernels: np.ndarray, towers: int) -> list[tuple[str, np.ndarray, int]]:
    """Return for each tower its name, its kernels as a picture (height, width, 4) uint8 RGBA, and kernels per row."""
    columns = min(KERNELS_PER_ROW, len(kernels) // towers)
    return [
        (name, tiles, columns) for name, tiles in zip(tower_names(towers), kernel_tiles(kernels, towers), strict=True)
    ]


def recipe_name(recipe: Recipe) -> str:
    """Return the name of a recipe, whatever its seed; "" if it is none of the named ones."""
    return next((name for name, make in RECIPES.items() if replace(make(), seed=recipe.seed) == recipe), "")


def differences_from_paper(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return where a recipe differs from the paper's: (field, the paper's value, this one's), as text."""
    return [(path, _format_value(old), _format_value(new)) for path, old, new in recipe_differences(Recipe(), recipe)]


# ---- Values as text -------------------------------------------------------------------------------------------------


def _format_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_format_value, value)) or "none"
    if isinstance(value, Mapping):
        parts = (f"{name} {_format_value(part)}" for name, part in value.items() if part is not None)
        return ", ".join(parts) or "none"
    return str(value)


def _format_percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f} %"


# ---- Pictures as data URIs ------------------------------------------------------------------------------------------


def _data_uri(contents: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(contents).decode()}"


def _themed_uris(draw: Callable[[Palette], Figure], dpi: int = 144) -> dict[str, str]:
    """Return a figure as PNG, for light and for dark pages."""
    return {
        theme: _data_uri(to_png(draw(palette), dpi), "image/png")
        for theme, palette in (("light", LIGHT), ("dark", DARK))
    }


def picture_uri(picture: np.ndarray) -> str:
    """Return a picture (height, width, 3 or 4) uint8 as a data URI: exactly if it is small, else as a small JPEG."""
    image = Image.fromarray(picture)
    file = io.BytesIO()
    if max(image.size) <= _SMALL_SIDE or image.mode == "RGBA":
        image.save(file, "PNG", optimize=True)
        return _data_uri(file.getvalue(), "image/png")
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    image.save(file, "JPEG", quality=85)
    return _data_uri(file.getvalue(), "image/jpeg")

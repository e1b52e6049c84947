"""Why a net names a class: a picture, the maps of what speaks for the class, and the nearest training pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alexnet.data.prepare.in_memory import Picture
from alexnet.results.attribution import (
    centre_crop,
    class_index,
    gradient_map,
    occlusion_map,
    overlay,
    size_and_stride,
)
from alexnet.results.classifier import Classifier
from alexnet.results.examples import Example
from alexnet.results.figures import LIGHT, Palette, draw_bars, new_figure, shorten_name
from alexnet.results.fonts import fit_name
from alexnet.results.nearest_pictures import NearestPicture, open_nearest_pictures

GUESSES = 5  # shown of each picture
_NEAREST = 6  # as in Figure 4
_SMALL_SIDE = 100  # pixels; of pictures up to this size the single pixels should be visible


@dataclass(frozen=True, eq=False)
class Explanation:
    """What speaks for a class in a picture.

    Args:
        picture: (H, W, 3) uint8, the centre view of the picture.
        label: The name of the class.
        occlusion: (H, W) float32, how much its probability falls where a grey square hides the picture.
        gradient: (H, W) float32, how steeply its log-probability changes with the pixels.
        nearest: The nearest training pictures; empty without an index.
    """

    picture: np.ndarray
    label: str
    occlusion: np.ndarray
    gradient: np.ndarray
    nearest: Sequence[NearestPicture]


@dataclass(frozen=True, eq=False)
class ExplainedExample:
    """A picture with both maps for its most probable class drawn over it.

    Args:
        example: The picture with the net's guesses.
        occlusion, gradient: (H, W, 3) uint8 each.
    """

    example: Example
    occlusion: np.ndarray
    gradient: np.ndarray


class Explainer:
    """The explanations of a classifier's predictions.

    Args:
        classifier: The classifier.
        run: The folder of its run, whose index has the training pictures; None to leave them out.
        label: The class that all explanations are about; by default the most probable one of each picture.
        size, stride: The square of the occlusion, in pixels, as for `occlusion_map`.

    Raises:
        ValueError: The net has no such class, or a number is out of range.
    """

    def __init__(
        self,
        classifier: Classifier,
        run: str | Path | None,
        *,
        label: str | None = None,
        size: int | None = None,
        stride: int | None = None,
    ) -> None:
        self._classifier, self._label = classifier, label
        if label is not None:
            class_index(classifier, label)
        self._square = size_and_stride(classifier.recipe.net.image_size, size, stride)
        self._nearest = None if run is None else open_nearest_pictures(run, classifier)

    def explain(self, picture: Picture, most_probable: str) -> Explanation:
        """Return the explanation for a picture.

        Args:
            picture: The picture, as for `Classifier.predict`.
            most_probable: The class that is explained if none was named for all pictures.
        """
        net, (size, stride) = self._classifier, self._square
        label = self._label or most_probable
        return Explanation(
            picture=centre_crop(net, picture),
            label=label,
            occlusion=occlusion_map(net, picture, label, size=size, stride=stride),
            gradient=gradient_map(net, picture, label),
            nearest=self._nearest.find(picture, _NEAREST) if self._nearest else [],
        )


def explain_examples(classifier: Classifier, examples: Sequence[Example]) -> list[ExplainedExample]:
    """Return pictures with both maps drawn over them, for the class that the net takes each picture for."""
    explainer = Explainer(classifier, None)
    explained = []
    for example in examples:
        explanation = explainer.explain(example.picture, example.guesses[0][0])
        maps = (overlay(explanation.picture, values) for values in (explanation.occlusion, explanation.gradient))
        explained.append(ExplainedExample(example, *maps))
    return explained


def draw_explanation(
    explanation: Explanation, guesses: Sequence[tuple[str, float]], palette: Palette = LIGHT
) -> Figure:
    """Draw a picture, both maps over it, the most probable classes, and the nearest training pictures.

    Args:
        explanation: The explanation.
        guesses: Up to five classes with their probabilities.
        palette: The colours.
    """
    nearest = explanation.nearest
    figure = new_figure(10.4, 5.1 if nearest else 3.2, palette)
    rows = figure.add_gridspec(2 if nearest else 1, 1, height_ratios=[3, 1.7] if nearest else None)
    upper = rows[0].subgridspec(1, 4)
    name = shorten_name(explanation.label)
    falls, slopes = explanation.occlusion, explanation.gradient
    panels = (
        (explanation.picture, "what the net sees", "one view, in the centre"),
        (overlay(explanation.picture, falls), f"occlusion: {name}", _describe_falls(falls)),
        (overlay(explanation.picture, slopes), f"gradient: {name}", "where pixels change log p most"),
    )
    for column, (picture, title, note) in enumerate(panels):
        axes = figure.add_subplot(upper[column])
        _show(axes, picture, palette)
        _write(axes, title, palette, above=True)
        _write(axes, note, palette)
    axes = figure.add_subplot(upper[3])
    texts = {label: f"{shorten_name(label)}: {probability:.1%}" for label, probability in guesses}
    bars = [(texts[label], probability) for label, probability in guesses]
    draw_bars(axes, bars, texts.get(explanation.label, ""), palette)
    axes.set_box_aspect(1)
    _write(axes, "most probable classes", palette, above=True)
    if nearest:
        lower = rows[1].subgridspec(1, _NEAREST)
        for column, neighbour in enumerate(nearest):
            axes = figure.add_subplot(lower[column])
            _show(axes, neighbour.picture, palette)
            _write(axes, f"{shorten_name(neighbour.label)}\n{neighbour.distance:.3g}", palette)
            if column == 0:
                _write(axes, "nearest training pictures, and their distances", palette, above=True)
    return figure


def _describe_falls(falls: np.ndarray) -> str:
    """Return the largest fall of the probability as text, in percentage points."""
    points = 100 * max(float(falls.max()), 0.0)
    return f"red: p falls by up to {points:.{2 if points < 1 else 1 if points < 10 else 0}f} points"


def _show(axes: Axes, picture: np.ndarray | None, palette: Palette) -> None:
    axes.set(xticks=[], yticks=[], facecolor=palette.background)
    axes.spines[:].set_visible(False)
    if picture is not None:
        axes.imshow(picture, interpolation="nearest" if len(picture) <= _SMALL_SIDE else "antialiased")


def _write(axes: Axes, text: str, palette: Palette, *, above: bool = False) -> None:
    """Write a heading above a panel, or a note below it; the text is no formula, whatever it contains."""
    text, families = fit_name(text)
    style: dict[str, Any] = {"color": palette.text, "fontsize": 9, "fontfamily": families, "parse_math": False}
    if above:
        axes.set_title(text, loc="left", fontweight="bold", **style)
    else:
        axes.set_xlabel(text, **style)

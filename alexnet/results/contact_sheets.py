"""Contact sheets of a store: pictures of its classes, and what augmentation makes of pictures (section 5.1)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results.examples import balanced_sample
from alexnet.results.fonts import set_name

_ROWS, _COLUMNS = 20, 10  # classes, and pictures of each
_AUGMENTED, _EPOCHS = 8, 7  # pictures, and epochs in which they are shown
_INCHES = 1.0  # side of a picture
_NAME_LENGTH = 24  # characters of a class name that are shown


def draw_classes(store: Store, *, seed: int = 0) -> Figure:
    """Draw up to ten pictures of each class, drawn at random; of twenty classes if there are more.

    Args:
        store: The pictures. Those of its first split are shown: "train", if there is one.
        seed: Seed of the draw.
    """
    split = store.split(store.splits[0])
    labels = np.unique(split.labels)
    shown = labels[np.linspace(0, len(labels) - 1, min(_ROWS, len(labels))).astype(int)]
    random = np.random.default_rng(seed)
    rows = []
    for label in shown.tolist():
        indices = np.flatnonzero(split.labels == label)
        chosen = np.sort(random.permutation(indices)[:_COLUMNS])
        rows.append([split.image(int(index)) for index in chosen])
    names = [f"{store.classes[label][:_NAME_LENGTH]}\n{int((split.labels == label).sum()):,}" for label in shown]
    some = f"{len(shown)} of {len(labels):,}" if len(shown) < len(labels) else f"{len(labels)}"
    return _draw_grid(rows, names, f"{some} classes and their numbers of {split.name} pictures")


def draw_augmentation(store: Store, recipe: Recipe, *, seed: int = 0) -> Figure:
    """Draw eight training pictures beside what the net gets of them in seven epochs (5.1).

    The mean activity is added again, so that the colours can be compared.

    Args:
        store: The pictures.
        recipe: The recipe whose crops, reflections and colour shifts are shown.
        seed: Seed of the choice of the pictures.

    Raises:
        ValueError: The store has no training pictures, or they are smaller than the recipe's crops.
    """
    split = store.split("train")
    chosen = balanced_sample(split.labels, _AUGMENTED, seed)
    loader = Loader(split, store.statistics, recipe, workers=0)
    mean = loader.mean_activity
    rows = [[split.image(int(index))] for index in chosen]
    for epoch in range(_EPOCHS):
        images, _, _ = next(loader.load([chosen], epoch))
        crops = images.permute(0, 2, 3, 1).numpy() * recipe.colour_divisor + mean
        for row, crop in zip(rows, np.clip(np.round(crops), 0, 255).astype(np.uint8), strict=True):
            row.append(crop)
    names = [store.classes[split.labels[index]][:_NAME_LENGTH] for index in chosen]
    side, crop_side = store.size, recipe.net.image_size
    title = f"{side} x {side} pixels of the store, and the {crop_side} x {crop_side} that the net gets in seven epochs"
    return _draw_grid(rows, names, title, ("stored", *(f"epoch {number}" for number in range(1, _EPOCHS + 1))))


def _draw_grid(
    rows: Sequence[Sequence[np.ndarray]], names: Sequence[str], title: str, headings: Sequence[str] = ()
) -> Figure:
    """Draw rows of pictures with a name to the left of each row, and a heading above each column."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(_INCHES * (columns + 1.8), _INCHES * (len(rows) + 0.6)), dpi=120)
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.05, "hspace": 0.05})
    for row_axes, pictures, name in zip(axes, rows, names, strict=True):
        for column, cell in enumerate(row_axes):
            cell.axis("off")
            if column < len(pictures):
                cell.imshow(pictures[column], interpolation="nearest")
        text = row_axes[0].text(-0.08, 0.5, "", transform=row_axes[0].transAxes, ha="right", va="center", fontsize=8)
        set_name(text, name)
    for cell, heading in zip(axes[0], headings, strict=False):
        cell.set_title(heading, fontsize=8, pad=3)
    figure.suptitle(title, fontsize=10, y=1 - 0.08 / (len(rows) + 0.6), va="top")
    figure.subplots_adjust(left=1.7 / (columns + 1.8), right=0.99, bottom=0.01, top=1 - 0.55 / (len(rows) + 0.6))
    return figure

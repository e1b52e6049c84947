"""Hold out a part of the pictures of each class to validate or test on, where a source has no splits of its own."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet.data.sources.base import SourceOptions, SourceSplit


def hold_out(
    path: Path, classes: Sequence[str], pictures: SourceSplit, options: SourceOptions
) -> dict[str, SourceSplit]:
    """Divide the pictures of each class at random into those to train on and those that are held out.

    The choice depends on the seed and the name of the class only, so it stays the same if another class is added.

    Args:
        path: The source, for messages.
        classes: The class names.
        pictures: All pictures of the source.
        options: `held_out` or `train_per_class`, and `seed`.

    Returns:
        The listings of "train" and "val", or with `train_per_class` of "train" and "test". Both are ordered by class.

    Raises:
        ValueError: There are too few pictures in a class.
    """
    counts = np.bincount(pictures.labels, minlength=len(classes)).tolist()
    train_counts = _count_training_pictures(path, classes, counts, options)
    indices_by_class = np.split(np.argsort(pictures.labels, kind="stable"), np.cumsum(counts)[:-1])
    train, held_out = [], []
    for name, indices, train_count in zip(classes, indices_by_class, train_counts, strict=True):
        generator = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
        order = generator.permutation(len(indices))
        train.append(indices[np.sort(order[:train_count])])
        held_out.append(indices[np.sort(order[train_count:])])
    return {
        "train": pictures.take(np.concatenate(train)),
        "val" if options.train_per_class is None else "test": pictures.take(np.concatenate(held_out)),
    }


def _count_training_pictures(
    path: Path, classes: Sequence[str], counts: Sequence[int], options: SourceOptions
) -> list[int]:
    """Return how many of the `counts` pictures of each class are trained on."""
    if options.train_per_class is None:
        if max(counts) < 2:
            raise ValueError(
                f"{path}: a class must have at least 2 pictures, so that one can be held out as val; got 1 in each "
                "class: add pictures, or put them into a train/ and a val/ folder"
            )
        return [count - min(max(1, round(options.held_out * count)), count - 1) for count in counts]
    for name, count in zip(classes, counts, strict=True):
        if count <= options.train_per_class:
            raise ValueError(
                f"{path}: class {name!r} has {count} pictures, so train_per_class={options.train_per_class} leaves "
                f"none to test on; choose at most {min(counts) - 1}"
            )
    return [options.train_per_class] * len(counts)

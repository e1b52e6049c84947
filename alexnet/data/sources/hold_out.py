"""Hold out a part of the pictures of each class to validate or test on, where a source has no splits of its own."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alexnet.data.sources.base import SourceOptions, SourceSplit
from alexnet.data.store.format import SPLITS


def hold_out(
    path: Path, classes: Sequence[str], pictures: SourceSplit, options: SourceOptions
) -> dict[str, SourceSplit]:
    """Divide the pictures of each class at random into those to train on and those that are held out.

    The choice depends on the seed and the name of the class only, so it stays the same if another class is added.

    Args:
        path: The source, for messages.
        classes: The class names.
        pictures: All pictures of the source.
        options: `held_out` and `test`, or `train_per_class`; and `seed`.

    Returns:
        The listings of "train", "val" and "test", without those that get no pictures. Each is ordered by class.

    Raises:
        ValueError: There are too few pictures in a class.
    """
    counts = np.bincount(pictures.labels, minlength=len(classes))
    split_counts = _count_pictures(path, classes, counts, options)
    indices_by_class = np.split(np.argsort(pictures.labels, kind="stable"), np.cumsum(counts)[:-1])
    drawn: dict[str, list[np.ndarray]] = {split: [] for split in split_counts}
    for label, (name, indices) in enumerate(zip(classes, indices_by_class, strict=True)):
        generator = np.random.default_rng([options.seed or 0, zlib.crc32(name.encode())])
        ends = np.cumsum([split_counts[split][label] for split in split_counts])
        for split, chosen in zip(split_counts, np.split(generator.permutation(len(indices)), ends[:-1]), strict=True):
            drawn[split].append(indices[np.sort(chosen)])
    splits = {split: np.concatenate(drawn[split]) for split in SPLITS if split in drawn}
    used = {split: indices for split, indices in splits.items() if len(indices)}
    return {split: replace(pictures.take(indices), is_drawn=len(used) > 1) for split, indices in used.items()}


def _count_pictures(
    path: Path, classes: Sequence[str], counts: np.ndarray, options: SourceOptions
) -> dict[str, np.ndarray]:
    """Return how many of the `counts` pictures of each class become part of each split, in the order of the draw."""
    if options.only_tests:
        return {"test": counts}
    if options.train_per_class is not None:
        return _count_training_pictures(path, classes, counts, options.train_per_class)
    least = 1 + (options.validation_share > 0) + (options.test_share > 0)
    if counts.max() < least:
        shares = {"val": options.validation_share, "test": options.test_share}
        names = " and ".join(name for name, share in shares.items() if share > 0)
        raise ValueError(
            f"{path}: a class must have at least {least} pictures, so that one can be held out as {names}; got at most "
            f"{counts.max()} in each class: add pictures, put them into a train/ and a val/ folder, or train on all "
            "with `held_out=0`"
        )
    val = _count_share(options.validation_share, counts, counts - 1)
    test = _count_share(options.test_share, counts, counts - 1 - val)
    # "val" comes last, so that its pictures are the same with and without "test".
    return {"train": counts - val - test, "test": test, "val": val}


def _count_share(share: float, counts: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Return the number of pictures of each class that a share is: at least one, at most `most`; none if it is 0."""
    if share == 0:
        return np.zeros_like(counts)
    return np.asarray(np.minimum(np.maximum(1, np.round(share * counts)), most).astype(np.int64))


def _count_training_pictures(
    path: Path, classes: Sequence[str], counts: np.ndarray, train_per_class: int
) -> dict[str, np.ndarray]:
    """Return how many pictures of each class become "train" and "test" if the first number is the same for all."""
    for name, count in zip(classes, counts.tolist(), strict=True):
        if count <= train_per_class:
            raise ValueError(
                f"{path}: class {name!r} has {count} pictures, so train_per_class={train_per_class} leaves none to "
                f"test on; choose at most {counts.min() - 1}"
            )
    train = np.full_like(counts, train_per_class)
    return {"train": train, "test": counts - train}

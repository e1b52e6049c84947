"""The splits of a source whose pictures have labels: what they must have, and what is held out of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alexnet.data.sources.base import SourceOptions, SourceSplit
from alexnet.data.sources.hold_out import hold_out
from alexnet.utils.console import note_once


def count_pictures(classes: Sequence[str], splits: Mapping[str, SourceSplit]) -> dict[str, dict[str, int]]:
    """Return the number of pictures of each class, by split. Classes without pictures are listed in the first split."""
    first, *_ = splits
    counts = {}
    for split, pictures in splits.items():
        numbers = np.bincount(pictures.labels, minlength=len(classes)).tolist()
        counts[split] = {name: n for name, n in zip(classes, numbers, strict=True) if n or split == first}
    return counts


def divide(
    path: Path, classes: tuple[str, ...], splits: dict[str, SourceSplit], options: SourceOptions
) -> dict[str, SourceSplit]:
    """Return the splits of a source, of which some pictures are held out if there are none but those of train.

    Args:
        path: The source, for messages.
        classes: The class names.
        splits: The listing of each split that the source has.
        options: How to divide the pictures.

    Raises:
        ValueError: `train_per_class` does not suit the source, or there are too few pictures to hold some out.
    """
    if list(splits) == ["train"]:
        return hold_out(path, classes, splits["train"], options)
    others = " and ".join(split for split in splits if split != "train")
    options.refuse("train_per_class", path, f"it has a {others} split of its own")
    return splits


def check_classes(path: Path, counts: Mapping[str, Mapping[str, int]], options: SourceOptions, remedy: str) -> None:
    """Check that all splits have classes of train only, that train has at least two, and that none of them is empty.

    If there is no train, the first split has all classes.

    Args:
        path: The source, for messages.
        counts: Number of pictures of each class, by split.
        options: A source that is only tested on may have a single class.
        remedy: What to do if there are too few classes.
    """
    first, *_ = counts
    classes = counts[first]
    for split, by_class in counts.items():
        with_pictures = {name for name, count in by_class.items() if count}
        extra, missing = sorted(with_pictures - classes.keys()), sorted(classes.keys() - by_class.keys())
        if extra and classes:
            differences = [f"only in {split}: {', '.join(extra[:5])}"]
            differences += [f"only in {first}: {', '.join(missing[:5])}"] if missing else []
            raise ValueError(
                f"{path}: {first} and {split} have different classes ({'; '.join(differences)}); make them the same"
            )
    for split, by_class in counts.items():
        least = 2 if split == "train" and not options.only_tests else 1
        if len(by_class) < least:
            place = "" if len(counts) == 1 else f" in {split}"
            raise ValueError(f"{path}: {len(by_class)} classes{place}, at least {least} needed; {remedy}")
        empty = [name for name in classes if not by_class.get(name)]
        if empty and split == first:
            place = " from all splits" if len(counts) > 1 else ""
            raise ValueError(
                f"{path}: class {empty[0]!r} has no pictures in {first}; add some or remove the class{place}"
            )
        if empty:
            others = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            note_once(f"{path}: {split} has no pictures of {', '.join(map(repr, empty[:5]))}{others}")

"""Check pictures before a long training: counts, odd files, sizes, duplicates, suspect labels, time and disk."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from alexnet.data.prepare.duplicates import group_duplicates, picture_hashes
from alexnet.data.prepare.estimate import PrepareEstimate, estimate_preparing
from alexnet.data.prepare.on_demand import StoreLocation, are_pictures
from alexnet.data.sources.base import SourceOptions
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results.checked_pictures import CheckedPictures, SourcePictures, StorePictures, locate, read_chunks
from alexnet.results.mislabelled import Guesses, find_mislabelled
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.estimate import TrainingEstimate, estimate_training
from alexnet.training.inference import predict_pictures
from alexnet.utils.device import choose_device

_ELONGATED = 2.0  # a picture that is longer than this many times its shorter side loses more than half in its square


@dataclass(frozen=True, eq=False)
class PictureCheck:
    """What `alexnet check` has found.

    Args:
        pictures: The pictures.
        counts: For each split (classes,) int64, the number of readable pictures.
        sides: (N, 2) int64, width and height of the files; none for a store.
        unreadable: The name of each file that is not a readable picture, and the reason.
        groups: For each photograph that several pictures show their numbers.
        guesses: What the run says about the readable pictures; None without a run.
        numbers: (N,) int64, the numbers of the readable pictures.
        suspects: (n,) int64, the positions of pictures in `numbers` that the run takes for mislabelled.
        preparing: What preparing them will take; None for a store.
        free_bytes: Room on the disk of the current folder.
        training: What training on them will take; None if there are no training pictures.
        recipe_name: The recipe of that training.
    """

    pictures: CheckedPictures
    counts: dict[str, np.ndarray]
    sides: np.ndarray
    unreadable: list[tuple[str, str]]
    groups: Sequence[np.ndarray]
    guesses: Guesses | None
    numbers: np.ndarray
    suspects: np.ndarray
    preparing: PrepareEstimate | None
    free_bytes: int
    training: TrainingEstimate | None
    recipe_name: str

    def describe_picture(self, number: int) -> dict[str, str]:
        """Return the name, the split and the class of a picture."""
        split, index = locate(self.pictures, number)
        name = self.pictures.classes[self.pictures.labels[number]]
        return {"image": self.pictures.picture_name(split, index), "split": split, "class": name}

    def duplicates(self) -> list[list[dict[str, str]]]:
        """Return the pictures of each photograph that several show."""
        return [[self.describe_picture(int(number)) for number in group] for group in self.groups]

    def mislabelled(self) -> list[dict[str, Any]]:
        """Return the pictures that the run takes for mislabelled, with its guess."""
        entries = []
        for position in self.suspects.tolist():
            assert self.guesses is not None
            entry: dict[str, Any] = self.describe_picture(int(self.numbers[position]))
            entry["probability"] = float(self.guesses.label_probabilities[position])
            entry["guess"] = self.pictures.classes[self.guesses.classes[position]]
            entry["guess_probability"] = float(self.guesses.probabilities[position])
            entries.append(entry)
        return entries

    def class_totals(self) -> np.ndarray:
        """Return the number of readable pictures of each class in all splits, (classes,)."""
        return np.asarray(sum(self.counts.values()))

    def size_summary(self) -> dict[str, Any] | None:
        """Return what there is to say about the sizes of the files; None for a store."""
        if not self.sides.any():
            return None
        shorter, longer = self.sides.min(1), self.sides.max(1)
        order = np.argsort(self.sides.prod(1), kind="stable")
        return {
            "smallest": self.sides[order[0]].tolist(),
            "median": self.sides[order[len(order) // 2]].tolist(),
            "largest": self.sides[order[-1]].tolist(),
            "enlarged": int((shorter < self.pictures.size).sum()),
            "elongated": int((longer > _ELONGATED * shorter).sum()),
        }


def check_pictures(
    location: StoreLocation,
    run: str | Path | None = None,
    *,
    recipe: Recipe,
    recipe_name: str,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> PictureCheck:
    """Check the pictures of a source or a store.

    Args:
        location: A store, or anything that `prepare` takes.
        run: A run whose net guesses the classes of the pictures.
        recipe: The recipe of the training that is planned, whose store_size is the size of the squares, too.
        recipe_name: Its name.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        progress: Whether to show a bar on standard error if that is a terminal.

    Raises:
        ValueError: The pictures cannot be read at all, or the run has not all of their classes.
        FileNotFoundError: There are none, or the run has no trained net.
    """
    checkpoint = None if run is None else load_best(Path(run))
    if checkpoint is not None:
        checkpoint.require_classes()
    size = recipe.store_size if checkpoint is None else checkpoint.recipe.store_size
    source = None
    if are_pictures(location):
        source = open_source(Path(str(location)), SourceOptions())
        pictures: CheckedPictures = SourcePictures(source, size)
    else:
        pictures = StorePictures(location if isinstance(location, Store) else Store(location))
    chosen = choose_device(device)
    labels_in_run = None if checkpoint is None else _find_labels(pictures, checkpoint)
    found = _examine(pictures, checkpoint, labels_in_run, chosen, progress)
    counts = _count_classes(pictures, found.numbers)
    train_count, others = (int(counts[name].sum()) if name in counts else 0 for name in ("train", "val"))
    return PictureCheck(
        pictures,
        counts,
        found.sides,
        found.unreadable,
        [found.numbers[group] for group in group_duplicates(found.hashes)],
        found.guesses,
        found.numbers,
        np.zeros(0, np.int64) if found.guesses is None else find_mislabelled(found.guesses),
        None if source is None else estimate_preparing(source, size),
        shutil.disk_usage(Path.cwd()).free,
        estimate_training(recipe, len(pictures.classes), train_count, others, chosen) if train_count else None,
        recipe_name,
    )


@dataclass(eq=False)
class _Examined:
    """What one pass through the pictures finds; as in `PictureCheck`, and the hashes (N, 4) of readable pictures."""

    numbers: np.ndarray
    sides: np.ndarray
    hashes: np.ndarray
    unreadable: list[tuple[str, str]]
    guesses: Guesses | None


def _find_labels(pictures: CheckedPictures, checkpoint: Checkpoint) -> np.ndarray:
    """Return the position of each class of the pictures among those of a run."""
    positions = {name: position for position, name in enumerate(checkpoint.classes)}
    unknown = [name for name in pictures.classes if name not in positions]
    if unknown:
        raise ValueError(
            f"{pictures.name}: its classes must be among the run's {len(positions)}; got {unknown[0]!r}: leave `run` "
            "out, or name a run with these classes"
        )
    return np.array([positions[name] for name in pictures.classes], np.int64)


def _examine(
    pictures: CheckedPictures,
    checkpoint: Checkpoint | None,
    labels_in_run: np.ndarray | None,
    device: torch.device,
    progress: bool,
) -> _Examined:
    """Read all pictures once, hash them, and let the net guess their classes."""
    numbers, sides, hashes, guesses = list[np.ndarray](), list[np.ndarray](), list[np.ndarray](), list[Guesses]()
    unreadable = list(pictures.skipped)
    net = None if checkpoint is None else checkpoint.net().to_channels_last(device)
    shown = progress and sys.stderr.isatty()
    total = len(pictures.labels)
    with (
        closing(read_chunks(pictures)) as chunks,
        tqdm(total=total, desc="checking", unit=" pictures", leave=False, disable=not shown) as bar,
    ):
        for chunk in chunks:
            numbers.append(chunk.numbers)
            sides.append(chunk.sides)
            hashes.append(picture_hashes(chunk.squares))
            for number, reason in chunk.unreadable:
                unreadable.append((pictures.picture_name(*locate(pictures, number)), reason))
            if net is not None and checkpoint is not None and len(chunk.numbers):
                mean, recipe = checkpoint.statistics.mean, checkpoint.recipe
                predicted = predict_pictures(net, list(chunk.squares), mean, recipe, 1).numpy()[:, labels_in_run]
                guesses.append(Guesses.from_probabilities(predicted, pictures.labels[chunk.numbers]))
            bar.update(len(chunk.numbers) + len(chunk.unreadable))
    all_numbers = np.concatenate(numbers)
    if not len(all_numbers):
        raise ValueError(f"{pictures.name}: none of its {total:,} files is a readable picture; look at some of them")
    all_guesses = Guesses.concatenate(guesses) if guesses else None
    return _Examined(all_numbers, np.concatenate(sides), np.concatenate(hashes), unreadable, all_guesses)


def _count_classes(pictures: CheckedPictures, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each split (classes,) int64, the number of pictures of each class among some pictures."""
    ends = np.cumsum([0, *pictures.splits.values()])
    labels = pictures.labels[numbers]
    splits = np.searchsorted(ends, numbers, side="right") - 1
    return {
        name: np.bincount(labels[splits == position], minlength=len(pictures.classes))
        for position, name in enumerate(pictures.splits)
    }

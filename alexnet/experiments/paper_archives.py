"""The paper's pictures as they are downloaded: what is there and missing, what all of it will take, and the store."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from alexnet.data.prepare.estimate import PrepareEstimate, estimate_preparing
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources import imagenet, imagenet_release
from alexnet.data.sources.base import SourceOptions
from alexnet.data.sources.imagenet_archives import find_imagenet_archives
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.format import STATISTICS_FILE
from alexnet.data.store.store import Store
from alexnet.experiments.paper_datasets import PaperDataset
from alexnet.recipe import Recipe
from alexnet.training.estimate import estimate_training
from alexnet.utils.console import format_bytes, format_duration

_SPARE_DISK = 1.02  # times what is needed


def are_archives(path: str | Path) -> bool:
    """Return whether ImageNet's archives are at `path`, and not a store."""
    local = Path(path)
    if "://" in str(path) or not local.exists() or (local / STATISTICS_FILE).exists():
        return False
    return imagenet.matches(local) or imagenet_release.matches(local)


class PaperArchives:
    """ImageNet's archives, as the pictures of an experiment.

    Args:
        path: The folder of the archives, or one of them.
        dataset: The set that the paper used.

    Attributes:
        classes: The number of classes.
        counts: The number of pictures of each split.

    Raises:
        ValueError: An archive is missing or damaged.
    """

    def __init__(self, path: Path, dataset: PaperDataset) -> None:
        self._path = path
        if find_imagenet_archives(path) is None:
            self._options = SourceOptions(dataset.held_out, dataset.train_per_class, test=dataset.test)
        else:
            self._options = SourceOptions()  # a challenge has splits of its own
        self._source = open_source(path, self._options)
        self.classes = len(self._source.classes)
        self.counts = {split: len(pictures) for split, pictures in self._source.splits.items()}

    def prepare(
        self, folder: Path, size: int, trainings: Mapping[str, Recipe], device: str | None, workers: int | None = None
    ) -> Store:
        """Prepare the store, or resume it; before, say what is there and missing, and what all of it will take.

        Args:
            folder: The folder for the stores of several experiments.
            size: The side of the stored pictures, in pixels.
            trainings: The recipe of each net to be trained on the store, by name.
            device: The device to train on.
            workers: The number of threads that prepare.

        Returns:
            The store. It is raw, or JPEG if the disk has no room for a raw one.

        Raises:
            ValueError: The disk has no room for a JPEG store either.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = {
            encoding: folder / f"{self._source.name.removesuffix('.tar')}-{size}{suffix}"
            for encoding, suffix in (("raw", ""), ("jpeg", "-jpeg"))
        }
        encoding = next((name for name, path in paths.items() if path.exists()), None)
        if encoding is None or not (paths[encoding] / STATISTICS_FILE).exists():
            for line in self._describe_files():
                print(line, file=sys.stderr)
            estimate = estimate_preparing(self._source, size, workers)
            encoding = encoding or _choose_encoding(folder, estimate)
            for line in self._describe_cost(paths[encoding], encoding, estimate, trainings, device):
                print(line, file=sys.stderr)
        prepare(
            self._source,
            paths[encoding],
            size=size,
            encoding=encoding,
            held_out=self._options.held_out,
            test=self._options.test,
            train_per_class=self._options.train_per_class,
            workers=workers,
        )
        return Store(paths[encoding])

    def _describe_files(self) -> list[str]:
        """Return lines that say what is there, what is missing, and what is not used."""
        counts = ", ".join(f"{split} {count:,}" for split, count in self.counts.items())
        archives = find_imagenet_archives(self._path)
        name = f"ILSVRC-{archives.year}" if archives is not None and archives.year else "ImageNet's archives by synset"
        lines = [f"{name}: {self.classes:,} classes, pictures: {counts}"]
        if archives is not None:
            lines.append("there: " + ", ".join(path.name for path in archives.present.values()))
            if archives.missing:
                lines.append("missing: " + ", ".join(archives.missing.values()))
        ignored = [f"{count:,} {what}" for what, count in sorted(self._source.ignored.items())]
        return [*lines, *([f"not used: {', '.join(ignored)}"] if ignored else [])]

    def _describe_cost(
        self, store: Path, encoding: str, estimate: PrepareEstimate, trainings: Mapping[str, Recipe], device: str | None
    ) -> list[str]:
        """Return lines that say how long all of it will take, and how much disk."""
        disk = estimate.raw_bytes if encoding == "raw" else estimate.jpeg_bytes
        free = shutil.disk_usage(store.parent).free
        lines = [
            "what it will take here, judged by a few pictures and steps:",
            f"prepare: about {format_duration(estimate.seconds)}, {format_bytes(disk)} as {encoding} in {store} "
            f"({format_bytes(free)} are free)",
        ]
        val_count = self.counts.get("val", self.counts.get("test", 0))
        if not trainings:
            return [*lines, "train: not estimated for this experiment"]
        alike = {replace(recipe, seed=0).to_json(): recipe for recipe in trainings.values()}  # seeds take equally long
        estimates = {
            key: estimate_training(recipe, self.classes, self.counts["train"], val_count, device)
            for key, recipe in alike.items()
        }
        costs = {name: estimates[replace(recipe, seed=0).to_json()] for name, recipe in trainings.items()}
        nets = ", ".join(f"{name} {format_duration(cost.seconds)}" for name, cost in costs.items())
        run_bytes = sum(cost.disk_bytes for cost in costs.values())
        seconds = estimate.seconds + sum(cost.seconds for cost in costs.values())
        return [
            *lines,
            f"train: about {nets}; {format_bytes(run_bytes)}",
            f"in all: about {format_duration(seconds)}, {format_bytes(disk + run_bytes)}",
        ]


def _choose_encoding(folder: Path, estimate: PrepareEstimate) -> str:
    """Return "raw" if the disk has room for a raw store, else "jpeg"."""
    free = shutil.disk_usage(folder).free
    for encoding, needed in (("raw", estimate.raw_bytes), ("jpeg", estimate.jpeg_bytes)):
        if _SPARE_DISK * needed <= free:
            return encoding
    raise ValueError(
        f"{folder}: the pictures need {format_bytes(estimate.jpeg_bytes)} as JPEG, "
        f"{format_bytes(estimate.raw_bytes)} raw, and {format_bytes(free)} are free on that disk; free some space, or "
        "choose another disk with `folder`"
    )

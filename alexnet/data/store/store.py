"""A prepared set of pictures, in a folder or in an object store."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from alexnet.data.store.base import Split, StoreBackend
from alexnet.data.store.local import LocalBackend
from alexnet.data.store.location import StoreURL, parse_location
from alexnet.data.store.remote import RemoteBackend
from alexnet.data.store.statistics import Statistics


def _open_backend(path: str | Path) -> StoreBackend:
    """Open the files of a store: a folder on this machine, or a URL."""
    location = parse_location(path)
    return RemoteBackend(location) if isinstance(location, StoreURL) else LocalBackend(location)


class Store:
    """A prepared set of pictures.

    Args:
        path: The folder that `prepare` wrote, or the URL of a copy of it (s3://bucket/folder).

    Attributes:
        path: The same, as a Path or a StoreURL.
        size: The side of the pictures, in pixels.
        encoding: "raw" or "jpeg".
        classes: The class names; a label is an index into them.
        class_ids: The contest's numbers of the classes, if the source says them; else None.
        splits: The names of the splits.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is not a store, not completely prepared, damaged, or of another format.
        OSError: It is remote and cannot be reached.
    """

    def __init__(self, path: str | Path) -> None:
        self._backend = _open_backend(path)
        info = self._backend.info
        self.path, self.size, self.encoding, self.classes = info.path, info.size, info.encoding, info.classes
        self.class_ids = info.class_ids
        self.splits = tuple(info.counts)
        self._opened_splits: dict[str, Split] = {}

    @cached_property
    def statistics(self) -> Statistics:
        """The mean activity and the principal components of the colours of the training pictures."""
        return self._backend.read_statistics()

    def __repr__(self) -> str:
        counts = "".join(f", {name}={count}" for name, count in self._backend.info.counts.items())
        classes = len(self.classes)
        return f"Store({str(self.path)!r}, size={self.size}, encoding={self.encoding!r}, classes={classes}{counts})"

    def split(
        self,
        name: str,
        *,
        transform: Callable[[Image.Image], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> Split:
        """Return one split of the store, a map-style data set of torch: `split[index]` is a picture and its label.

        Args:
            name: One of `splits`.
            transform: Makes what `split[index]` returns of a PIL picture, as torchvision's and timm's transforms do. By
                default it is a tensor (3, size, size) uint8.
            target_transform: Makes what `split[index]` returns of a label; by default it is the label.

        Raises:
            ValueError: There is no split of that name, or some of its pictures are missing.
        """
        if name not in self.splits:
            raise ValueError(f"{self.path}: no split {name!r}; it has {', '.join(self.splits)}: choose one of these")
        if name not in self._opened_splits:
            split = self._backend.open_split(name, (name,))
            count = self._backend.info.counts[name]
            if len(split) != count:
                raise ValueError(
                    f"{self.path}: split {name!r} has {len(split)} of {count} pictures; "
                    "remove the store and prepare it again"
                )
            self._opened_splits[name] = split
        return self._opened_splits[name].with_transforms(transform, target_transform)

    def train_and_val(self) -> Split:
        """Return the training pictures and the validation pictures as one split.

        Raises:
            ValueError: There are no validation pictures.
        """
        parts = ("train", "val")
        for part in parts:
            self.split(part)  # raises an error if pictures are missing
        name = "+".join(parts)
        if name not in self._opened_splits:
            self._opened_splits[name] = self._backend.open_split(name, parts)
        return self._opened_splits[name].with_transforms(None)

    def validation(self) -> Split:
        """Return the pictures to test on during training: the split "val" if there is one, else "test".

        Raises:
            ValueError: The store has neither.
        """
        for name in ("val", "test"):
            if name in self.splits:
                return self.split(name)
        raise ValueError(f"{self.path}: it must have val or test pictures; it has train only: prepare the source again")

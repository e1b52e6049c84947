"""What every store has, wherever its files are: splits of pictures, and the backend that reads them."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, SupportsIndex

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.location import StoreURL
from alexnet.data.store.statistics import Statistics


class Split(Dataset[tuple[Any, Any]], ABC):
    """One split of a store: its pictures, labels and names, by index. It is a map-style data set of torch.

    `split[index]` is a picture and its label: (3, size, size) uint8, RGB, and an int. With a transform, it is what the
    transform makes of the picture as a PIL picture. Any number of threads may read from a split at once, and a
    `torch.utils.data.DataLoader` with any number of worker processes: they open the store again.

    Args:
        name: "train", "val", "test" or "train+val".
        info: What the store says about itself.
        labels: (N,) int64.
        batch_sizes: (B,) the number of pictures in each record batch of the shards, in order.
        open_again: Opens the same split, in another process.

    Attributes:
        size: The side of the pictures, in pixels.
        classes: The class names; a label is an index into them.
        transform: Makes what `split[index]` returns of a PIL picture; None for a tensor of its pixels.
        target_transform: Makes what `split[index]` returns of a label; None for the label.
    """

    def __init__(
        self,
        name: str,
        info: "StoreInfo",
        labels: np.ndarray,
        batch_sizes: Sequence[int] | np.ndarray,
        open_again: "Callable[[], Split]",
    ) -> None:
        self.name, self.size, self.classes, self.labels = name, info.size, info.classes, labels
        self.transform: Callable[[Image.Image], Any] | None = None
        self.target_transform: Callable[[int], Any] | None = None
        self._location, self._open_again = info.path, open_again
        self._batch_starts = np.cumsum([0, *batch_sizes])

    def __len__(self) -> int:
        return int(self._batch_starts[-1])

    def __getitem__(self, index: SupportsIndex) -> tuple[Any, Any]:
        """Return a picture and its label; a negative index counts from the end."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[tuple[Any, Any]]:
        """Return several pictures with their labels, as DataLoader asks for a batch; a remote store reads all at once.

        Raises:
            TypeError: An index is no whole number, such as a slice.
            IndexError: An index is out of range.
        """
        positions = [self._position(index) for index in indices]
        labels: list[Any] = self.labels[positions].tolist()
        if self.target_transform is not None:
            labels = [self.target_transform(label) for label in labels]
        return list(zip(map(self._transformed, self.images(positions)), labels, strict=True))

    def __repr__(self) -> str:
        return (
            f"Split({self.name!r}, store={str(self._location)!r}, pictures={len(self)}, size={self.size}, "
            f"classes={len(self.classes)})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle how to open the split, without its pictures."""
        return _unpickle, (self._open_again, self.transform, self.target_transform)

    def with_transforms(
        self, transform: Callable[[Image.Image], Any] | None, target_transform: Callable[[int], Any] | None = None
    ) -> Self:
        """Return the same split with other transforms; both read the same files."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), transform=transform, target_transform=target_transform)
        return other

    def _position(self, index: SupportsIndex) -> int:
        """Return an index from 0 for one that may be negative."""
        try:
            number = operator.index(index)
        except TypeError as error:
            raise TypeError(
                f"the index of a picture must be a whole number; got {index!r}: torch.utils.data.Subset takes several"
            ) from error
        if not -len(self) <= number < len(self):
            raise IndexError(f"picture {number} is out of range: split {self.name!r} has {len(self)}")
        return number % len(self)

    def _transformed(self, picture: np.ndarray) -> Any:
        """Return what `split[index]` has of a picture (size, size, 3) uint8."""
        if self.transform is not None:
            return self.transform(Image.fromarray(picture))
        return torch.from_numpy(np.array(picture.transpose(2, 0, 1), order="C"))  # a copy: it may be read-only

    @abstractmethod
    def picture_name(self, index: int) -> str:
        """Return the name of a picture: its path within the source."""

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Return a picture as (size, size, 3) uint8 RGB. It may be read-only."""

    @abstractmethod
    def images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield several pictures, as `image` returns them. A remote store requests all of them at once."""

    @abstractmethod
    def memory_addresses(self, indices: np.ndarray) -> np.ndarray | None:
        """Return the memory addresses of raw pictures, valid as long as this object lives.

        Args:
            indices: (N,) int64.

        Returns:
            (N,) uint64, the addresses of size * size * 3 bytes each; None if the pictures are not raw in memory.
        """

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the number of the record batch that holds a picture, and the row of the picture in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} is out of range: split {self.name!r} has {len(self)}")
        batch = int(np.searchsorted(self._batch_starts, index, side="right")) - 1
        return batch, index - int(self._batch_starts[batch])


@dataclass(frozen=True)
class StoreInfo:
    """What a store says about itself.

    Attributes:
        path: The folder or the URL.
        size: The side of the pictures, in pixels.
        encoding: "raw" or "jpeg".
        classes: The class names; a label is an index into them.
        counts: The number of pictures of each split, by the name of the split.
        class_ids: The contest's numbers of the classes, if the source says them; else None.
    """

    path: Path | StoreURL
    size: int
    encoding: str
    classes: tuple[str, ...]
    counts: dict[str, int]
    class_ids: ClassIds | None = None


class StoreBackend(Protocol):
    """The access to the files of a store: `LocalBackend` for a folder, `RemoteBackend` for a URL.

    It can be pickled.
    """

    info: StoreInfo

    def read_statistics(self) -> Statistics:
        """Return the statistics of the training pictures."""
        ...

    def open_split(self, name: str, parts: Sequence[str]) -> Split:
        """Return a split with the pictures of one or several splits of the store, one after another.

        Args:
            name: The name of the new split.
            parts: The names of the splits that it consists of.
        """
        ...


def _unpickle(
    open_split: Callable[[], Split],
    transform: Callable[[Image.Image], Any] | None,
    target_transform: Callable[[int], Any] | None,
) -> Split:
    """Return the split that was pickled."""
    return open_split().with_transforms(transform, target_transform)

"""What every store has, wherever its files are: splits of pictures, and the backend that reads them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.location import StoreURL
from alexnet.data.store.statistics import Statistics


class Split(ABC):
    """One split of a store: its pictures, labels and names, by index.

    Any number of threads may read from it at once.

    Args:
        name: "train", "val", "test" or "train+val".
        size: The side of the pictures, in pixels.
        labels: (N,) int64.
        batch_sizes: (B,) the number of pictures in each record batch of the shards, in order.
    """

    def __init__(self, name: str, size: int, labels: np.ndarray, batch_sizes: Sequence[int] | np.ndarray) -> None:
        self.name, self.size, self.labels = name, size, labels
        self._batch_starts = np.cumsum([0, *batch_sizes])

    def __len__(self) -> int:
        return int(self._batch_starts[-1])

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
    """The access to the files of a store: `LocalBackend` for a folder, `RemoteBackend` for a URL."""

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

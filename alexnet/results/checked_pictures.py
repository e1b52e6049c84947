"""The pictures of a source or of a store, numbered through all splits and read in chunks, for `alexnet check`."""

import io
import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from alexnet.data.prepare.decode import read_image
from alexnet.data.sources.base import Source, printable_name
from alexnet.data.store.format import SKIPPED_FILE
from alexnet.data.store.store import Store
from alexnet.utils.cores import available_cores
from alexnet.utils.prefetch import prefetch

_CHUNK = 32  # pictures that a thread reads at a time


class CheckedPictures(Protocol):
    """Pictures with their classes.

    Attributes:
        name: The name of the source, or the path of the store.
        classes: The class names.
        size: Side of the squares, in pixels.
        splits: The number of pictures of each split.
        labels: (N,) int64, the class of each picture, split after split.
        is_drawn: Whether `prepare` draws the splits, since the source has none of its own.
        ignored: Number of files that are not used, by the ending of their names or the reason.
        skipped: The name of each file that was skipped when the store was prepared, and the reason.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    splits: dict[str, int]
    labels: np.ndarray
    is_drawn: bool
    ignored: dict[str, int]
    skipped: list[tuple[str, str]]

    def picture_name(self, split: str, index: int) -> str:
        """Return the name of a picture: its path within the source."""
        ...

    def read(self, split: str, index: int) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Return the square of a picture, (size, size, 3) uint8, and the width and height of its file if known.

        Raises:
            ValueError, OSError: It is not a readable picture.
        """
        ...


class SourcePictures:
    """The pictures of a source, as squares of a size."""

    def __init__(self, source: Source, size: int) -> None:
        self.name, self.classes, self.ignored = source.name, source.classes, source.ignored
        self.size = source.size or size
        self.splits = {name: len(split) for name, split in source.splits.items()}
        self.labels = np.concatenate([split.labels for split in source.splits.values()]).astype(np.int64)
        self.is_drawn = any(split.is_drawn for split in source.splits.values())
        self.skipped: list[tuple[str, str]] = []
        self._source = source

    def picture_name(self, split: str, index: int) -> str:
        """Return the name of a picture: its path within the source."""
        return printable_name(self._source.splits[split].picture_name(index))

    def read(self, split: str, index: int) -> tuple[np.ndarray, tuple[int, int] | None]:
        """Return the square of a picture, and the width and height of its file."""
        data = self._source.read(split, index)
        if isinstance(data, np.ndarray):
            return data, (data.shape[1], data.shape[0])
        square = read_image(data, self.size)
        with Image.open(io.BytesIO(data)) as picture:
            return square, picture.size


class StorePictures:
    """The pictures of a store, which have one size."""

    def __init__(self, store: Store) -> None:
        self.name, self.classes, self.size = str(store.path), store.classes, store.size
        self._splits = {name: store.split(name) for name in store.splits}
        self.splits = {name: len(split) for name, split in self._splits.items()}
        self.labels = np.concatenate([split.labels for split in self._splits.values()])
        self.is_drawn, self.ignored = False, dict[str, int]()
        file = store.path / SKIPPED_FILE if isinstance(store.path, Path) else None
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
        self.skipped = [(line["name"], line["reason"]) for line in map(json.loads, lines)]

    def picture_name(self, split: str, index: int) -> str:
        """Return the name of a picture: its path within the source."""
        return self._splits[split].picture_name(index)

    def read(self, split: str, index: int) -> tuple[np.ndarray, None]:
        """Return a picture."""
        return self._splits[split].image(index), None


@dataclass(frozen=True, eq=False)
class PictureChunk:
    """Some consecutive pictures.

    Args:
        squares: (n, size, size, 3) uint8, those of the readable pictures.
        numbers: (n,) int64, which pictures these are, numbered through all splits.
        sides: (n, 2) int64, the width and height of their files; zeros if not known.
        unreadable: The number of each other picture, and the reason.
    """

    squares: np.ndarray
    numbers: np.ndarray
    sides: np.ndarray
    unreadable: list[tuple[int, str]]


def locate(pictures: CheckedPictures, number: int) -> tuple[str, int]:
    """Return the split of a picture and its index in it, from its number through all splits."""
    for split, count in pictures.splits.items():
        if number < count:
            return split, number
        number -= count
    raise IndexError(number)


def read_chunks(pictures: CheckedPictures) -> Generator[PictureChunk, None, None]:
    """Yield all pictures, in order; threads read ahead."""
    workers = available_cores()
    starts = range(0, len(pictures.labels), _CHUNK)

    def read(start: int) -> PictureChunk:
        return _read_chunk(pictures, start, min(start + _CHUNK, len(pictures.labels)))

    with closing(prefetch(read, starts, workers=workers, buffer_size=workers + 1)) as chunks:
        yield from chunks


def _read_chunk(pictures: CheckedPictures, start: int, stop: int) -> PictureChunk:
    squares = np.empty((stop - start, pictures.size, pictures.size, 3), np.uint8)
    numbers, sides, unreadable = list[int](), list[tuple[int, int]](), list[tuple[int, str]]()
    for number in range(start, stop):
        try:
            squares[len(numbers)], size = pictures.read(*locate(pictures, number))
        except (ValueError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            unreadable.append((number, " ".join(reason.split())))
            continue
        numbers.append(number)
        sides.append(size or (0, 0))
    count = len(numbers)
    return PictureChunk(squares[:count], np.array(numbers, np.int64), np.array(sides).reshape(count, 2), unreadable)

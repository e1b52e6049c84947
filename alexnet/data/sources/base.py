"""What all kinds of sources have in common: their options, the listing of a split, the source and its fingerprint."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from alexnet.checked import require
from alexnet.data.store.class_ids import ClassIds

_HELD_OUT = 0.1


@dataclass(frozen=True)
class SourceOptions:
    """How the pictures of a source are divided into splits.

    Args:
        held_out: Share of each class that becomes "val" where the source has no splits of its own: at least one
            picture of a class, and never all; 0 for no "val". By default a tenth.
        train_per_class: Number of pictures of each class that become "train", where all others become "test".
            By default `held_out` decides.
        val_batch: Training batch of CIFAR-10, 1 to 5, that becomes "val". By default all five are trained on.
        seed: Seed of the random choice of the pictures that are held out; by default 0.
        synsets: A text file that lists the synsets of ImageNet to prepare, one WordNet ID a line. By default all.
        coarse: Whether the classes of CIFAR-100 are its 20 superclasses. By default they are the 100 classes.
        verify_archives: Whether to compare the MD5 checksums of ImageNet's archives with the published ones first.
        test: Share of each class that becomes "test" where the source has no splits of its own, as `held_out` does for
            "val"; by default none. 1 for a source that is only tested on: no picture of it need be for training, and
            it may have a single class.

    Raises:
        ValueError: An option is outside its range.
    """

    held_out: float | None = None
    train_per_class: int | None = None
    val_batch: int | None = None
    seed: int | None = None
    synsets: Path | None = None
    verify_archives: bool | None = None
    test: float | None = None
    coarse: bool | None = None

    def __post_init__(self) -> None:
        share = self.validation_share
        require(0 <= share < 1, "held_out", "a share from 0 to below 1, such as 0.1", self.held_out)
        require(0 <= self.test_share <= 1, "test", "a share from 0 to 1, such as 0.1", self.test)
        if self.only_tests:
            self._refuse_held_out("`test=1`")
            require(self.seed is None, "seed", "left out with `test=1`, which draws no picture", self.seed)
        else:
            total = share + self.test_share
            require(total < 1, "`held_out` + `test`", "below 1, so that there are pictures to train on", total)
        if self.train_per_class is not None:
            require(self.train_per_class >= 1, "train_per_class", "at least 1 picture", self.train_per_class)
            rule = "left out with `train_per_class`, which makes all other pictures test"
            require(self.test is None, "test", rule, self.test)
            self._refuse_held_out("`train_per_class`")
        require(self.seed is None or self.seed >= 0, "seed", "at least 0", self.seed)

    def _refuse_held_out(self, option: str) -> None:
        """Raise a ValueError if a share is to be held out beside an option that leaves none for it."""
        rule = f"left out with {option}, which makes all other pictures test"
        require(not self.held_out, "held_out", rule, self.held_out)

    @property
    def validation_share(self) -> float:
        """The share of each class that becomes "val" where the source has no splits of its own."""
        return _HELD_OUT if self.held_out is None else self.held_out

    @property
    def test_share(self) -> float:
        """The share of each class that becomes "test" where the source has no splits of its own."""
        return 0.0 if self.test is None else self.test

    @property
    def only_tests(self) -> bool:
        """Whether no picture of the source need be for training."""
        return self.test == 1

    def refuse(self, name: str, path: Path, reason: str) -> None:
        """Raise a ValueError if an option was given that the source at `path` cannot use.

        Args:
            name: The option.
            path: The source.
            reason: Why the source cannot use it.
        """
        value = getattr(self, name)
        if value != getattr(SourceOptions, name):
            raise ValueError(f"{path}: {reason}; leave `{name}={value}` out")


@dataclass(frozen=True, eq=False)
class SourceSplit:
    """The listing of the pictures of one split, in flat arrays: about 70 bytes a picture, so that millions fit.

    Args:
        names: (N,) binary, the path of each picture within the source.
        labels: (N,) int32, the class of each picture.
        sizes: (N,) int64, the size of each file in bytes.
        offsets: (N,) int64, where each file starts in an archive; zeros elsewhere.
        mtimes: (N,) int64, when each file, or the archive around it, was last modified, in nanoseconds; 0 if unknown.
        is_drawn: Whether the pictures of the split were drawn at random, so that others could take their place.
    """

    names: pa.Array
    labels: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    mtimes: np.ndarray
    is_drawn: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def picture_name(self, index: int) -> str:
        """Return the path of a picture within the source, with undecodable bytes escaped as in Python's file names."""
        return str(self.names[index].as_py().decode("utf-8", "surrogateescape"))

    def take(self, indices: np.ndarray) -> "SourceSplit":
        """Return the listing of the pictures at (N,) indices."""
        return SourceSplit(
            self.names.take(pa.array(indices)),
            self.labels[indices],
            self.sizes[indices],
            self.offsets[indices],
            self.mtimes[indices],
            self.is_drawn,
        )

    def modification_digest(self, start: int, stop: int) -> int:
        """Return a 63-bit digest of when the files from index `start` to `stop` - 1 were modified."""
        return int.from_bytes(hashlib.sha256(self.mtimes[start:stop].tobytes()).digest()[:8], "big") >> 1

    @classmethod
    def concatenate(cls, splits: Sequence["SourceSplit"]) -> "SourceSplit":
        """Return the listing of all pictures of several splits, one split after another."""
        return cls(
            pa.concat_arrays([split.names for split in splits]),
            np.concatenate([split.labels for split in splits]),
            np.concatenate([split.sizes for split in splits]),
            np.concatenate([split.offsets for split in splits]),
            np.concatenate([split.mtimes for split in splits]),
        )


class Source(Protocol):
    """Pictures with their classes, divided into splits.

    Attributes:
        name: Name of the folder or archive.
        classes: The class names. A label is an index into them.
        size: Side of the pictures in pixels, if all have the same and must keep it.
        splits: The listing of each split: "train", "val", "test".
        ignored: Number of files that are not used, by the ending of their names or the reason.
        class_ids: The contest's numbers of the classes, if the source says them; else None.
    """

    name: str
    classes: tuple[str, ...]
    size: int | None
    splits: dict[str, SourceSplit]
    ignored: dict[str, int]
    class_ids: ClassIds | None

    def read(self, split: str, index: int) -> bytes | np.ndarray:
        """Return a picture file's bytes, or (size, size, 3) uint8 pixels if there is nothing to decode."""
        ...


class SourceKind(Protocol):
    """One kind of source: what each module of this package that is listed in kinds.py defines.

    Attributes:
        NAME: Name of the kind, for messages.
        OPTIONS: The options that the kind understands, of those that only some kinds do.
    """

    NAME: str
    OPTIONS: tuple[str, ...]

    def matches(self, path: Path) -> bool:
        """Return whether the file or folder at `path` is of this kind. There may be none.

        Raises:
            ValueError: The file is damaged.
        """
        ...

    def open(self, path: Path, options: SourceOptions) -> Source:
        """Open the source at `path` and list its pictures.

        Raises:
            ValueError: The source cannot be read, or an option does not suit it.
        """
        ...


def printable_name(name: str) -> str:
    """Return the name of a file or folder with its undecodable bytes as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def fingerprint(source: Source) -> str:
    """Return a digest of the classes of a source and of the names, labels and file sizes in its splits."""
    digest = hashlib.sha256(repr((source.classes, source.size)).encode())
    for name, split in source.splits.items():
        digest.update(name.encode())
        for buffer in split.names.buffers()[1:]:
            digest.update(buffer)
        digest.update(split.labels.tobytes())
        digest.update(split.sizes.tobytes())
    return digest.hexdigest()

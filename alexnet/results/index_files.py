"""The arrays and names in the folder of an index: written, read, and checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.utils.arrays import load_array
from alexnet.utils.checksums import Digest, checksum


@dataclass(frozen=True, eq=False)
class IndexFiles:
    """What an index has of each picture.

    Args:
        activities: (N, width) float32, memory-mapped.
        labels: (N,) int32.
        names: The names of the pictures.
        codes: (N, bits / 8) uint8; (N, 0) if the index has no binary codes.
    """

    activities: np.ndarray
    labels: np.ndarray
    names: list[str]
    codes: np.ndarray

    @classmethod
    def read(cls, folder: Path, metadata: Mapping[str, Any]) -> "IndexFiles":
        """Read the files; all but the activities, which `alexnet verify` reads, are compared with their checksums.

        Raises:
            ValueError: They are damaged, or do not fit together.
        """
        has_codes = metadata.get("bits") is not None
        _check_checksums(folder, metadata, "labels.npy", "names.json", *(["codes.npy"] if has_codes else []))
        activities = load_array(folder / "activities.npy")
        files = cls(
            activities,
            np.array(load_array(folder / "labels.npy")),
            json.loads((folder / "names.json").read_text(encoding="utf-8")),
            np.array(load_array(folder / "codes.npy")) if has_codes else np.empty((len(activities), 0), np.uint8),
        )
        files._check(metadata.get("classes"))
        return files

    def _check(self, classes: Any) -> None:
        if not isinstance(classes, list) or not isinstance(self.names, list):
            raise ValueError("the names or the classes are no list")
        count = len(self.names)
        for name, array, dtype, dimensions in (
            ("activities", self.activities, np.float32, 2),
            ("labels", self.labels, np.int32, 1),
            ("codes", self.codes, np.uint8, 2),
        ):
            if array.dtype != dtype or array.ndim != dimensions or len(array) != count:
                raise ValueError(f"{name} of {count} pictures were expected; got {array.dtype} {array.shape}")
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(classes):
            raise ValueError("a label is of no class")


def _check_checksums(folder: Path, metadata: Mapping[str, Any], *names: str) -> None:
    """Raise a ValueError if a file is not as it was written; an index of an earlier version has no checksums."""
    expected: dict[str, str] | None = metadata.get("files")
    for name in names:
        if expected is not None and checksum((folder / name).read_bytes()) != expected.get(name):
            raise ValueError(f"{name} has another checksum")


def write_array(path: Path, parts: Sequence[np.ndarray]) -> None:
    """Write the rows of several arrays to a NumPy file."""
    with path.open("wb") as file:
        np.save(file, np.concatenate(parts))


def file_checksums(folder: Path) -> dict[str, str]:
    """Return the checksum of each file in a folder, by its name."""
    checksums = {}
    for path in sorted(folder.iterdir()):
        digest = Digest()
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
        checksums[path.name] = digest.hexdigest()
    return checksums

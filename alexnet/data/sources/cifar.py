"""What CIFAR-10 and CIFAR-100 have in common: files with the labels and pixels of pictures, binary or pickled."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from alexnet.data.sources.archive import first_names_in_tar, open_tar_stream
from alexnet.data.sources.base import SourceSplit
from alexnet.data.sources.pickles import read_pickle
from alexnet.data.store.class_ids import ClassIds
from alexnet.utils.progress import Progress

_SIDE = 32
_PIXEL_BYTES = 3 * _SIDE * _SIDE  # the red, the green and the blue plane of a picture
_MAX_FILE_BYTES = 1 << 28  # the largest, CIFAR-100's pickled training pictures, has 155 MB


@dataclass(frozen=True, eq=False)
class Batch:
    """The pictures of one file.

    Args:
        labels: (N,) int64.
        planes: (N, 3072) uint8: 32 x 32 bytes of red, of green and of blue.
    """

    labels: np.ndarray
    planes: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(eq=False)
class CifarSource:
    """Pictures of 32 x 32 pixels, as a `Source`.

    Args:
        name: Name of the folder or archive.
        classes: The class names.
        splits: The listing of each split.
        batches: For each split, the pictures of each of its files.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, SourceSplit]
    batches: dict[str, list[Batch]]
    size: int | None = _SIDE
    ignored: dict[str, int] = field(default_factory=dict)
    class_ids: ClassIds | None = None

    def read(self, split: str, index: int) -> np.ndarray:
        """Return the (32, 32, 3) uint8 pixels of a picture."""
        row = index
        for batch in self.batches[split]:
            if row < len(batch):
                planes: np.ndarray = batch.planes[row].reshape(3, _SIDE, _SIDE)
                return planes.transpose(1, 2, 0)
            row -= len(batch)
        raise IndexError(f"{self.name}: picture {index} of split {split!r}, which has {len(self.splits[split])}")


def build_source(
    path: Path, classes: tuple[str, ...], batches: Mapping[str, Batch], split_files: Mapping[str, Sequence[str]]
) -> CifarSource:
    """Return the source with some of the files in each split.

    Args:
        path: The folder or archive.
        classes: The class names.
        batches: The pictures of each file.
        split_files: The names of the files of each split.

    Raises:
        ValueError: A label is out of range.
    """
    name = path.name
    modified = {file: (path / file if path.is_dir() else path).stat().st_mtime_ns for file in batches}
    for file, batch in batches.items():
        if batch.labels.min() < 0 or batch.labels.max() >= len(classes):
            label = batch.labels.min() if batch.labels.min() < 0 else batch.labels.max()
            raise ValueError(
                f"{name}: {file} has label {label}, but there are names of {len(classes)} classes; download the "
                "archive again"
            )
    return CifarSource(
        name,
        classes,
        splits={split: _list_pictures(files, batches, modified) for split, files in split_files.items()},
        batches={split: [batches[file] for file in files] for split, files in split_files.items()},
    )


def find_names(path: Path, names: Collection[str]) -> set[str]:
    """Return which of the names are those of files in a folder, or of the first members of a .tar, without folders."""
    if path.is_dir():
        return {name for name in names if (path / name).is_file()}
    return first_names_in_tar(path) & set(names)


def read_files(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the bytes of some files: memory-mapped in a folder, read into memory from a .tar.

    Raises:
        ValueError: The archive is damaged, or a file is too large.
    """
    if path.is_dir():
        return {name: _map_file(path / name) for name in names if (path / name).is_file()}
    files = {}
    with open_tar_stream(path) as archive, Progress(f"read {path.name}", len(names), "files") as bar:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in names or not member.isreg():
                continue
            if member.size > _MAX_FILE_BYTES:
                raise ValueError(
                    f"{path}: {member.name} must have at most {_MAX_FILE_BYTES:,} bytes; got {member.size:,}"
                )
            stream = archive.extractfile(member)
            assert stream is not None
            files[name] = np.frombuffer(stream.read(), np.uint8)
            bar.update()
    return files


def _map_file(path: Path) -> np.ndarray:
    """Return the memory-mapped bytes of a file. An empty one cannot be mapped."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


def _require_file(name: str, file: str, files: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the bytes of a file.

    Raises:
        ValueError: The file is missing.
    """
    if file not in files:
        raise ValueError(f"{name}: {file} is missing; unpack or download the archive again")
    return files[file]


def parse_class_names(name: str, file: str, files: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Return the class names in a text file, one on each line."""
    lines = _require_file(name, file, files).tobytes().decode("utf-8", "replace").splitlines()
    return _check_class_names(name, file, [line.strip() for line in lines if line.strip()])


def parse_records(name: str, file: str, files: Mapping[str, np.ndarray], label_bytes: int, label: int) -> Batch:
    """Return the pictures in a binary file. A record is one byte for each kind of label, and the pixels.

    Args:
        name: Name of the folder or archive.
        file: Name of the file.
        files: The bytes of the files.
        label_bytes: Number of label bytes of a record.
        label: The index of the label byte to use.
    """
    contents, record_bytes = _require_file(name, file, files), label_bytes + _PIXEL_BYTES
    if len(contents) == 0 or len(contents) % record_bytes:
        raise ValueError(
            f"{name}: {file} has {len(contents)} bytes, not a multiple of {record_bytes} (a label and 32 x 32 RGB); "
            "download the archive again"
        )
    records = contents.reshape(-1, record_bytes)
    return Batch(records[:, label].astype(np.int64), records[:, label_bytes:])


def parse_pickle(name: str, file: str, files: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the dictionary in a file of the Python version, which is read without running it (see pickles.py)."""
    contents = _require_file(name, file, files)
    try:
        value = read_pickle(contents.tobytes())
    except ValueError as error:
        raise ValueError(f"{name}: {file}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name}: {file} must contain a dictionary, not a {type(value).__name__}; download it again")
    return {_to_text(key): item for key, item in value.items()}


def pickled_class_names(name: str, file: str, contents: Mapping[str, Any], field_name: str) -> tuple[str, ...]:
    """Return the class names in a field of a pickled dictionary."""
    names = contents.get(field_name)
    return _check_class_names(name, file, list(map(_to_text, names)) if isinstance(names, list) else [])


def pickled_batch(name: str, file: str, contents: Mapping[str, Any], label_field: str) -> Batch:
    """Return the pictures in a pickled dictionary.

    Raises:
        ValueError: Labels or pixels are missing, or do not fit each other.
    """
    labels, planes = contents.get(label_field), contents.get("data")
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.array(labels, np.int64)
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise ValueError(f"{name}: {file} has no list of integers {label_field!r}; download the archive again")
    shape = (len(labels), _PIXEL_BYTES)
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape != shape or not len(labels):
        got = f"{planes.dtype} {planes.shape}" if isinstance(planes, np.ndarray) else type(planes).__name__
        raise ValueError(
            f"{name}: {file} must have an array 'data' of type uint8 and shape {shape}; got {got}: download the "
            "archive again"
        )
    return Batch(labels.astype(np.int64), planes)


def _to_text(value: Any) -> str:
    """Return text that is pickled as bytes by Python 2, and as text by Python 3."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _check_class_names(name: str, file: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the class names if there are at least two."""
    if len(classes) < 2:
        raise ValueError(f"{name}: {file} must name 2 classes or more; got {len(classes)}: download the archive again")
    return tuple(classes)


def _list_pictures(files: Sequence[str], batches: Mapping[str, Batch], modified: Mapping[str, int]) -> SourceSplit:
    """Return the listing of the pictures in several files, which were last modified at these times."""
    names = [f"{file}#{n}".encode() for file in files for n in range(len(batches[file]))]
    labels = np.concatenate([batches[file].labels for file in files]).astype(np.int32)
    sizes = np.full(len(labels), _PIXEL_BYTES, np.int64)
    mtimes = np.repeat([modified[file] for file in files], [len(batches[file]) for file in files])
    return SourceSplit(pa.array(names, pa.binary()), labels, sizes, np.zeros_like(sizes), mtimes)

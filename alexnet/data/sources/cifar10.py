"""CIFAR-10 in its official binary layout, a folder or an archive (section 4.1 compares nets on it)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.sources.archive import first_names_in_tar, open_tar_stream
from alexnet.data.sources.base import Source, SourceOptions, SourceSplit
from alexnet.data.store.class_ids import ClassIds

NAME = "CIFAR-10"
OPTIONS: tuple[str, ...] = ("val_batch",)

_SIDE = 32
_RECORD_BYTES = 1 + 3 * _SIDE * _SIDE  # a label and the red, the green and the blue plane
_META_FILE = "batches.meta.txt"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST_FILE = "test_batch.bin"
_FILES = (_META_FILE, *TRAIN_FILES, _TEST_FILE)
_PYTHON_FILE = "data_batch_1"  # of the version for Python, which consists of pickles
_INNER_FOLDER = "cifar-10-batches-bin"  # the only folder in the archive


@dataclass(eq=False)
class _Cifar10:
    """CIFAR-10: 60,000 pictures of 32 x 32 pixels in ten classes, as a `Source`.

    Args:
        name: Name of the folder or archive.
        classes: The ten class names of batches.meta.txt.
        splits: The listing of "train" and "test", and of "val" if a training batch validates.
        records: For each split, the (N, 3073) uint8 records of each of its files: a label byte, then 32 x 32 bytes of
            red, of green and of blue.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, SourceSplit]
    records: dict[str, list[np.ndarray]]
    size: int | None = _SIDE
    ignored: dict[str, int] = field(default_factory=dict)
    class_ids: ClassIds | None = None

    def read(self, split: str, index: int) -> np.ndarray:
        """Return the (32, 32, 3) uint8 pixels of a picture."""
        row = index
        for records in self.records[split]:
            if row < len(records):
                planes: np.ndarray = records[row, 1:].reshape(3, _SIDE, _SIDE)
                return planes.transpose(1, 2, 0)
            row -= len(records)
        raise IndexError(f"{self.name}: picture {index} of split {split!r}, which has {len(self.splits[split])}")


def matches(path: Path) -> bool:
    """Return whether CIFAR-10 is at `path`, also in the Python version, which `open` refuses.

    Raises:
        ValueError: The file is a damaged archive.
    """
    if path.is_dir():
        return _find_binary_folder(path) is not None or (path / _PYTHON_FILE).is_file()
    return not first_names_in_tar(path).isdisjoint({_META_FILE, *TRAIN_FILES, _PYTHON_FILE})


def open(path: Path, options: SourceOptions) -> Source:
    """Open CIFAR-10: the files of a folder are memory-mapped, the 184 MB of an archive are read into memory.

    Args:
        path: The folder of the unpacked archive or the folder around it, or the .tar, .tar.gz or .tar.xz.
        options: `val_batch`.

    Raises:
        ValueError: It is the Python version; a file is missing or damaged; or there is no such training batch.
    """
    if path.is_dir():
        folder = _find_binary_folder(path)
        if folder is not None:
            return _build_source(folder.name, _map_files(folder), options)
    elif not first_names_in_tar(path).isdisjoint({_META_FILE, *TRAIN_FILES}):
        return _build_source(path.name, _read_archive(path), options)
    raise ValueError(f"{path}: CIFAR-10's Python version (pickles); download the binary version instead")


def _find_binary_folder(path: Path) -> Path | None:
    """Return the folder with the binary files, `path` or the folder in it; None if it is neither."""
    for folder in (path, path / _INNER_FOLDER):
        if (folder / _META_FILE).is_file() and (folder / TRAIN_FILES[0]).is_file():
            return folder
    return None


def _map_files(folder: Path) -> dict[str, np.ndarray]:
    """Return the memory-mapped bytes of CIFAR-10's files in a folder."""
    paths = [folder / name for name in _FILES if (folder / name).is_file()]
    # An empty file cannot be mapped.
    return {
        path.name: np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8) for path in paths
    }


def _read_archive(path: Path) -> dict[str, np.ndarray]:
    """Return the bytes of CIFAR-10's files in a .tar, which is read through once."""
    files = {}
    with open_tar_stream(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            stream = archive.extractfile(member) if name in _FILES else None
            if stream is not None:
                files[name] = np.frombuffer(stream.read(), np.uint8)
    return files


def _build_source(name: str, files: Mapping[str, np.ndarray], options: SourceOptions) -> _Cifar10:
    """Return the source with the splits that the options ask for.

    Args:
        name: Name of the folder or archive.
        files: The bytes of CIFAR-10's files.
        options: `val_batch`.
    """
    classes = _parse_class_names(name, files.get(_META_FILE))
    records = {file: _parse_records(name, file, files.get(file), len(classes)) for file in (*TRAIN_FILES, _TEST_FILE)}
    split_files = _assign_files(options.val_batch)
    return _Cifar10(
        name,
        classes,
        splits={split: _list_pictures(file_names, records) for split, file_names in split_files.items()},
        records={split: [records[file] for file in file_names] for split, file_names in split_files.items()},
    )


def _assign_files(val_batch: int | None) -> dict[str, Sequence[str]]:
    """Return the files of each split. The 2012 program's nets with translations validate on a training batch."""
    if val_batch is None:
        return {"train": TRAIN_FILES, "test": (_TEST_FILE,)}
    if not 1 <= val_batch <= len(TRAIN_FILES):
        raise ValueError(
            f"val_batch must be from 1 to {len(TRAIN_FILES)}, CIFAR-10's training batches; got {val_batch}"
        )
    val_file = TRAIN_FILES[val_batch - 1]
    train_files = [file for file in TRAIN_FILES if file != val_file]
    return {"train": train_files, "val": (val_file,), "test": (_TEST_FILE,)}


def _parse_class_names(name: str, contents: np.ndarray | None) -> tuple[str, ...]:
    """Return the class names in the bytes of batches.meta.txt, one on each line."""
    lines = [] if contents is None else contents.tobytes().decode("utf-8", "replace").splitlines()
    classes = tuple(line.strip() for line in lines if line.strip())
    if len(classes) < 2:
        raise ValueError(
            f"{name}: {_META_FILE} must name 2 classes or more; got {len(classes)}: download the archive again"
        )
    return classes


def _parse_records(name: str, file: str, contents: np.ndarray | None, classes: int) -> np.ndarray:
    """Return the (N, 3073) uint8 records in the contents of a batch file, checked."""
    if contents is None:
        raise ValueError(f"{name}: CIFAR-10 without {file}; unpack or download the archive again")
    if len(contents) == 0 or len(contents) % _RECORD_BYTES:
        raise ValueError(
            f"{name}: {file} has {len(contents)} bytes, not a multiple of {_RECORD_BYTES} (a label and 32 x 32 RGB); "
            "download the archive again"
        )
    records = contents.reshape(-1, _RECORD_BYTES)
    if records[:, 0].max() >= classes:
        raise ValueError(
            f"{name}: {file} has label {records[:, 0].max()}, but {_META_FILE} names {classes} classes; "
            "download the archive again"
        )
    return records


def _list_pictures(files: Sequence[str], records: Mapping[str, np.ndarray]) -> SourceSplit:
    """Return the listing of the pictures in several batch files."""
    names = [f"{file}#{n}".encode() for file in files for n in range(len(records[file]))]
    labels = np.concatenate([records[file][:, 0] for file in files]).astype(np.int32)
    sizes = np.full(len(labels), _RECORD_BYTES - 1, np.int64)
    return SourceSplit(pa.array(names, pa.binary()), labels, sizes, np.zeros_like(sizes), np.zeros_like(sizes))

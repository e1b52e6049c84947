"""CIFAR-10 in its official binary layout, as a source: a folder or an archive (section 4.1's small set)."""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.sources.base import Part

CIFAR_SIDE = 32
CIFAR_RECORD = 1 + 3 * CIFAR_SIDE * CIFAR_SIDE
CIFAR_META = "batches.meta.txt"
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR_TEST = "test_batch.bin"
CIFAR_PYTHON = "data_batch_1"  # of the version in pickles, which is not read


@dataclass(eq=False)
class Cifar10:
    """CIFAR-10 in its official binary layout: five batches to train on, in file order, and one to test on.

    Args:
        name: What it was read from.
        classes: The ten names of batches.meta.txt.
        parts: "train" and "test".
        records: For each part its (N, 3073) uint8 records: a label byte, then 32x32 of R, of G and of B.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    records: dict[str, list[np.ndarray]]
    size: int | None = CIFAR_SIDE
    ignored: dict[str, int] = field(default_factory=dict)

    def read(self, split: str, index: int) -> np.ndarray:
        """The pixels of one picture, (32, 32, 3) uint8."""
        for records in self.records[split]:
            if index < len(records):
                planes: np.ndarray = records[index, 1:].reshape(3, CIFAR_SIDE, CIFAR_SIDE)
                return planes.transpose(1, 2, 0)
            index -= len(records)
        raise IndexError(f"{self.name}: split {split!r} has no picture {index} more")

    def validating_on(self, batch: int) -> "Cifar10":
        """The same with one of the five training batches as "val" (the 2012 program's nets with translations).

        Raises:
            ValueError: No such batch.
        """
        if not 1 <= batch <= len(CIFAR_TRAIN):
            raise ValueError(
                f"val_batch must be from 1 to {len(CIFAR_TRAIN)}, CIFAR-10's training batches; got {batch}"
            )
        places = [n for n in range(len(CIFAR_TRAIN)) if n != batch - 1]
        chosen = {"train": places, "val": [batch - 1]}
        records = {split: [self.records["train"][n] for n in of] for split, of in chosen.items()}
        parts = {split: _part([CIFAR_TRAIN[n] for n in of], records[split]) for split, of in chosen.items()}
        test = {"test": self.parts["test"]}, {"test": self.records["test"]}
        return replace(self, parts=parts | test[0], records=records | test[1])


def _cifar10(name: str, classes: tuple[str, ...], files: dict[str, np.ndarray]) -> Cifar10:
    """The source made of the six files' bytes, checked."""
    records: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for file in (*CIFAR_TRAIN, CIFAR_TEST):
        split = "test" if file == CIFAR_TEST else "train"
        if file not in files:
            raise ValueError(f"{name}: CIFAR-10 without {file}; unpack or download the archive again")
        if len(files[file]) == 0 or len(files[file]) % CIFAR_RECORD:
            raise ValueError(
                f"{name}: {file} has {len(files[file])} bytes, no multiple of {CIFAR_RECORD} (a label and 32x32 RGB); "
                "download the archive again"
            )
        rows = files[file].reshape(-1, CIFAR_RECORD)
        if rows[:, 0].max() >= len(classes):
            raise ValueError(
                f"{name}: {file} has label {rows[:, 0].max()}, {CIFAR_META} names {len(classes)} classes; "
                "download the archive again"
            )
        records[split].append(rows)
    batches = {"train": CIFAR_TRAIN, "test": (CIFAR_TEST,)}
    return Cifar10(name, classes, {split: _part(batches[split], records[split]) for split in records}, records)


def _part(files: Sequence[str], records: list[np.ndarray]) -> Part:
    """What is known of the pictures of some files: names, labels, sizes."""
    names = [f"{file}#{n}".encode() for file, rows in zip(files, records, strict=True) for n in range(len(rows))]
    labels = np.concatenate([rows[:, 0] for rows in records]).astype(np.int32)
    sizes = np.full(len(labels), CIFAR_RECORD - 1, np.int64)
    return Part(pa.array(names, pa.binary()), labels, sizes, np.zeros(len(labels), np.int64))


def _class_names(name: str, text: bytes) -> tuple[str, ...]:
    """The class names in the lines of batches.meta.txt."""
    classes = tuple(line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip())
    if len(classes) < 2:
        raise ValueError(
            f"{name}: {CIFAR_META} must name 2 classes or more; got {len(classes)}: download the archive again"
        )
    return classes


def cifar10_folder(path: Path) -> Cifar10:
    """CIFAR-10 from the folder of an unpacked archive, its batches mapped and not read.

    Raises:
        ValueError: A batch is missing or has no whole number of pictures.
    """
    names = [name for name in (*CIFAR_TRAIN, CIFAR_TEST) if (path / name).is_file()]
    files = {name: _mapped(path / name) for name in names}
    return _cifar10(path.name, _class_names(path.name, (path / CIFAR_META).read_bytes()), files)


def _mapped(path: Path) -> np.ndarray:
    """A file's bytes, mapped; an empty file cannot be."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)


def cifar10_archive(path: Path) -> Cifar10:
    """CIFAR-10 from its archive, read through once; the 184 MB of its batches stay in memory.

    Args:
        path: A .tar, .tar.gz or .tar.xz.

    Raises:
        ValueError: The archive is damaged, or not of CIFAR-10's layout.
    """
    files: dict[str, np.ndarray] = {}
    meta = b""
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            base = member.name.rpartition("/")[2]
            stream = archive.extractfile(member) if base in (*CIFAR_TRAIN, CIFAR_TEST, CIFAR_META) else None
            if stream is not None:
                if base == CIFAR_META:
                    meta = stream.read()
                else:
                    files[base] = np.frombuffer(stream.read(), np.uint8)
    return _cifar10(path.name, _class_names(path.name, meta), files)

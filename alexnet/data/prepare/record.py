"""The record of a shard: sums and counts, the files that were skipped, when the files were modified, their hashes."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet.data.prepare.chunk import Chunk
from alexnet.data.prepare.duplicates import HASH_WORDS
from alexnet.data.store.checksums import ShardChecksums
from alexnet.data.store.format import parse_safetensors, safetensors_bytes
from alexnet.utils.files import write_atomic

RECORD_NAME = re.compile(r"(train|val|test)-(\d{5,})\.safetensors")


class ShardRecord:
    """What a shard adds to the totals of the store; or the totals, the sum of several records.

    Sums of integers do not depend on the order of the records.

    Args:
        size: Side of the pictures in pixels.
        classes: Number of classes.
        dtype: Type of the sums over pictures: 32 bits suffice for 255 times the pictures of one shard, and adding to
            them is several times as fast as to 64 bits.
        modified: A digest of when the files of the shard were modified.

    Attributes:
        sums: (size, size, 3), the sum over the training pictures.
        products: (3, 3) int64, the sum over training pictures and pixels of the products of two channels.
        class_counts: (classes,) int64, the number of pictures of each class.
        counters: (4,) int64: files skipped, bytes of the pictures, pictures encoded as JPEG, bytes of these as JPEG.
        skipped_lines: A line of skipped.jsonl for each file that was skipped.
        hashes: The `Chunk.hashes` of the shard's chunks.
        checksums: The `Chunk.checksums` of the shard's chunks.
    """

    def __init__(self, size: int, classes: int, dtype: type[np.integer[Any]] = np.uint32, modified: int = 0) -> None:
        self.sums = np.zeros((size, size, 3), dtype)
        self.products = np.zeros((3, 3), np.int64)
        self.class_counts = np.zeros(classes, np.int64)
        self.counters = np.zeros(4, np.int64)
        self.skipped_lines = bytearray()
        self.hashes = [np.zeros((0, HASH_WORDS), np.uint64)]
        self.checksums = [np.zeros(0, np.uint32)]
        self._modified = modified

    def add(self, chunk: Chunk) -> None:
        """Add a chunk of the shard."""
        if chunk.sums is not None and chunk.products is not None:
            self.sums += chunk.sums
            self.products += chunk.products
        self.class_counts += np.bincount(chunk.batch.column("label").to_numpy(), minlength=len(self.class_counts))
        self.counters += (len(chunk.skipped), chunk.image_bytes, chunk.sampled, chunk.sampled_bytes)
        self.hashes.append(chunk.hashes)
        self.checksums.append(chunk.checksums)
        for name, reason in chunk.skipped:
            line = json.dumps({"name": name, "reason": reason}, ensure_ascii=False)
            self.skipped_lines += line.encode() + b"\n"

    def save(self, path: Path, shard_checksum: str) -> None:
        """Write the record to a file.

        Args:
            path: The file.
            shard_checksum: The checksum of the shard's file.
        """
        extra = {"lines": np.frombuffer(self.skipped_lines, np.uint8), "modified": np.array([self._modified])}
        extra["hashes"] = np.concatenate(self.hashes)
        extra["checksums"] = np.concatenate(self.checksums)
        write_atomic(path, safetensors_bytes(self._arrays() | extra, {"shard": shard_checksum}))

    def add_file(self, path: Path) -> np.ndarray:
        """Add the record in a file, and return its class counts.

        Raises:
            ValueError: The file is damaged.
        """
        arrays = self._arrays()
        saved = _read_record(path, *arrays, "lines")
        for name, total in arrays.items():
            if total.shape != saved[name].shape:
                raise ValueError(f"{path}: not the record of a shard; remove it and prepare again")
            total += saved[name]
        self.skipped_lines += saved["lines"].tobytes()
        return saved["class_counts"]

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return the sums and counts by their names in the file."""
        return {
            "sums": self.sums,
            "products": self.products,
            "class_counts": self.class_counts,
            "numbers": self.counters,
        }


def _read_record(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Return some of the arrays in the file of a record.

    Raises:
        ValueError: The file is damaged.
    """
    with _explain_damage(path), safe_open(str(path), framework="numpy") as file:
        return {name: file.get_tensor(name) for name in names}


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn the exception for a damaged file into a ValueError that says what to do."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it and prepare again") from error


def was_written_from(path: Path, modified: int) -> bool:
    """Return whether the file of a record has this digest of when the files of its shard were modified.

    Records of earlier versions have none, and belong to any files.
    """
    with _explain_damage(path), safe_open(str(path), framework="numpy") as file:
        return "modified" not in file.keys() or int(file.get_tensor("modified")[0]) == modified  # noqa: SIM118


def read_hashes(path: Path, count: int) -> np.ndarray:
    """Return the (count, 4) uint64 hashes in the file of a record, zeros if an earlier version has written it."""
    with _explain_damage(path), safe_open(str(path), framework="numpy") as file:
        if "hashes" not in file.keys():  # noqa: SIM118, it is not a dict
            return np.zeros((count, HASH_WORDS), np.uint64)
        return np.asarray(file.get_tensor("hashes"))


def read_checksums(path: Path) -> ShardChecksums | None:
    """Return the checksums of the shard, from the file of its record; None if an earlier version has written it.

    Raises:
        ValueError: The file is damaged.
    """
    arrays, metadata = parse_safetensors(path.read_bytes(), path)
    return ShardChecksums(metadata["shard"], arrays["checksums"]) if "shard" in metadata else None


def read_skipped_count(path: Path) -> int:
    """Return the number of files that were skipped, from the file of a record."""
    return int(_read_record(path, "numbers")["numbers"][0])


def read_skipped_lines(path: Path) -> bytes:
    """Return the lines of skipped.jsonl in the file of a record."""
    return _read_record(path, "lines")["lines"].tobytes()

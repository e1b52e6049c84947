"""The checksums of a store's files and pictures, in the file `checksums.safetensors`.

Its metadata have the checksum of each shard, and of the lists of skipped files and duplicates. Its arrays, one for each
shard, have a short checksum of each picture, so that a damaged one can be named. The other safetensors files of a store
have their checksums within them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.store.format import (
    CHECKSUMS_FILE,
    DUPLICATES_FILE,
    SKIPPED_FILE,
    STORE_FORMAT,
    parse_safetensors,
    read_shard,
    safetensors_bytes,
)
from alexnet.utils.checksums import Buffer, checksum, short_checksum
from alexnet.utils.files import write_atomic


@dataclass(frozen=True, eq=False)
class ShardChecksums:
    """The checksums of a shard.

    Args:
        file: The checksum of its file.
        pictures: (N,) uint32, short checksums of its pictures as they are stored.
    """

    file: str
    pictures: np.ndarray

    @classmethod
    def from_file(cls, path: Path) -> "ShardChecksums":
        """Compute the checksums of a shard on the disk."""
        batches, contents = read_shard(path)
        pictures = [_picture_checksums(batch.column("image")) for batch in batches]
        return cls(checksum(contents), np.concatenate([np.zeros(0, np.uint32), *pictures]))


def _picture_checksums(images: pa.Array) -> np.ndarray:
    """Return (N,) uint32, the short checksums of the pictures in a column of a shard."""
    return np.array([short_checksum(image.as_buffer()) for image in images], np.uint32)


def write_checksums(store: Path, shards: Mapping[str, ShardChecksums]) -> None:
    """Write `checksums.safetensors` of a store.

    Args:
        store: The store, whose lists of skipped files and duplicates are complete.
        shards: The checksums of each shard, by the name of its file.
    """
    files = {name: shard.file for name, shard in shards.items()}
    files |= {name: checksum((store / name).read_bytes()) for name in (SKIPPED_FILE, DUPLICATES_FILE)}
    pictures = {name: shard.pictures for name, shard in shards.items()}
    write_atomic(store / CHECKSUMS_FILE, safetensors_bytes(pictures, {"format": STORE_FORMAT, "files": files}))


@dataclass(frozen=True, eq=False)
class StoreChecksums:
    """What `checksums.safetensors` says.

    Args:
        files: The checksum of each file, by its name.
        pictures: For each shard (N,) uint32, the short checksums of its pictures, by the name of its file.
    """

    files: Mapping[str, str]
    pictures: Mapping[str, np.ndarray]

    @classmethod
    def parse(cls, contents: bytes, path: str | Path) -> "StoreChecksums":
        """Return the checksums in the contents of the file; `path` is for the error message.

        Raises:
            ValueError: It is damaged.
        """
        pictures, metadata = parse_safetensors(contents, path)
        return cls(metadata["files"], pictures)

    def damaged_parts(self, name: str, contents: Buffer) -> list[str]:
        """Return which parts of a file are damaged: pictures by name, or what else it consists of; none if it is whole.

        Args:
            name: The name of the file, one of `files`.
            contents: Its contents.
        """
        if checksum(contents) == self.files[name]:
            return []
        if name not in self.pictures:
            return ["a line of it"]
        try:
            return list(_damaged_pictures(contents, self.pictures[name])) or ["a label, a name or the structure"]
        except (pa.ArrowException, OSError, UnicodeDecodeError, IndexError) as error:
            return [f"the structure: {' '.join(str(error).split())[:100]}"]


def _damaged_pictures(contents: Buffer, expected: np.ndarray) -> Iterator[str]:
    """Yield the names of the pictures of a shard whose checksums are others than expected."""
    start = 0
    with pa.ipc.open_file(pa.BufferReader(pa.py_buffer(contents))) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            batch.validate(full=True)
            differs = _picture_checksums(batch.column("image")) != expected[start : start + batch.num_rows]
            start += batch.num_rows
            for row in np.flatnonzero(differs).tolist():
                yield f"picture {batch.column('name')[row].as_py()}"

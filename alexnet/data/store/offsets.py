"""The byte offsets of the pictures in the shards of a store, in the file `places.safetensors`.

With them, a reader of a remote store needs two small files to open it, and one request for the bytes of each picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.store.format import (
    OFFSETS_FILE,
    STATISTICS_FILE,
    STORE_FORMAT,
    check_description,
    find_shards,
    parse_safetensors,
    read_safetensors,
    read_shard,
    read_shard_metadata,
    safetensors_bytes,
    split_counts,
)
from alexnet.utils.files import write_atomic


@dataclass(frozen=True, eq=False)
class PictureOffsets:
    """The byte offsets of the pictures of a split, and their labels.

    Attributes:
        labels: (N,) int32.
        batches: (B, 7) int64. For each record batch: the number of its shard; its number of rows; then byte offsets
            from the start of the shard: the start and the end of its pictures, the start of the offsets of its names,
            the start and the end of its names.
        ends: (N + B,) int32. For each record batch of JPEG pictures: the byte offset of each picture from the first
            one, and the end of the last one. Empty for raw pictures.
    """

    labels: np.ndarray
    batches: np.ndarray
    ends: np.ndarray

    @classmethod
    def from_shards(cls, shards: Sequence[Path], encoding: str) -> "PictureOffsets":
        """Read the offsets from the shards of a split, on a disk of this machine.

        Raises:
            ValueError: A shard is damaged or compressed.
        """
        labels, rows, ends = [np.empty(0, np.int32)], [], [np.empty(0, np.int32)]
        for number, path in enumerate(shards):
            batches, file = read_shard(path)
            for batch in batches:
                _, *image = batch.column("image").buffers()
                _, name_offsets, names = batch.column("name").buffers()
                labels.append(batch.column("label").to_numpy())
                if encoding == "jpeg":
                    ends.append(np.frombuffer(image[0], np.int32)[: batch.num_rows + 1])
                    size = int(ends[-1][-1])
                else:
                    size = batch.num_rows * batch.column("image").type.byte_width
                names_size = int(np.frombuffer(name_offsets, np.int32)[batch.num_rows])
                start, names_start = image[-1].address - file.address, names.address - file.address
                row = [start, start + size, name_offsets.address - file.address, names_start, names_start + names_size]
                if not 0 < min(row) <= max(row) <= file.size:
                    raise ValueError(f"{path}: must be an Arrow file without compression; prepare the store again")
                rows.append([number, batch.num_rows, *row])
        return cls(np.concatenate(labels), np.array(rows, np.int64).reshape(-1, 7), np.concatenate(ends))

    def tensors(self, split: str) -> dict[str, np.ndarray]:
        """Return the arrays by their names in the file."""
        return {f"{split}.{name}": value for name, value in vars(self).items()}

    def is_valid(self, count: int, size: int, encoding: str) -> bool:
        """Return whether the arrays agree with each other, and with `count` pictures of side `size`."""
        if self.batches.ndim != 2 or self.batches.shape[1] != 7 or (self.batches < 0).any():
            return False
        rows, lengths = self.batches[:, 1], self.batches[:, 3] - self.batches[:, 2]
        if not len(self.labels) == rows.sum() == count:
            return False
        if encoding == "raw":
            return bool((lengths == rows * size * size * 3).all())
        return len(self.ends) == count + len(rows) and bool((self.ends >= 0).all())


def write_offsets(store: Path) -> None:
    """Write `places.safetensors` of a store whose shards and statistics are complete.

    The same shards give the same bytes.

    Raises:
        ValueError: A shard is damaged or missing.
    """
    counts = split_counts(read_safetensors(store / STATISTICS_FILE)[1], store)
    shards = {split: find_shards(store, split) for split in counts}
    shard_metadata = read_shard_metadata(next(iter(shards.values()))[0])
    metadata = {"format": STORE_FORMAT} | {name: shard_metadata[name] for name in ("size", "encoding", "classes")}
    tensors: dict[str, np.ndarray] = {}
    for split, paths in shards.items():
        tensors |= PictureOffsets.from_shards(paths, metadata["encoding"]).tensors(split)
    write_atomic(store / OFFSETS_FILE, safetensors_bytes(tensors, metadata))


def parse_offsets(
    contents: bytes, path: str, counts: dict[str, int]
) -> tuple[dict[str, PictureOffsets], dict[str, Any]]:
    """Return the offsets of each split, and the metadata, from the contents of `places.safetensors`.

    Args:
        contents: The bytes of the file.
        path: The file, for the error message.
        counts: The number of pictures of each split.

    Raises:
        ValueError: The file is damaged, of another format, or does not agree with the counts.
    """
    tensors, metadata = parse_safetensors(contents, path)
    check_description(metadata, path)
    fields = ("labels", "batches", "ends")
    offsets = {
        split: PictureOffsets(*(tensors[f"{split}.{field}"] for field in fields))
        for split in counts
        if all(f"{split}.{field}" in tensors for field in fields)
    }
    for split, count in counts.items():
        if split not in offsets or not offsets[split].is_valid(count, metadata["size"], metadata["encoding"]):
            raise ValueError(
                f"{path}: has no valid offsets for the {count} pictures of {split!r}; upload the whole store again"
            )
    return offsets, metadata

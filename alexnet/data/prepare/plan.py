"""The plan of a store: how the listing of a source is cut into shards, and the key that a later call must match."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from alexnet.data.prepare.decode import RESAMPLING_FILTER
from alexnet.data.prepare.encode import JPEG_QUALITY
from alexnet.data.sources.base import Source, SourceOptions, fingerprint
from alexnet.data.store.format import STORE_FORMAT, shard_name, shard_schema

SHARD_BYTES = 100 << 20  # of raw pixels; a kill loses at most the work of one shard in each process
_MAX_SHARD_PICTURES = 1 << 20
JPEG_SHARD_FACTOR = 8  # a JPEG shard has so many times the pictures of a raw one, and is still smaller
CHUNK_BYTES = 6 << 20  # of raw pixels; a thread prepares one chunk at a time
_MAX_CHUNK_PICTURES = 4096


@dataclass(frozen=True)
class Shard:
    """Consecutive pictures of a split that are written to one file.

    Args:
        split: The split.
        number: Number of the shard within the split, from 0.
        start: Index of its first picture in the source's listing of the split.
        stop: Index after its last picture.
    """

    split: str
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def file_name(self) -> str:
        """The name of its file: "train-00007.arrow"."""
        return shard_name(self.split, self.number)

    @property
    def record_name(self) -> str:
        """The name of its record: "train-00007.safetensors"."""
        return self.file_name.removesuffix("arrow") + "safetensors"


@dataclass(frozen=True, eq=False)
class Plan:
    """What to prepare, and how it is cut into shards. It follows from the source and the arguments alone.

    Args:
        store: The folder to write.
        source: The pictures.
        key: The arguments that determine the contents, and the fingerprint of the source.
        shards: All shards, those of "train" first.
    """

    store: Path
    source: Source
    key: dict[str, Any]
    shards: list[Shard]

    @classmethod
    def create(
        cls,
        store: Path,
        source: Source,
        size: int,
        encoding: str,
        options: SourceOptions,
        *,
        ignore_duplicates: bool = False,
    ) -> "Plan":
        """Plan a store.

        Args:
            store: The folder to write.
            source: The pictures.
            size: Side of the pictures in pixels.
            encoding: "raw" or "jpeg".
            options: How the source was opened.
            ignore_duplicates: Whether to leave each picture in its split, whatever the others show.
        """
        key = {"size": size, "encoding": encoding, "held_out": options.validation_share}
        key |= {"train_per_class": options.train_per_class, "seed": options.seed or 0}
        key |= {"filter": RESAMPLING_FILTER, "format": STORE_FORMAT, "fingerprint": fingerprint(source)}
        if options.val_batch is not None:
            key["val_batch"] = options.val_batch
        if options.coarse:
            key["coarse"] = True
        if options.test:
            key["test"] = options.test
        if ignore_duplicates:
            key["ignore_duplicates"] = True
        if encoding == "jpeg":
            key["quality"] = JPEG_QUALITY
        length = max(1, SHARD_BYTES // (size * size * 3)) * (JPEG_SHARD_FACTOR if encoding == "jpeg" else 1)
        length = min(length, _MAX_SHARD_PICTURES)
        shards = [
            Shard(split, number, start, min(start + length, len(pictures)))
            for split, pictures in source.splits.items()
            for number, start in enumerate(range(0, len(pictures), length))
        ]
        return cls(store, source, key, shards)

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return int(self.key["size"])

    @property
    def encoding(self) -> str:
        """ "raw" or "jpeg"."""
        return str(self.key["encoding"])

    @property
    def finds_duplicates(self) -> bool:
        """Whether to find pictures that show the same photograph."""
        return not self.key.get("ignore_duplicates", False)

    @property
    def statistics_splits(self) -> tuple[str, ...]:
        """The splits whose pictures count for the statistics: "train", or all of a store that is only tested on."""
        return ("train",) if "train" in self.source.splits else tuple(self.source.splits)

    @property
    def picture_count(self) -> int:
        """Number of pictures in all splits."""
        return sum(map(len, self.shards))

    @cached_property
    def schemas(self) -> dict[str, pa.Schema]:
        """The Arrow schema of each split's shards."""
        source = self.source
        return {
            split: shard_schema(self.size, self.encoding, source.classes, split, source.name, self.key["filter"])
            for split in source.splits
        }

    @property
    def progress_metadata(self) -> dict[str, Any]:
        """The contents of the progress file: the key, and how the source is cut into shards."""
        longest = max(map(len, self.shards))
        return {"key": self.key, "source": self.source.name, "shards": len(self.shards), "longest_shard": longest}

    def modification_digest(self, shard: Shard) -> int:
        """Return a digest of when the files of a shard were modified."""
        return self.source.splits[shard.split].modification_digest(shard.start, shard.stop)

    def chunk_ranges(self, shard: Shard) -> Iterator[tuple[int, int]]:
        """Yield the first index and the index after the last one of each chunk of a shard."""
        length = min(_MAX_CHUNK_PICTURES, max(1, CHUNK_BYTES // (self.size**2 * 3)))
        for start in range(shard.start, shard.stop, length):
            yield start, min(start + length, shard.stop)

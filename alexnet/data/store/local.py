"""Stores in a folder of this machine, read through memory maps.

The pages that the loader touches belong to the page cache of the operating system, not to the process.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg

from alexnet.data.store.base import Split, StoreInfo
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.format import (
    PROGRESS_FILE,
    STATISTICS_FILE,
    find_shards,
    read_safetensors,
    read_shard,
    read_shard_metadata,
    split_counts,
)
from alexnet.data.store.statistics import Statistics


class LocalSplit(Split):
    """A split of a store in a folder.

    Args:
        name: "train", "val", "test" or "train+val".
        paths: Its shards, in order.
        info: What the store says about itself.
        open_again: Opens the same split, in another process.

    Raises:
        ValueError: A shard is damaged.
    """

    def __init__(self, name: str, paths: Sequence[Path], info: StoreInfo, open_again: Callable[[], Split]) -> None:
        batches = [batch for path in paths for batch in read_shard(path)[0]]
        labels = [np.empty(0, np.int32), *(batch.column("label").to_numpy() for batch in batches)]
        if any((values < 0).any() or (values >= len(info.classes)).any() for values in labels):
            raise ValueError(f"{paths[0].parent}: a shard of {name!r} has a label of no class; prepare the store again")
        batch_sizes = [batch.num_rows for batch in batches]
        super().__init__(name, info, np.concatenate(labels).astype(np.int64), batch_sizes, open_again)
        self._encoding = info.encoding
        self._names = [batch.column("name") for batch in batches]
        self._pixels: list[np.ndarray] = []  # of raw pictures, for each record batch (rows, size, size, 3)
        self._jpegs: list[tuple[np.ndarray, memoryview]] = []  # of JPEG pictures: offsets and bytes
        for batch in batches:
            if info.encoding == "raw":
                self._pixels.append(self._map_pixels(batch, paths[0].parent))
            else:
                _, offsets, data = batch.column("image").buffers()
                self._jpegs.append((np.frombuffer(offsets, np.int32), memoryview(data).cast("B")))
        self._batch_addresses = np.array([pixels.ctypes.data for pixels in self._pixels], np.uint64)

    def _map_pixels(self, batch: pa.RecordBatch, folder: Path) -> np.ndarray:
        """Return the raw pictures of a record batch, (rows, size, size, 3), without a copy."""
        column, size = batch.column("image"), self.size
        data = column.buffers()[1]
        if column.type.byte_width != size * size * 3 or data.size < batch.num_rows * size * size * 3:
            raise ValueError(f"{folder}: a shard of {self.name!r} is damaged; prepare the store again")
        return np.frombuffer(data, np.uint8).reshape(-1, size, size, 3)[: batch.num_rows]

    def picture_name(self, index: int) -> str:
        """Return the name of a picture: its path within the source."""
        batch, row = self._locate(index)
        return str(self._names[batch][row].as_py())

    def image(self, index: int) -> np.ndarray:
        """Return a picture as (size, size, 3) uint8 RGB.

        A raw picture is a read-only view of the memory map, without a copy. A JPEG picture is decoded without Python's
        global lock.
        """
        batch, row = self._locate(index)
        if self._encoding == "raw":
            pixels: np.ndarray = self._pixels[batch][row]
            return pixels
        offsets, data = self._jpegs[batch]
        return np.asarray(simplejpeg.decode_jpeg(data[offsets[row] : offsets[row + 1]], colorspace="RGB"))

    def images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield several pictures, as `image` returns them."""
        return map(self.image, indices)

    def memory_addresses(self, indices: np.ndarray) -> np.ndarray | None:
        """Return the memory addresses of raw pictures, (N,) uint64; None for JPEG pictures."""
        if self._encoding != "raw":
            return None
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(
                f"pictures {indices.min()} to {indices.max()} are out of range: split {self.name!r} has {len(self)}"
            )
        batches = np.searchsorted(self._batch_starts, indices, side="right") - 1
        rows = (indices - self._batch_starts[batches]).astype(np.uint64)
        addresses: np.ndarray = self._batch_addresses[batches] + rows * np.uint64(self.size * self.size * 3)
        return addresses


class LocalBackend:
    """The files of a store in a folder.

    Args:
        folder: The folder that `prepare` wrote.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is not a store, not completely prepared, damaged, or of another format.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such store; make it with: alexnet prepare SOURCE {folder}")
        if not (folder / STATISTICS_FILE).is_file():
            if (folder / PROGRESS_FILE).is_file():
                raise ValueError(f"{folder}: only partly prepared; run the same `alexnet prepare` again to finish it")
            raise ValueError(
                f"{folder}: not a store (no {STATISTICS_FILE}); make one with: alexnet prepare SOURCE STORE"
            )
        statistics_metadata = read_safetensors(folder / STATISTICS_FILE)[1]
        counts = split_counts(statistics_metadata, folder)
        self._folder = folder
        self._shards = {split: find_shards(folder, split) for split in counts}
        metadata = read_shard_metadata(next(iter(self._shards.values()))[0])
        classes, class_ids = tuple(metadata["classes"]), ClassIds.from_metadata(statistics_metadata)
        self.info = StoreInfo(folder, metadata["size"], metadata["encoding"], classes, counts, class_ids)

    def read_statistics(self) -> Statistics:
        """Return the statistics of the training pictures."""
        return Statistics.load(self._folder / STATISTICS_FILE)

    def open_split(self, name: str, parts: Sequence[str]) -> LocalSplit:
        """Return a split with the pictures of one or several splits of the store, one after another."""
        paths = [path for part in parts for path in self._shards[part]]
        return LocalSplit(name, paths, self.info, partial(self.open_split, name, parts))

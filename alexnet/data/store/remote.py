"""Stores in an object store such as S3: each picture is read by one request, and some are cached on this machine.

A copy of the folder of a store is enough; it is never written to. The byte offsets of the pictures are in
`places.safetensors`. All pictures of a batch are requested concurrently. Each worker thread of the loader waits for its
own batch, without Python's global lock. The library of the file system retries failed requests.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import simplejpeg

from alexnet.data.store.base import Split, StoreInfo
from alexnet.data.store.cache import JOURNAL_BYTES, PictureCache, cache_folder, cache_limit, choose_cached_batches
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.format import (
    OFFSETS_FILE,
    STATISTICS_FILE,
    parse_safetensors,
    shard_name,
    split_counts,
)
from alexnet.data.store.location import StoreURL
from alexnet.data.store.offsets import PictureOffsets, parse_offsets
from alexnet.data.store.remote_folder import ByteRange, RemoteFolder
from alexnet.data.store.statistics import Statistics

_BATCHES_PER_NAME_REQUEST = 64  # record batches whose names are read together: about a kilobyte each


class _CachedReader:
    """Reads byte ranges of a remote folder, from the cache if they are in it."""

    def __init__(self, folder: RemoteFolder, cache: PictureCache | None) -> None:
        self.folder, self.cache = folder, cache

    def read(self, ranges: Sequence[ByteRange], is_cached: Sequence[bool]) -> list[bytes]:
        """Return the bytes of several ranges. Those that are not in the cache are requested concurrently.

        Args:
            ranges: The ranges.
            is_cached: For each of them, whether it belongs into the cache.
        """
        contents: list[bytes | None] = [None] * len(ranges)
        if self.cache:
            contents = [
                self.cache.get(byte_range) if cached else None
                for byte_range, cached in zip(ranges, is_cached, strict=True)
            ]
        missing = [n for n, data in enumerate(contents) if data is None]
        for n, data in zip(missing, self.folder.read_ranges([ranges[n] for n in missing]), strict=True):
            contents[n] = data
            if self.cache and is_cached[n]:
                self.cache.put(ranges[n], data)
        return [data for data in contents if data is not None]


class RemoteSplit(Split):
    """A split of a remote store.

    Args:
        name: "train", "val", "test" or "train+val".
        parts: For each split of the store that it consists of: the name, the offsets, and which record batches are
            cached, (B,) bool.
        info: What the store says about itself.
        reader: Reads the bytes of the pictures.
        open_again: Opens the same split, in another process.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[tuple[str, PictureOffsets, np.ndarray]],
        info: StoreInfo,
        reader: _CachedReader,
        open_again: Callable[[], Split],
    ) -> None:
        self._batches = np.concatenate([offsets.batches for _, offsets, _ in parts])
        labels = np.concatenate([offsets.labels for _, offsets, _ in parts]).astype(np.int64)
        super().__init__(name, info, labels, self._batches[:, 1], open_again)
        self._encoding, self._reader = info.encoding, reader
        self._files = [shard_name(split, number) for split, offsets, _ in parts for number in offsets.batches[:, 0]]
        self._ends = np.concatenate([offsets.ends for _, offsets, _ in parts])
        self._is_cached = np.concatenate([is_cached for *_, is_cached in parts])
        self._names: dict[int, list[str]] = {}  # by record batch

    def picture_name(self, index: int) -> str:
        """Return the name of a picture: its path within the source. One request reads many names."""
        batch, row = self._locate(index)
        if batch not in self._names:
            first = batch - batch % _BATCHES_PER_NAME_REQUEST
            self._read_names(range(first, min(first + _BATCHES_PER_NAME_REQUEST, len(self._files))))
        return self._names[batch][row]

    def _read_names(self, batches: range) -> None:
        """Read the names of all pictures of some record batches."""
        ranges = [ByteRange(self._files[n], int(self._batches[n, 4]), int(self._batches[n, 6])) for n in batches]
        for n, data in zip(batches, self._reader.read(ranges, [False] * len(ranges)), strict=True):
            _, rows, _, _, offsets_start, names_start, _ = self._batches[n].tolist()
            offsets, names = np.frombuffer(data, np.int32, rows + 1), data[names_start - offsets_start :]
            self._names[n] = [names[start:stop].decode() for start, stop in pairwise(offsets)]

    def _byte_range(self, index: int) -> tuple[ByteRange, bool]:
        """Return the bytes of a picture, and whether they belong into the cache."""
        batch, row = self._locate(index)
        base = int(self._batches[batch, 2])
        if self._encoding == "raw":
            size = self.size * self.size * 3
            start, stop = row * size, (row + 1) * size
        else:
            start, stop = (int(end) for end in self._ends[index + batch : index + batch + 2])
        return ByteRange(self._files[batch], base + start, base + stop), bool(self._is_cached[batch])

    def image(self, index: int) -> np.ndarray:
        """Return a picture as (size, size, 3) uint8 RGB; it is read-only if the encoding is raw.

        Raises:
            OSError: It cannot be read.
            ValueError: The shard is damaged.
        """
        return next(self.images([index]))

    def images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield several pictures. Their bytes are requested concurrently; each is decoded when it is its turn."""
        requests = [self._byte_range(int(index)) for index in indices]
        ranges, is_cached = [byte_range for byte_range, _ in requests], [cached for _, cached in requests]
        for byte_range, data in zip(ranges, self._reader.read(ranges, is_cached), strict=True):
            yield self._decode(byte_range, data)

    def memory_addresses(self, indices: np.ndarray) -> None:  # noqa: ARG002
        """Return None: the pictures are not in memory."""
        return

    def _decode(self, byte_range: ByteRange, data: bytes) -> np.ndarray:
        """Return a picture from its bytes."""
        if self._encoding == "raw":
            return np.frombuffer(data, np.uint8).reshape(self.size, self.size, 3)
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        except ValueError as error:
            url = f"{self._reader.folder.url}/{byte_range.file}"
            raise ValueError(
                f"{url}: no JPEG at byte {byte_range.start} ({error}); upload the whole store again"
            ) from error


class RemoteBackend:
    """The files of a store in an object store.

    Args:
        url: The URL of the folder.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: A package is missing; or the store is damaged, of another format, or without byte offsets.
        OSError: It cannot be reached.
    """

    def __init__(self, url: StoreURL) -> None:
        folder = RemoteFolder(url)
        statistics = folder.read_file(STATISTICS_FILE)
        self._statistics_path = f"{url}/{STATISTICS_FILE}"
        self._statistics_contents = parse_safetensors(statistics, self._statistics_path)
        counts = split_counts(self._statistics_contents[1], url)
        try:
            offsets = folder.read_file(OFFSETS_FILE)
        except FileNotFoundError as error:
            raise ValueError(
                f"{url}: has no {OFFSETS_FILE}, which holds the byte offsets of its pictures; run the same "
                "`alexnet prepare` again where the store was made, which adds it, and upload it"
            ) from error
        self._offsets, metadata = parse_offsets(offsets, f"{url}/{OFFSETS_FILE}", counts)
        classes, class_ids = tuple(metadata["classes"]), ClassIds.from_metadata(self._statistics_contents[1])
        self.info = StoreInfo(url, metadata["size"], metadata["encoding"], classes, counts, class_ids)
        max_bytes, cache = cache_limit() - JOURNAL_BYTES, None
        if max_bytes > 0:
            # The statistics are sums over all training pixels: stores with different pictures have different ones.
            store_key = hashlib.sha256(statistics + offsets).hexdigest()[:32]
            cache = PictureCache(cache_folder(), max_bytes, store_key)
        self._is_cached = choose_cached_batches(self._offsets, max_bytes)
        self._reader = _CachedReader(folder, cache)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the URL only: another process connects anew."""
        return RemoteBackend, (self.info.path,)

    def read_statistics(self) -> Statistics:
        """Return the statistics of the training pictures."""
        return Statistics.from_tensors(*self._statistics_contents, self._statistics_path)

    def open_split(self, name: str, parts: Sequence[str]) -> RemoteSplit:
        """Return a split with the pictures of one or several splits of the store, one after another."""
        contents = [(part, self._offsets[part], self._is_cached[part]) for part in parts]
        return RemoteSplit(name, contents, self.info, self._reader, partial(self.open_split, name, parts))

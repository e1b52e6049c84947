"""Stores that lie elsewhere, such as in S3: pictures read one by one through fsspec, some of them kept on this disk.

A copy of a store's folder is enough; nothing of it is changed. Where each picture lies is known from
`places.safetensors`, so that opening a store reads two small files, and a picture costs one request for its own bytes.
All pictures of a batch are asked for at once, and each worker thread of the loader waits for its own batch, without
Python's lock. Retries are those of the file system's library.

What is kept on this disk. An epoch asks for each picture once, in a new order. Of a set larger than the cache, "least
recently used" would have thrown most pictures away before they are asked for again; as many pictures as fit, never
exchanged for others, are found every time, and no rule finds more. So each store may keep a fixed part of its pictures:
those it validates and tests on, which are all read every epoch, then those to train on, up to the bound. As no process
ever keeps any other, processes need not agree on anything; and of several machines, each of which reads its own part of
an epoch, all have filled their caches after some epochs. Between stores the rule is diskcache's own, "least recently
stored": a new store drives out what others have left behind. The pictures lie in one SQLite database, whose
transactions make it safe for many processes at once, and whole after any of them is killed.
"""

import hashlib
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from safetensors.numpy import save as safetensors_bytes

from alexnet.data.store.local import (
    FORMAT,
    METADATA_KEY,
    OFFSETS_FILE,
    SHARD_NAME,
    SPLITS,
    STATISTICS_FILE,
    Split,
    Statistics,
    Store,
    StoreURL,
    find_shards,
    parse_safetensors,
    read_shard,
    read_shard_metadata,
    shard_name,
    split_counts,
)
from alexnet.utils.console import note_once
from alexnet.utils.files import write_atomic

CONNECTIONS = 64  # to S3 at once, of a process; the library's own 10 carry 250 pictures/s where each takes 40 ms
NAMES_AT_ONCE = 64  # record batches whose names are read together: about a kilobyte each
CACHE_GB = 10.0
PAGE, IN_PAGE = 4096, 4092  # bytes of a page of SQLite's, and of a picture in it
ROW = PAGE + 1024  # the last page, which is not full, and the entries in the indices
JOURNAL = 8 << 20  # twice the length at which SQLite writes its journal back; it lies beside the database


class ByteRange(NamedTuple):
    """Bytes of a file: the file's name within the store, the first byte and the one after the last."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class PictureOffsets:
    """Where the pictures of a split lie.

    Attributes:
        labels: (N,) int32.
        batches: (B, 7) int64, of each record batch the number of its shard, its rows; then in bytes from the start of
            the shard where its pictures begin and end; where the ends of its names stand; where the names begin and
            end.
        ends: (N + B,) int32, where each JPEG of a record batch begins, and where its last one ends, in bytes from the
            first; empty where pictures are raw.
    """

    labels: np.ndarray
    batches: np.ndarray
    ends: np.ndarray

    @classmethod
    def find(cls, shards: Sequence[Path], encoding: str) -> "PictureOffsets":
        """Read from shards on a disk where their pictures lie."""
        labels, rows, ends = [np.empty(0, np.int32)], [], [np.empty(0, np.int32)]
        for number, path in enumerate(shards):
            batches, whole = read_shard(path)
            for batch in batches:
                _, *image = batch.column("image").buffers()
                _, name_ends, names = batch.column("name").buffers()
                labels.append(batch.column("label").to_numpy())
                if encoding == "jpeg":
                    ends.append(np.frombuffer(image[0], np.int32)[: batch.num_rows + 1])
                    size = int(ends[-1][-1])
                else:
                    size = batch.num_rows * batch.column("image").type.byte_width
                name_size = int(np.frombuffer(name_ends, np.int32)[batch.num_rows])
                first, name_first = image[-1].address - whole.address, names.address - whole.address
                row = [first, first + size, name_ends.address - whole.address, name_first, name_first + name_size]
                if not 0 < min(row) <= max(row) <= whole.size:
                    raise ValueError(f"{path}: must be an Arrow file without compression; prepare the store again")
                rows.append([number, batch.num_rows, *row])
        return cls(np.concatenate(labels), np.array(rows, np.int64).reshape(-1, 7), np.concatenate(ends))

    def tensors(self, split: str) -> dict[str, np.ndarray]:
        """What the file of a store holds of a split."""
        return {f"{split}.{name}": value for name, value in vars(self).items()}

    def whole(self, count: int, size: int, encoding: str) -> bool:
        """Whether it is of so many pictures of that size, and consistent."""
        if self.batches.ndim != 2 or self.batches.shape[1] != 7 or (self.batches < 0).any():
            return False
        rows, lengths = self.batches[:, 1], self.batches[:, 3] - self.batches[:, 2]
        if not len(self.labels) == rows.sum() == count:
            return False
        if encoding == "raw":
            return bool((lengths == rows * size * size * 3).all())
        return len(self.ends) == count + len(rows) and bool((self.ends >= 0).all())

    @property
    def cost(self) -> np.ndarray:
        """(B,) float, the bytes at most that a record batch's pictures take in the cache."""
        rows, size = self.batches[:, 1], self.batches[:, 3] - self.batches[:, 2]
        cost: np.ndarray = size * (PAGE / IN_PAGE) + rows * ROW
        return cost


def write_offsets(store: Path) -> None:
    """Write `places.safetensors` of a store on a disk, whose shards are all there; the same for the same shards.

    Raises:
        ValueError: A shard is damaged or missing.
    """
    splits = {match[1] for path in store.iterdir() if (match := SHARD_NAME.fullmatch(path.name))}
    shards = {split: find_shards(store, split) for split in SPLITS if split in splits or split == "train"}
    about = read_shard_metadata(shards["train"][0])
    facts = {"format": FORMAT} | {name: about[name] for name in ("size", "encoding", "classes")}
    tensors: dict[str, np.ndarray] = {}
    for split, paths in shards.items():
        tensors |= PictureOffsets.find(paths, about["encoding"]).tensors(split)
    metadata = {METADATA_KEY: json.dumps(facts, ensure_ascii=False)}
    write_atomic(store / OFFSETS_FILE, bytes(safetensors_bytes(tensors, metadata=metadata)))


class RemoteFolder:
    """The files of a folder that lies elsewhere.

    Args:
        address: Its URL. Credentials and the like are found where the file system's library looks for them: for S3 in
            the environment (AWS_PROFILE, AWS_ENDPOINT_URL ...), in ~/.aws or from the machine itself.

    Raises:
        ValueError: A package is missing, or the URL is of no kind that fsspec knows.
    """

    def __init__(self, address: StoreURL) -> None:
        import fsspec  # it alone takes as long to import as all else here

        self.address = address
        options = {}
        if address.startswith(("s3://", "s3a://")):
            given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            options = {"config_kwargs": {"max_pool_connections": CONNECTIONS} | given}
        try:
            self._files, self._root = fsspec.url_to_fs(str(address), **options)
        except ImportError as error:
            raise ValueError(f"{address}: needs packages: pip install 'alexnet[remote]' ({error})") from error
        except ValueError as error:
            raise ValueError(f"{address}: no such kind of address ({error}); use one such as s3://bucket/x") from error

    def whole(self, name: str) -> bytes:
        """All of a file.

        Raises:
            FileNotFoundError: It is not there.
            OSError: It cannot be read.
        """
        try:
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        except Exception as error:  # each library raises kinds of its own: botocore, aiohttp, ...
            raise self._told(name, error) from error

    def spans(self, spans: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of several spans, asked for at once.

        Raises:
            FileNotFoundError: A file is not there.
            OSError: A file cannot be read.
            ValueError: A file is shorter.
        """
        if not spans:
            return []
        files, starts, stops = (list(column) for column in zip(*spans, strict=True))
        paths = [f"{self._root}/{file}" for file in files]
        try:
            # Exceptions come as items: what is raised for one would not say which.
            found = self._files.cat_ranges(paths, starts, stops, on_error="return")
        except Exception as error:  # as above
            raise self._told(files[0], error) from error
        return [self._checked(span, data) for span, data in zip(spans, found, strict=True)]

    def _checked(self, span: ByteRange, data: Any) -> bytes:
        """What was found in the place of a span, if it is its bytes."""
        if isinstance(data, Exception):
            raise self._told(span.file, data) from data
        if len(data) != span.stop - span.start:
            raise ValueError(
                f"{self.address}/{span.file}: must have all of bytes {span.start} to {span.stop}, "
                f"as {OFFSETS_FILE} says; it has {len(data)} of them: upload the whole store again"
            )
        return bytes(data)

    def _told(self, name: str, error: Exception) -> OSError:
        """What to raise for what a file system's library raised: one line with the file's address."""
        at = f"{self.address}/{name}"
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(f"{at}: not there ({_line(error)}); mend the address, or upload the store")
        return OSError(
            f"{at}: cannot be read ({_line(error)}); see that the network, the address and the credentials are right, "
            "then run the same again"
        )


def _line(error: Exception) -> str:
    """What went wrong, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Cache:
    """Pictures kept on this machine's disk, for all its processes.

    Args:
        folder: Where; made if it is not there.
        most: Bytes at most.
        store: What tells the pictures of a store from those of all others.

    Raises:
        ValueError: A package is missing.
        OSError: The folder or the database in it cannot be used.
    """

    def __init__(self, folder: Path, most: int, store: str) -> None:
        try:
            import diskcache
        except ImportError as error:
            raise ValueError("keeping remote pictures needs packages: pip install 'alexnet[remote]'") from error

        class Bytes(diskcache.Disk):
            """Bytes as they are; diskcache would also unpickle, which runs what others may have put there."""

            def fetch(self, *row: Any) -> Any:
                _mode, _filename, value, _read = row
                return value

        self.folder, self._most, self._store, self._full = folder, most, store, False
        self._failures = (sqlite3.Error, diskcache.Timeout)
        try:
            # No value is ever large enough for a file of its own: those would not be part of a transaction.
            settings = {"size_limit": most, "cull_limit": 0, "disk_min_file_size": 1 << 40}
            self._kept = diskcache.Cache(str(folder), disk=Bytes, **settings)
            self._kept.cull()
        except (*self._failures, OSError) as error:
            raise self._unusable(error) from error

    def get(self, span: ByteRange) -> bytes | None:
        """The bytes of a span, if they are kept.

        Raises:
            OSError: The database is damaged.
        """
        try:
            found = self._kept.get(self._key(span))
        except self._failures as error:
            raise self._unusable(error) from error
        return found if isinstance(found, bytes) and len(found) == span.stop - span.start else None

    def put(self, span: ByteRange, data: bytes) -> None:
        """Keep the bytes of a span; where the disk is full, nothing more is kept."""
        if self._full:
            return
        try:
            self._kept.set(self._key(span), data)
            if self._kept.volume() > self._most:  # `set` itself would remove ten, however small they are
                self._kept.cull()
        except self._failures as error:
            self._full = True
            note_once(f"no more pictures are kept in {self.folder} ({_line(error)}): the others are fetched each time")

    def _key(self, span: ByteRange) -> str:
        return f"{self._store}/{span.file}/{span.start}"

    def _unusable(self, error: Exception) -> OSError:
        return OSError(f"{self.folder}: cannot keep pictures there ({_line(error)}); remove it, or set ALEXNET_CACHE")


def cache_bytes() -> int:
    """How much of the disk may be used, from ALEXNET_CACHE_GB; 0 for none.

    Raises:
        ValueError: It is no number.
    """
    text = os.environ.get("ALEXNET_CACHE_GB") or str(CACHE_GB)
    try:
        size = float(text)
    except ValueError:
        size = -1
    if not 0 <= size < math.inf:
        raise ValueError(f"ALEXNET_CACHE_GB must be a number of gigabytes, 0 for no cache; got {text!r}: set it anew")
    return int(size * 1e9)


def cache_folder() -> Path:
    """Where pictures are kept: ALEXNET_CACHE, or alexnet/ in the user's own folder for such things."""
    chosen, usual = os.environ.get("ALEXNET_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else (Path(usual) if usual else Path.home() / ".cache") / "alexnet"


def fitting(places: Mapping[str, PictureOffsets], most: float) -> dict[str, np.ndarray]:
    """Which record batches a store may keep in so many bytes: those to validate and test on, then those to train on.

    Returns:
        For each split (B,) bool.
    """
    order = sorted(places, key=lambda split: split == "train")
    total = np.cumsum(np.concatenate([places[split].cost for split in order]))
    ends = np.cumsum([len(places[split].batches) for split in order])
    return dict(zip(order, np.split(total <= most, ends[:-1]), strict=True))


class CachedReader:
    """The bytes of a store's pictures, from the disk here where they are kept, else from where they lie."""

    def __init__(self, folder: RemoteFolder, cache: Cache | None) -> None:
        self.folder, self.cache = folder, cache

    def read(self, spans: Sequence[ByteRange], keep: Sequence[bool]) -> list[bytes]:
        """The bytes of spans, each to be kept or not; those that must be fetched are asked for at once."""
        found = [self.cache.get(s) if self.cache and kept else None for s, kept in zip(spans, keep, strict=True)]
        missing = [n for n, data in enumerate(found) if data is None]
        for n, data in zip(missing, self.folder.spans([spans[n] for n in missing]), strict=True):
            found[n] = data
            if self.cache and keep[n]:
                self.cache.put(spans[n], data)
        return [data for data in found if data is not None]


class RemoteSplit(Split):
    """A part of a store that lies elsewhere.

    Args:
        name: "train", "val", "test" or "train+val".
        parts: Of each of its splits the name, where its pictures lie, and which record batches may be kept.
        size: Side of the pictures, in pixels.
        encoding: "raw" or "jpeg".
        pictures: Their bytes.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[tuple[str, PictureOffsets, np.ndarray]],
        size: int,
        encoding: str,
        pictures: CachedReader,
    ) -> None:
        self.name, self.size, self._encoding, self._pictures = name, size, encoding, pictures
        self.labels = np.concatenate([places.labels for _, places, _ in parts]).astype(np.int64)
        self._batches = np.concatenate([places.batches for _, places, _ in parts])
        self._files = [shard_name(split, number) for split, places, _ in parts for number in places.batches[:, 0]]
        self._ends = np.concatenate([places.ends for _, places, _ in parts])
        self._keep = np.concatenate([keep for *_, keep in parts])
        self._starts = np.cumsum([0, *self._batches[:, 1]])
        self._bases = None  # the pictures are not in memory
        self._read_names: dict[int, list[str]] = {}

    def picture_name(self, index: int) -> str:
        """The picture's name; those of many pictures beside it are read with it."""
        batch, row = self._place(index)
        if batch not in self._read_names:
            first = batch - batch % NAMES_AT_ONCE
            some = range(first, min(first + NAMES_AT_ONCE, len(self._files)))
            spans = [ByteRange(self._files[n], int(self._batches[n, 4]), int(self._batches[n, 6])) for n in some]
            for n, data in zip(some, self._pictures.read(spans, [False] * len(spans)), strict=True):
                _, rows, *_, ends_at, names_at, _ = self._batches[n].tolist()
                ends, text = np.frombuffer(data, np.int32, rows + 1), data[names_at - ends_at :]
                self._read_names[n] = [text[a:b].decode() for a, b in pairwise(ends)]
        return self._read_names[batch][row]

    def _span(self, index: int) -> tuple[ByteRange, bool]:
        """Where a picture lies, and whether it is to be kept."""
        batch, row = self._place(index)
        base = int(self._batches[batch, 2])
        if self._encoding == "raw":
            size = self.size * self.size * 3
            start, stop = row * size, (row + 1) * size
        else:
            start, stop = (int(end) for end in self._ends[index + batch : index + batch + 2])
        return ByteRange(self._files[batch], base + start, base + stop), bool(self._keep[batch])

    def image(self, index: int) -> np.ndarray:
        """A picture as (size, size, 3) uint8 RGB, read-only where it is kept raw.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not where it should be.
        """
        return next(self.images([index]))

    def images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Several pictures, their bytes asked for at once, each decoded when it is its turn."""
        asked = [self._span(int(index)) for index in indices]
        spans, keep = [span for span, _ in asked], [keep for _, keep in asked]
        for span, data in zip(spans, self._pictures.read(spans, keep), strict=True):
            yield self._decoded(span, data)

    def _decoded(self, span: ByteRange, data: bytes) -> np.ndarray:
        if self._encoding == "raw":
            return np.frombuffer(data, np.uint8).reshape(self.size, self.size, 3)
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
        except ValueError as error:
            at = f"{self._pictures.folder.address}/{span.file}"
            raise ValueError(f"{at}: no JPEG at byte {span.start} ({error}); upload the whole store again") from error


class RemoteStore(Store):
    """A store that lies elsewhere; made by `Store` for the address of one.

    Args:
        path: Its URL.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: A package is missing; the store is damaged, of another format, or does not say where pictures lie.
        OSError: It cannot be reached.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = address = StoreURL(str(path).rstrip("/"))
        self._folder = RemoteFolder(address)
        statistics = self._folder.whole(STATISTICS_FILE)
        self._statistics = parse_safetensors(statistics, f"{address}/{STATISTICS_FILE}")
        self._counts = split_counts(self._statistics[1], address)
        try:
            places = self._folder.whole(OFFSETS_FILE)
        except FileNotFoundError as error:
            raise ValueError(
                f"{address}: has no {OFFSETS_FILE}, which says where its pictures lie; run the same `alexnet prepare` "
                "again where the store was made, which adds it, and upload it"
            ) from error
        about = self._parse(places)
        self._describe(about)
        most, cache = cache_bytes() - JOURNAL, None
        if most > 0:
            # The statistics are sums over all pixels to train on: a store of other pictures has others.
            cache = Cache(cache_folder(), most, hashlib.sha256(statistics + places).hexdigest()[:32])
        self._keep = fitting(self._places, most - (1 << 20))  # a megabyte for the empty database
        self._pictures = CachedReader(self._folder, cache)

    def _parse(self, contents: bytes) -> dict[str, Any]:
        """Set where pictures lie, from the contents of the file that says it; returns what else it says."""
        at = f"{self.path}/{OFFSETS_FILE}"
        tensors, about = parse_safetensors(contents, at)
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{at}: store format {about.get('format')}, this version reads {FORMAT}; prepare the source again"
            )
        names = ("labels", "batches", "ends")
        self._places = {
            split: PictureOffsets(*(tensors[f"{split}.{name}"] for name in names))
            for split in self._counts
            if all(f"{split}.{name}" in tensors for name in names)
        }
        for split, count in self._counts.items():
            if split not in self._places or not self._places[split].whole(count, about["size"], about["encoding"]):
                raise ValueError(
                    f"{at}: does not say where the {count} pictures of {split!r} lie; upload the whole store again"
                )
        return about

    @cached_property
    def statistics(self) -> Statistics:
        """The mean activity and colour components of the training part."""
        return Statistics.from_tensors(*self._statistics, f"{self.path}/{STATISTICS_FILE}")

    def _open(self, name: str, parts: tuple[str, ...]) -> Split:
        """The pictures of some splits, one after another, under a name."""
        some = [(part, self._places[part], self._keep[part]) for part in parts]
        return RemoteSplit(name, some, self.size, self.encoding, self._pictures)

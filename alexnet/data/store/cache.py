"""Pictures of remote stores that are cached on a disk of this machine.

An epoch reads each picture once, in a new order. If a store is larger than the cache, a "least recently used" cache
would drop most pictures before they are read again. A fixed set of as many pictures as fit gives more hits, and no
policy gives more than that. So a fixed part of each store is cached: first the pictures of the validation and test
splits, which are all read in every epoch, then training pictures, up to the limit. All processes choose the same
pictures without communication. If several machines each read their own shard of an epoch, all caches are full after
some epochs. Between stores the policy is diskcache's "least recently stored": a new store replaces the pictures of
older ones.

The cache is one SQLite database. Its transactions make it safe for many processes at once, and it stays intact if any
of them is killed.
"""

import math
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.store.offsets import PictureOffsets
from alexnet.data.store.remote_folder import ByteRange
from alexnet.utils.console import format_error, note_once
from alexnet.utils.extras import missing_extra

_DEFAULT_GIGABYTES = 10.0
_PAGE, _PAGE_DATA = 4096, 4092  # the bytes of a page of SQLite, and the bytes of a picture in it
_ROW = _PAGE + 1024  # the bytes of the last page, which is not full, and of the entries in the indices
_EMPTY_DATABASE = 1 << 20
JOURNAL_BYTES = 8 << 20  # twice the size at which SQLite writes its journal back; it is a file beside the database


class PictureCache:
    """Bytes of pictures in a database on this machine, shared by all its processes.

    Args:
        folder: The folder of the database; created if needed.
        max_bytes: The limit of its size.
        store_key: A string that is different for stores with different pictures.

    Raises:
        ValueError: A package is missing.
        OSError: The folder or its database cannot be used.
    """

    def __init__(self, folder: Path, max_bytes: int, store_key: str) -> None:
        try:
            import diskcache
        except ImportError as error:
            raise missing_extra("caching remote pictures", "remote", error) from error

        class RawBytes(diskcache.Disk):
            """Plain bytes; by default diskcache also unpickles, which would run code that others may have put there."""

            def fetch(self, *row: Any) -> Any:
                _mode, _filename, value, _read = row
                return value

        self.folder, self._max_bytes, self._store_key, self._is_full = folder, max_bytes, store_key, False
        self._database_errors = (sqlite3.Error, diskcache.Timeout)
        try:
            # No value is ever large enough for a file of its own, which would not be part of a transaction.
            settings = {"size_limit": max_bytes, "cull_limit": 0, "disk_min_file_size": 1 << 40}
            self._database = diskcache.Cache(str(folder), disk=RawBytes, **settings)
            self._database.cull()
        except (*self._database_errors, OSError) as error:
            raise self._unusable(error) from error

    def get(self, byte_range: ByteRange) -> bytes | None:
        """Return the bytes of a range; None if they are not cached.

        Raises:
            OSError: The database is damaged.
        """
        try:
            data = self._database.get(self._key(byte_range))
        except self._database_errors as error:
            raise self._unusable(error) from error
        return data if isinstance(data, bytes) and len(data) == byte_range.stop - byte_range.start else None

    def put(self, byte_range: ByteRange, data: bytes) -> None:
        """Add the bytes of a range. After the disk is full, nothing more is added."""
        if self._is_full:
            return
        try:
            self._database.set(self._key(byte_range), data)
            if self._database.volume() > self._max_bytes:  # `set` would remove ten entries, however small they are
                self._database.cull()
        except self._database_errors as error:
            self._is_full = True
            note_once(
                f"no more pictures are cached in {self.folder} ({format_error(error)}): "
                "the others are fetched each time"
            )

    def _key(self, byte_range: ByteRange) -> str:
        return f"{self._store_key}/{byte_range.file}/{byte_range.start}"

    def _unusable(self, error: Exception) -> OSError:
        return OSError(
            f"{self.folder}: cannot cache pictures there ({format_error(error)}); remove it, or set ALEXNET_CACHE"
        )


def cache_limit() -> int:
    """Return the maximum size of the cache in bytes, from ALEXNET_CACHE_GB; 0 for no cache.

    Raises:
        ValueError: It is not a number.
    """
    text = os.environ.get("ALEXNET_CACHE_GB") or str(_DEFAULT_GIGABYTES)
    try:
        size = float(text)
    except ValueError:
        size = -1
    if not 0 <= size < math.inf:
        raise ValueError(
            f"ALEXNET_CACHE_GB must be a number of gigabytes, 0 for no cache; got {text!r}: set it to a number"
        )
    return int(size * 1e9)


def cache_folder() -> Path:
    """Return the folder of the cache: ALEXNET_CACHE, or alexnet/ in the user's cache folder."""
    folder, user_caches = os.environ.get("ALEXNET_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if folder:
        return Path(folder)
    return (Path(user_caches) if user_caches else Path.home() / ".cache") / "alexnet"


def choose_cached_batches(offsets: Mapping[str, PictureOffsets], max_bytes: int) -> dict[str, np.ndarray]:
    """Choose the record batches of a store whose pictures are cached: validation and test pictures first.

    Args:
        offsets: The offsets of each split.
        max_bytes: The limit of the size of the database.

    Returns:
        For each split (B,) bool.
    """
    order = sorted(offsets, key=lambda split: split == "train")
    total = np.cumsum(np.concatenate([_cached_bytes(offsets[split]) for split in order]))
    ends = np.cumsum([len(offsets[split].batches) for split in order])
    return dict(zip(order, np.split(total <= max_bytes - _EMPTY_DATABASE, ends[:-1]), strict=True))


def _cached_bytes(offsets: PictureOffsets) -> np.ndarray:
    """Return the maximum size in the database of the pictures of each record batch, (B,) float."""
    rows, size = offsets.batches[:, 1], offsets.batches[:, 3] - offsets.batches[:, 2]
    total: np.ndarray = size * (_PAGE / _PAGE_DATA) + rows * _ROW
    return total

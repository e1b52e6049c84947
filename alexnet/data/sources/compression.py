"""Files compressed with gzip, bzip2, xz or Zstandard: read as a stream, or unpacked into a temporary file.

A compressed archive cannot be read at any position, but the pictures of a store have another order than those of the
archive, and several threads read them. So the archive is unpacked once, into a temporary file without a name: any
number of threads read it, memory does not grow, and nothing is left when the process ends or is killed. It costs one
pass over the archive in each call, also in one that resumes, and the space of the unpacked archive on the disk.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from tqdm import tqdm

from alexnet.utils.console import format_bytes, note_once
from alexnet.utils.files import explain_full_disk
from alexnet.utils.progress import LINE_SECONDS

_FORMATS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_CHUNK_BYTES = 1 << 20
MAX_DICTIONARY_BYTES = 1 << 28  # of xz; its strongest preset has 64 MiB
# Pictures hardly shrink. A small file can unpack to a disk full of zeros.
_MAX_RATIO = 200  # of the unpacked size to the size of the archive
ALWAYS_ALLOWED_BYTES = 1 << 30  # whatever the ratio
_SPARE_BYTES = 1 << 28  # left free on the disk


def compression_format(path: Path) -> str | None:
    """Return "gzip", "bzip2", "xz" or "zstd" if the file at `path` is compressed; else None."""
    with path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in _FORMATS.items() if start.startswith(magic)), None)


def open_decompressed(path: Path, max_bytes: int | None = None) -> BinaryIO:
    """Open a file to read its contents from the start; they are decompressed if it is compressed.

    Args:
        path: The file.
        max_bytes: How many bytes of a compressed file may be read; by default as many as `max_unpacked_bytes` allows.
            More are a ValueError.
    """
    stream: Any
    match compression_format(path):
        case "gzip":
            stream = gzip.open(path)  # noqa: SIM115, the reader closes it
        case "bzip2":
            stream = bz2.open(path)  # noqa: SIM115
        case "xz":
            stream = _XzReader(path)
        case "zstd":
            stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        case _:
            return path.open("rb")
    return io.BufferedReader(_LimitedReader(path, stream, max_bytes or max_unpacked_bytes(path)), _CHUNK_BYTES)


def max_unpacked_bytes(path: Path) -> int:
    """Return how many bytes an archive may unpack to: far more than pictures do, but no disk full of zeros."""
    return max(ALWAYS_ALLOWED_BYTES, _MAX_RATIO * path.stat().st_size)


def unpacks_to_too_much(path: Path, max_bytes: int) -> ValueError:
    """Return the error for an archive that unpacks to more than it may."""
    return ValueError(
        f"{path}: an archive may unpack to at most {_MAX_RATIO} times its size; this one of "
        f"{path.stat().st_size:,} bytes unpacks to more than {max_bytes:,}: unpack it yourself if you trust it"
    )


def unpack_to_temporary_file(path: Path) -> int:
    """Unpack a compressed file into a temporary file without a name.

    Args:
        path: The compressed file.

    Returns:
        The descriptor of the temporary file. It has the modification time of the compressed one.

    Raises:
        ValueError: It unpacks to far more than pictures do, or to more than the disk has room for; see
            `max_unpacked_bytes`.
        OSError: The disk is full.
    """
    folder, status = Path(tempfile.gettempdir()), path.stat()
    room = shutil.disk_usage(folder).free - _SPARE_BYTES
    size, note_time = 0, time.monotonic() + LINE_SECONDS
    note = f"{path}: a compressed archive, unpacked into a temporary file in {folder} (TMPDIR sets the folder)"
    with (
        explain_full_disk(folder),
        open_decompressed(path) as source,
        tempfile.TemporaryFile(dir=folder) as file,
        tqdm(desc=f"unpack {path.name}", unit="B", unit_scale=True, disable=None) as bar,
    ):
        while chunk := source.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > room:
                raise ValueError(
                    f"{path}: the unpacked archive needs more than the {format_bytes(max(room, 0))} that are free in "
                    f"{folder}; free some space, or set TMPDIR to a folder on another disk"
                )
            file.write(chunk)
            bar.update(len(chunk))
            if time.monotonic() >= note_time:
                note_once(note)
        file.flush()
        os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        descriptor = os.dup(file.fileno())
    note_once(note)  # not before, unless it takes long: so an error above stands alone
    return descriptor


class _LimitedReader(io.RawIOBase):
    """The contents of a compressed file, up to a limit.

    Args:
        path: The file, for the error message.
        stream: Reads the contents.
        max_bytes: The limit.
    """

    def __init__(self, path: Path, stream: Any, max_bytes: int) -> None:
        self._path, self._stream, self._max_bytes, self._count = path, stream, max_bytes, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # Buffer is not in typing before Python 3.12
        """Read into a buffer, and return the number of bytes; 0 at the end.

        Raises:
            ValueError: There are more bytes than the limit.
        """
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._count += len(data)
        if self._count > self._max_bytes:
            raise unpacks_to_too_much(self._path, self._max_bytes)
        return len(data)

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
        super().close()


class _XzReader(io.RawIOBase):
    """The contents of an xz file. Unlike lzma.open, it limits the memory that the file can ask for.

    Args:
        path: The file; several streams may follow each other in it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._decompressor = self._new_decompressor()

    @staticmethod
    def _new_decompressor() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY_BYTES)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # Buffer is not in typing before Python 3.12
        """Read into a buffer, and return the number of bytes; 0 at the end.

        Raises:
            EOFError: The file is cut off.
        """
        view, data = memoryview(buffer).cast("B"), b""
        while not data:
            if self._decompressor.eof:
                rest = (self._decompressor.unused_data or self._file.read(_CHUNK_BYTES)).lstrip(b"\0")  # padding
                if not rest:
                    return 0
                self._decompressor = self._new_decompressor()
            else:
                rest = self._file.read(_CHUNK_BYTES) if self._decompressor.needs_input else b""
                if not rest and self._decompressor.needs_input:
                    raise EOFError("the file ends within the compressed data")
            data = self._decompressor.decompress(rest, len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

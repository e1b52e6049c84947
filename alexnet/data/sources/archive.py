"""A .zip or .tar that contains a folder of pictures for each class; read in place, except for a compressed .tar."""

import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.class_folders import open_class_folders
from alexnet.data.sources.compression import (
    compression_format,
    max_unpacked_bytes,
    open_decompressed,
    unpack_to_temporary_file,
    unpacks_to_too_much,
)
from alexnet.data.sources.file_tree import FileEntry, check_file_size
from alexnet.data.sources.tar import ArchiveFile, TarRegion, explain_damage, normalise_path

NAME = "a .tar (also .gz, .bz2, .xz, .zst) or .zip of class folders"
OPTIONS: tuple[str, ...] = ("train_per_class",)
MAX_HEADER_BYTES = 1 << 25  # unpacked, to see whether a file is a .tar


def matches(path: Path) -> bool:
    """Return whether there is a .zip or a .tar, compressed or not, at `path`."""
    return path.is_file() and (_is_zip(path) or _is_tar(path))


def open(path: Path, options: SourceOptions) -> Source:
    """Open the pictures of an archive.

    Raises:
        ValueError: The archive is damaged, unpacks to too much, or has too few classes or pictures; or an option does
            not suit it.
        OSError: The disk is full.
    """
    return open_class_folders(path, open_tree(path), options)


def open_tree(path: Path) -> "ZipTree | TarTree":
    """Open an archive for which `matches` is true.

    Raises:
        ValueError: The archive is damaged, or unpacks to too much.
        OSError: The disk is full.
    """
    return ZipTree(path) if _is_zip(path) else TarTree(path)


def _is_zip(path: Path) -> bool:
    """Return whether a file is a .zip, or the beginning of one: its directory is at its end."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(path)


def first_names_in_tar(path: Path, count: int = 6) -> set[str]:
    """Return the names, without folders, of the first members of a .tar; none if the file is no .tar.

    Args:
        path: A file; the .tar may be compressed.
        count: Number of members to read.

    Raises:
        ValueError: The archive is damaged.
    """
    return {name.rpartition("/")[2] for name in first_paths_in_tar(path, count)}


def first_paths_in_tar(path: Path, count: int = 6) -> list[str]:
    """Return the paths of the first members of a .tar, as `first_names_in_tar` returns their names."""
    if not path.is_file() or not _is_tar(path):
        return []
    with open_tar_stream(path) as archive:
        return [member.name for member in islice(archive, count)]


def _is_tar(path: Path) -> bool:
    """Return whether a file is a .tar, compressed or not.

    Raises:
        ValueError: It is compressed and damaged at its start.
    """
    try:
        with explain_damage(path), open_decompressed(path, MAX_HEADER_BYTES) as stream:
            tarfile.open(fileobj=stream, mode="r|").close()
    except ValueError as error:
        cause = error.__cause__
        # tarfile raises its own error in place of zlib's, too, with zlib's as the context.
        if isinstance(cause, tarfile.TarError) and not isinstance(cause.__context__, zlib.error):
            return False
        raise
    return True


@contextmanager
def open_tar_stream(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a .tar, compressed or not, whose members are read once, in their order.

    Raises:
        ValueError: The archive is damaged.
    """
    with (
        explain_damage(path),
        open_decompressed(path) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        yield archive


class TarTree:
    """The files in a .tar. Their offsets are found by reading all headers once.

    Args:
        path: The .tar. If it is compressed, it is unpacked into a temporary file (see compression.py).

    Raises:
        ValueError: The archive is damaged, or unpacks to too much.
        OSError: The disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        descriptor = None
        if compression_format(path) is not None:
            with explain_damage(path):
                descriptor = unpack_to_temporary_file(path)
        self._file = ArchiveFile(path, descriptor)

    def entries(self) -> Iterator[FileEntry]:
        """List the files and folders in the archive's order.

        Raises:
            ValueError: The archive is damaged or cut short.
        """
        return TarRegion(self._file).entries()

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file.

        Raises:
            ValueError: The file is too large for a picture, or cut off.
        """
        return self._file.read_picture(entry)


class ZipTree:
    """The files in a .zip.

    Raises:
        ValueError: The archive is damaged, or unpacks to too much.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        if path.exists() and not zipfile.is_zipfile(path):
            raise ValueError(
                f"{path}: damaged archive (cut off before the list of its files); copy or download it again"
            )
        with explain_damage(path), zipfile.ZipFile(path) as archive:
            self._members = archive.infolist()
        # The members of a .zip may share their compressed bytes, so each alone may look harmless.
        if sum(member.file_size for member in self._members) > (most := max_unpacked_bytes(path)):
            raise unpacks_to_too_much(path, most)
        self._file = os.open(path, os.O_RDONLY)

    def entries(self) -> Iterator[FileEntry]:
        """List the files and folders in the archive's order."""
        mtime = os.fstat(self._file).st_mtime_ns
        for index, member in enumerate(self._members):
            path = normalise_path(str(self._path), member.filename)
            if path:
                yield FileEntry(path + "/") if member.is_dir() else FileEntry(path, member.file_size, index, mtime)

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file.

        Raises:
            ValueError: The file is encrypted, a link, damaged, or compressed by an unusual method.
        """
        member = self._members[entry.offset]
        check_file_size(max(entry.size, member.compress_size))
        if member.flag_bits & 1:
            raise ValueError("encrypted in the .zip; unpack it and give the folder")
        if stat.S_ISLNK(member.external_attr >> 16):  # its contents are the path that it leads to
            raise ValueError("a link in the .zip: pack the file that it points to")
        # The local header repeats the name and has extra fields. Their lengths may differ from those in the directory.
        header = os.pread(self._file, 30, member.header_offset)
        name_length, extra_length = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        data = os.pread(self._file, member.compress_size, member.header_offset + 30 + name_length + extra_length)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
            except zlib.error as error:
                raise ValueError(f"damaged in the .zip ({error}); copy or download the archive again") from error
        elif member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"compressed in the .zip by method {member.compress_type}, but only stored and deflated files can be "
                "read; unpack it and give the folder"
            )
        if len(data) != entry.size or zlib.crc32(data) != member.CRC:
            raise ValueError("damaged in the .zip (wrong checksum); copy or download the archive again")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # it is missing if the archive could not be opened
            os.close(self._file)

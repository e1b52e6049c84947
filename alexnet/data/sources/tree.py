"""Where picture files lie: a folder, an uncompressed .tar, a .zip. Each lists its files and reads one of them.

Nothing is unpacked to disk. Reading is by place (pread), so that any number of threads may read at once.
"""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MOST_BYTES = 1 << 28  # of one picture file; more is no photograph


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or (path ending in "/") a folder.

    Args:
        path: Its place in the tree, with "/" between the names.
        size: Bytes of the file.
        offset: Where it starts in a .tar; its number in a .zip's table.
    """

    path: str
    size: int = 0
    offset: int = 0


class Tree(Protocol):
    """Files with their paths."""

    name: str

    def entries(self) -> Iterator[Entry]:
        """The files and folders, hidden ones left out."""
        ...

    def read(self, entry: Entry) -> bytes:
        """The contents of a file that `entries` gave."""
        ...


class Folder:
    """The files under a folder of the disk; symbolic links are followed, circles of them are not."""

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name or str(path)
        self._path = path

    def entries(self) -> Iterator[Entry]:
        """The files and folders, in the order of their names."""
        status = self._path.stat()
        yield from self._under(str(self._path), "", ((status.st_dev, status.st_ino),))

    def _under(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        with os.scandir(folder) as found:
            inside = sorted((entry for entry in found if not _hidden(entry.name)), key=lambda entry: entry.name)
        for entry in inside:
            if entry.is_dir():
                status = entry.stat()
                place = (status.st_dev, status.st_ino)
                if place not in above:
                    yield Entry(f"{prefix}{entry.name}/")
                    yield from self._under(entry.path, f"{prefix}{entry.name}/", (*above, place))
            elif entry.is_file():
                yield Entry(prefix + entry.name, entry.stat().st_size)
            elif entry.is_symlink():  # it leads nowhere: listed, so that it is reported when it cannot be read
                yield Entry(prefix + entry.name)

    def read(self, entry: Entry) -> bytes:
        """The contents of a file."""
        _check_size(entry.size)
        return (self._path / entry.path).read_bytes()


class Tar:
    """The files in an uncompressed .tar, whose places are found by reading its headers once."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._file = os.open(path, os.O_RDONLY)

    def entries(self) -> Iterator[Entry]:
        """The files and folders, in the archive's order.

        Raises:
            ValueError: The archive is damaged or cut short.
        """
        end = 0
        try:
            with tarfile.open(self._path, "r:") as archive:
                for member in archive:
                    end = member.offset_data + (member.size + 511 if member.isreg() else 0) // 512 * 512
                    path = _tidy(member.name)
                    if path and member.isdir():
                        yield Entry(path + "/")
                    elif path and member.isreg() and not member.issparse():
                        yield Entry(path, member.size, member.offset_data)
        except tarfile.TarError as error:
            raise ValueError(f"{self._path}: damaged archive ({error}); copy or download it again") from error
        # tarfile takes a header that is cut off or overwritten for the end; the true end is zeros, or the file's.
        if os.pread(self._file, 512, end) not in (b"", bytes(512)):
            raise ValueError(f"{self._path}: damaged archive (at byte {end:,}); copy or download it again")

    def read(self, entry: Entry) -> bytes:
        """The contents of a file."""
        _check_size(entry.size)
        return os.pread(self._file, entry.size, entry.offset)

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # not where the archive could not be opened
            os.close(self._file)


class Zip:
    """The files in a .zip."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            with zipfile.ZipFile(path) as archive:
                self._infos = archive.infolist()
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: damaged archive ({error}); copy or download it again") from error
        self._file = os.open(path, os.O_RDONLY)

    def entries(self) -> Iterator[Entry]:
        """The files and folders, in the archive's order."""
        for number, info in enumerate(self._infos):
            path = _tidy(info.filename)
            if path:
                yield Entry(path + "/") if info.is_dir() else Entry(path, info.file_size, number)

    def read(self, entry: Entry) -> bytes:
        """The contents of a file.

        Raises:
            ValueError: It is encrypted, damaged, or compressed by a rare method.
        """
        info = self._infos[entry.offset]
        _check_size(entry.size)
        if info.flag_bits & 1:
            raise ValueError("encrypted in the .zip; unpack it and give the folder")
        # The local header repeats the name, and has extra fields of a length of its own.
        header = os.pread(self._file, 30, info.header_offset)
        start = (
            info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        )
        data = os.pread(self._file, info.compress_size, start)
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.size + 1)
            except zlib.error as error:
                raise ValueError(f"damaged in the .zip ({error}); copy or download the archive again") from error
        elif info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"compressed in the .zip by method {info.compress_type}, stored and deflated are read; "
                "unpack it and give the folder"
            )
        if len(data) != entry.size or zlib.crc32(data) != info.CRC:
            raise ValueError("damaged in the .zip (its checksum does not fit); copy or download the archive again")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_file"):  # not where the archive could not be opened
            os.close(self._file)


def _hidden(name: str) -> bool:
    """Whether a file or folder is the operating system's, and no one's picture."""
    return name.startswith(".") or name == "__MACOSX"


def _tidy(path: str) -> str:
    """An archive member's path without "./" and doubled slashes; "" if it is hidden."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    return "" if any(map(_hidden, names)) else "/".join(names)


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"a picture file must have at most {MOST_BYTES:,} bytes; got {size:,}: save it smaller")

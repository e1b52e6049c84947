"""The members of an uncompressed .tar, which may itself be a member of another .tar; listed and read in place.

A .tar has no directory: the headers lie between the files, and all of them are read once to list it.
"""

import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from lzma import LZMAError
from pathlib import Path

from alexnet.data.sources.file_tree import FileEntry, check_file_size, is_hidden

# NotImplementedError: a .zip that needs a later version of it than there is.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, LZMAError, zlib.error, NotImplementedError)
MAX_HEADER_BYTES = 1 << 24  # of a member: long names, and what programs add to it
_TAR_BLOCK = 512  # bytes; headers and files in a .tar start at multiples of it


@contextmanager
def explain_damage(path: Path | str) -> Iterator[None]:
    """Turn the exceptions of a damaged archive into a ValueError that says what to do."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; those of the libraries that decompress have no number
        raise ValueError(f"{path}: damaged archive ({error}); copy or download it again") from error


class ArchiveFile:
    """An open file from which any number of threads may read at once, since they share no file position.

    Args:
        path: The file.
        descriptor: Its descriptor, if it is open already.

    Attributes:
        path: The file.
        size: Its size in bytes.
        mtime: When it was last modified, in nanoseconds.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY) if descriptor is None else descriptor
        status = os.fstat(self._descriptor)
        self.size, self.mtime = status.st_size, status.st_mtime_ns

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from an offset on, or less if the file ends before."""
        return os.pread(self._descriptor, size, offset)

    def read_picture(self, entry: FileEntry) -> bytes:
        """Return the contents of a picture file in this archive.

        Raises:
            ValueError: The file is too large for a picture, or cut off.
        """
        check_file_size(entry.size)
        data = self.read(entry.offset, entry.size)
        if len(data) < entry.size:
            raise ValueError(f"cut off in {self.path.name}; copy or download the archive again")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # it is missing if the file could not be opened
            os.close(self._descriptor)


class TarRegion:
    """A .tar in a file or in a part of a file. It has the methods of a file that the module `tarfile` calls.

    Args:
        file: The open file.
        member: The entry of the .tar, if it is a member of the .tar in the file.
    """

    def __init__(self, file: ArchiveFile, member: FileEntry | None = None) -> None:
        self._file = file
        self.name = str(file.path) + (f", member {member.path}" if member else "")
        self._start, self._size = (member.offset, member.size) if member else (0, file.size)
        self._position = 0

    def read(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            ValueError: They are too many for a header, the only thing that `tarfile` reads here.
        """
        if count > MAX_HEADER_BYTES:
            raise ValueError(f"{self.name}: damaged archive (a header of {count:,} bytes); copy or download it again")
        data = self._file.read(self._start + self._position, min(count, self._size - self._position))
        self._position += len(data)
        return data

    def seek(self, position: int) -> int:
        """Go to a position, which may be after the end."""
        self._position = min(position, self._size)
        return position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def entries(self) -> Iterator[FileEntry]:
        """List the files and folders in the archive's order, without hidden ones. Offsets are those in the file.

        Hard links to files come last, as files with the same contents. Symbolic links are left out.

        Raises:
            ValueError: The archive is damaged or cut short, or a path leads out of it.
        """
        hard_links: dict[str, list[str]] = {}
        yield from self._entries(hard_links)
        if hard_links:
            for entry in self._entries({}):  # again, so that not every entry must be kept
                for path in hard_links.get(entry.path, ()):
                    yield replace(entry, path=path)

    def _entries(self, hard_links: dict[str, list[str]]) -> Iterator[FileEntry]:
        """List the files and folders, and add the paths of the hard links to each file to `hard_links`."""
        self.seek(0)
        end = 0
        with explain_damage(self.name), tarfile.open(fileobj=self, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # else a kilobyte a member would be kept, over a gigabyte for all of ImageNet
                end = archive.offset  # of the next header
                is_file = member.isreg() and not member.issparse()
                if is_file and member.offset_data + member.size > self._size:
                    raise ValueError(
                        f"{self.name}: damaged archive (cut off in member {member.name!r}); copy or download it again"
                    )
                path = _member_path(self.name, member)
                if path and member.isdir():
                    yield FileEntry(path + "/")
                elif path and is_file:
                    yield FileEntry(path, member.size, self._start + member.offset_data, self._file.mtime)
                elif path and member.islnk():
                    hard_links.setdefault(normalise_path(self.name, member.linkname), []).append(path)
        # tarfile stops without an error at a header that is cut off or overwritten. A block of zeros, or the end of the
        # archive, is the true end.
        self.seek(end)
        if self.read(_TAR_BLOCK) not in (b"", bytes(_TAR_BLOCK)):
            raise ValueError(f"{self.name}: damaged archive (at byte {end:,}); copy or download it again")


def normalise_path(archive: str, path: str) -> str:
    """Return the path of an archive's member without "./" and doubled slashes; "" if it is hidden.

    Args:
        archive: The archive, for messages.
        path: The path.

    Raises:
        ValueError: The path is absolute or leads out of the archive.
    """
    names = [name for name in path.split("/") if name not in ("", ".")]
    if path.startswith("/") or ".." in names:
        raise ValueError(
            f"{archive}: the path of a member must be relative and stay within the archive; got {path!r}: pack the "
            "folder again"
        )
    return "" if any(map(is_hidden, names)) else "/".join(names)


def _member_path(archive: str, member: tarfile.TarInfo) -> str:
    """Return the normalised path of a member.

    Raises:
        ValueError: The path, or the one that a link leads to, is absolute or leads out of the archive.
    """
    path = normalise_path(archive, member.name)
    if member.issym() or member.islnk():
        folder = posixpath.dirname(member.name) if member.issym() else ""  # a hard link is relative to the root
        target = posixpath.normpath(posixpath.join(folder, member.linkname))
        if target.startswith("/") or target.split("/")[0] == "..":
            raise ValueError(
                f"{archive}: a link must stay within the archive; member {member.name!r} leads to "
                f"{member.linkname!r}: pack the files themselves (tar --dereference)"
            )
    return path

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
from lzma import LZMAError
from pathlib import Path

from alexnet.data.sources.file_tree import FileEntry, is_hidden

_TAR_BLOCK = 512  # bytes; headers and files in a .tar start at multiples of it


@contextmanager
def explain_damage(path: Path | str) -> Iterator[None]:
    """Turn the exceptions of a damaged archive into a ValueError that says what to do."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, LZMAError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; those of the libraries that decompress have no number
        raise ValueError(f"{path}: damaged archive ({error}); copy or download it again") from error


class TarRegion:
    """A .tar in a file or in a part of a file. It has the methods of a file that the module `tarfile` calls.

    Args:
        name: Its name, for messages.
        descriptor: The open file. The file position is not used, so that any number of threads may read.
        start: Where the .tar starts in the file.
        size: Its size in bytes.
    """

    def __init__(self, name: str, descriptor: int, start: int, size: int) -> None:
        self.name, self._descriptor, self._start, self._size = name, descriptor, start, size
        self._position = 0

    @classmethod
    def whole_file(cls, path: Path, descriptor: int) -> "TarRegion":
        """Return the region of a .tar that is a file of its own."""
        return cls(str(path), descriptor, 0, os.fstat(descriptor).st_size)

    def member(self, entry: FileEntry) -> "TarRegion":
        """Return the region of a member that is a .tar itself."""
        return TarRegion(f"{self.name}, member {entry.path}", self._descriptor, entry.offset, entry.size)

    def read(self, count: int) -> bytes:
        """Return the next bytes."""
        data = os.pread(self._descriptor, min(count, self._size - self._position), self._start + self._position)
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

        Raises:
            ValueError: The archive is damaged or cut short, or a path leads out of it.
        """
        end, mtime = 0, os.fstat(self._descriptor).st_mtime_ns
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
                    yield FileEntry(path, member.size, self._start + member.offset_data, mtime)
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

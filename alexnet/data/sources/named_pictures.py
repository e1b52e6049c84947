"""Pictures that a user names: files, folders, patterns, archives, web addresses, and a list of such names."""

import glob
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alexnet.data.sources import archive
from alexnet.data.sources.file_tree import FileTree, check_file_size
from alexnet.data.sources.folder import FolderTree
from alexnet.data.sources.listing import is_picture_name
from alexnet.data.sources.web_file import is_web_address, read_web_file

STANDARD_INPUT = "-"
_ARCHIVE_ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NamedPicture:
    """A picture file that is not read yet.

    Args:
        name: Its path or address; of a file in an archive, the archive's path and the path in it.
        read: Return its contents, or raise a ValueError or an OSError that says why they cannot be read.
    """

    name: str
    read: Callable[[], bytes]


def iter_named_pictures(names: Iterable[str], lines: Iterable[str] = ()) -> Iterator[NamedPicture]:
    """Yield the pictures that names stand for, in the order of the names; nothing is read before its turn.

    Within a folder the pictures are sorted by name, folder by folder; files with other endings than pictures have are
    left out. In an archive they have its order. What cannot be opened, and what has no pictures, is a picture whose
    `read` raises the reason.

    Args:
        names: Paths of files, folders and archives; patterns such as "birds/*.jpg", where "**" stands for any folders;
            http and https addresses; "-" for the lines.
        lines: More names, one in a line, such as those on standard input.
    """
    for name in names:
        yield from _from_lines(lines) if name == STANDARD_INPUT else _from_name(name)


def read_lines(descriptor: int) -> Iterator[str]:
    """Yield the lines of an open file or pipe without their ends, each as soon as it is written.

    They are read without Python's buffers, whose lock a thread that waits for a line would hold when the process ends.
    """
    rest = b""
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield os.fsdecode(line.removesuffix(b"\r"))
    if rest:
        yield os.fsdecode(rest)


def _from_lines(lines: Iterable[str]) -> Iterator[NamedPicture]:
    empty = True
    for line in lines:
        if line:
            empty = False
            yield from _from_name(line)
    if empty:
        reason = "standard input must have the names of pictures, one in each line; it has none"
        yield _unreadable(STANDARD_INPUT, ValueError(reason))


def _from_name(name: str) -> Iterator[NamedPicture]:
    """Yield the pictures that one name stands for, at least one."""
    path = Path(name)
    try:
        if is_web_address(name):
            yield NamedPicture(name, partial(read_web_file, name))
        elif path.is_dir():
            yield from _in_tree(name, FolderTree(path))
        elif _is_archive(path):
            yield from _in_tree(name, archive.open_tree(path))
        elif glob.has_magic(name) and not os.path.lexists(path):
            yield from _from_pattern(name)
        else:
            yield NamedPicture(name, partial(_read_file, path))
    except (ValueError, OSError) as error:  # of a folder or an archive; the pictures before it have been yielded
        yield _unreadable(name, error)


def _from_pattern(pattern: str) -> Iterator[NamedPicture]:
    paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207, Path.glob takes no absolute pattern
    if "**" in pattern:  # it names the files in the folders, too
        paths = [path for path in paths if not Path(path).is_dir()]
    if not paths:
        raise ValueError(f"{pattern}: no file has a name of this pattern; check it")
    for path in paths:
        yield from _from_name(path)


def _in_tree(name: str, tree: FileTree) -> Iterator[NamedPicture]:
    """Yield the pictures in a folder or an archive."""
    empty = True
    for entry in tree.entries():
        if not entry.path.endswith("/") and is_picture_name(entry.path):
            empty = False
            yield NamedPicture(str(Path(name) / entry.path), partial(tree.read, entry))
    if empty:
        raise ValueError(f"{name}: no file in it has the name of a picture, such as .jpg or .png; name other pictures")


def _is_archive(path: Path) -> bool:
    """Return whether there is an archive at `path`; a file with the ending of a picture is not opened to know it.

    Raises:
        ValueError: It has the name of an archive, but is none.
    """
    if not path.is_file() or (path.suffix and is_picture_name(path.name)):
        return False
    if archive.matches(path):
        return True
    if path.name.lower().endswith(_ARCHIVE_ENDINGS):
        raise ValueError(f"{path}: not a readable .tar or .zip; copy or download it again")
    return False


def _read_file(path: Path) -> bytes:
    """Return the contents of a file or a pipe.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is too large for a picture.
    """
    status = path.stat()
    check_file_size(status.st_size)
    if stat.S_ISREG(status.st_mode):
        return path.read_bytes()
    data = bytearray()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            data += chunk
            check_file_size(len(data))
    return bytes(data)


def _unreadable(name: str, error: ValueError | OSError) -> NamedPicture:
    """Return a picture whose `read` raises an error."""

    def read() -> bytes:
        raise error

    return NamedPicture(name, read)

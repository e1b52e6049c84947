"""Files in a folder or an archive, listed and read in place, and a source whose pictures are such files.

Nothing is unpacked to disk. Any number of threads may read at once: files in archives are read with `os.pread`, which
shares no file position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from alexnet.data.sources.base import SourceSplit
from alexnet.data.store.class_ids import ClassIds

# Of macOS, of network storage (Synology, QNAP), of Windows, and of Linux.
_SYSTEM_FOLDERS = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recycled"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
    )
)
MAX_FILE_BYTES = 1 << 28  # no photograph has a larger file


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, or a folder if the path ends with "/".

    Args:
        path: Path within the tree, with "/" between the names.
        size: Size of the file in bytes.
        offset: Where the file starts in a .tar; its index in the directory of a .zip; 0 in a folder.
        mtime: When the file, or the archive around it, was last modified, in nanoseconds.
    """

    path: str
    size: int = 0
    offset: int = 0
    mtime: int = 0


class FileTree(Protocol):
    """Files with their paths: a folder or an archive."""

    name: str

    def entries(self) -> Iterator[FileEntry]:
        """List the files and folders, without hidden ones."""
        ...

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file that `entries` has listed."""
        ...


@dataclass(eq=False)
class PictureFiles:
    """A `Source` whose pictures are files in a folder or an archive.

    Args:
        name: Name of the folder or archive.
        classes: The class names.
        splits: The listing of each split.
        ignored: Number of files that are not pictures, by the ending of their names.
        tree: The files.
        size: None, because the pictures differ in size.
        class_ids: The contest's numbers of the classes, or None.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, SourceSplit]
    ignored: dict[str, int]
    tree: FileTree
    size: int | None = None
    class_ids: ClassIds | None = None

    def read(self, split: str, index: int) -> bytes:
        """Return the bytes of a picture file."""
        pictures = self.splits[split]
        entry = FileEntry(pictures.picture_name(index), int(pictures.sizes[index]), int(pictures.offsets[index]))
        return self.tree.read(entry)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to the operating system or another program."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS


def check_file_size(size: int) -> None:
    """Raise a ValueError if a file is too large for a picture."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"a picture file must have at most {MAX_FILE_BYTES:,} bytes; got {size:,}: save it smaller")

"""A folder on disk that contains a folder of pictures for each class."""

import os
from collections.abc import Iterator
from pathlib import Path

from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.class_folders import open_class_folders
from alexnet.data.sources.file_tree import FileEntry, check_file_size, is_hidden

NAME = "a folder of class folders"
OPTIONS: tuple[str, ...] = ("train_per_class",)


def matches(path: Path) -> bool:
    """Return whether there is a folder at `path`."""
    return path.is_dir()


def open(path: Path, options: SourceOptions) -> Source:
    """Open the pictures of a folder.

    Raises:
        ValueError: It has too few classes or pictures, or an option does not suit it.
    """
    return open_class_folders(path, FolderTree(path), options)


class FolderTree:
    """The files in a folder and in its subfolders. Symbolic links are followed, except into a folder above them."""

    def __init__(self, path: Path) -> None:
        self.name = path.resolve().name or str(path)
        self._path = path

    def entries(self) -> Iterator[FileEntry]:
        """List the files and folders, sorted by name within each folder."""
        status = self._path.stat()
        yield from self._entries_in(str(self._path), "", ((status.st_dev, status.st_ino),))

    def _entries_in(self, folder: str, prefix: str, parents: tuple[tuple[int, int], ...]) -> Iterator[FileEntry]:
        """List a subfolder; `parents` are the devices and inodes of it and the folders above."""
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir():
                status = entry.stat()
                inode = (status.st_dev, status.st_ino)
                if inode not in parents:
                    yield FileEntry(f"{prefix}{entry.name}/")
                    yield from self._entries_in(entry.path, f"{prefix}{entry.name}/", (*parents, inode))
            elif entry.is_file():
                status = entry.stat()
                yield FileEntry(prefix + entry.name, status.st_size, mtime=status.st_mtime_ns)
            elif entry.is_symlink():  # a broken link is listed, so that it is reported when it cannot be read
                yield FileEntry(prefix + entry.name)

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file."""
        check_file_size(entry.size)
        return (self._path / entry.path).read_bytes()

"""The picture files of a tree, listed by folder."""

import os
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from alexnet.data.sources.base import SourceSplit
from alexnet.data.sources.file_tree import FileEntry, FileTree

# HEIC needs the extra "heic". Without it such files are reported, not silently ignored.
_PICTURE_ENDINGS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
        *("tga", "ico", "avif", "jp2", "j2k", "pcx", "sgi", "heic", "heif"),
    )
)
_REPLACED = "replaced by a later member of the same path"  # in an archive

FolderPath = tuple[str, ...]  # the names of the folders from the root of the tree


@dataclass(frozen=True, eq=False)
class FileList:
    """Picture files in flat arrays: about 70 bytes for each.

    Args:
        sizes: The size of each file in bytes.
        offsets: Where each file starts in an archive.
        mtimes: When each file was last modified, in nanoseconds.
    """

    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    mtimes: "array[int]" = field(default_factory=lambda: array("q"))
    # The paths of all files in the bytes of the file system, one after another, and where each starts: a list of bytes
    # objects would take twice the memory.
    _joined_names: bytearray = field(default_factory=bytearray)
    _name_starts: "array[int]" = field(default_factory=lambda: array("q", (0,)))

    def __len__(self) -> int:
        return len(self.sizes)

    def names(self) -> list[bytes]:
        """Return the path of each file within the tree, in the bytes of the file system."""
        joined = bytes(self._joined_names)
        return [joined[start:stop] for start, stop in pairwise(self._name_starts)]

    def drop_duplicate_paths(self) -> "FileList":
        """Return a list in which each path is once: the last of the same path, which unpacking an archive leaves."""
        last = {name: index for index, name in enumerate(self.names())}
        if len(last) == len(self):
            return self
        files = FileList()
        for index in sorted(last.values()):
            files.append(self.take(index))
        return files

    def append(self, entry: FileEntry) -> None:
        """Add a file."""
        self._joined_names.extend(os.fsencode(entry.path))
        self._name_starts.append(len(self._joined_names))
        self.sizes.append(entry.size)
        self.offsets.append(entry.offset)
        self.mtimes.append(entry.mtime)

    def joined(self, other: "FileList") -> "FileList":
        """Return a list of the files of this list and of another one."""
        starts = array("q", (start + len(self._joined_names) for start in other._name_starts[1:]))
        return FileList(
            self.sizes + other.sizes,
            self.offsets + other.offsets,
            self.mtimes + other.mtimes,
            self._joined_names + other._joined_names,
            self._name_starts + starts,
        )

    def take(self, index: int) -> FileEntry:
        """Return one file."""
        path = os.fsdecode(bytes(self._joined_names[self._name_starts[index] : self._name_starts[index + 1]]))
        return FileEntry(path, self.sizes[index], self.offsets[index], self.mtimes[index])

    def to_split(self, label: int) -> SourceSplit:
        """Return the listing of these files as pictures of one class, sorted by name."""
        names = self.names()
        order = sorted(range(len(names)), key=names.__getitem__)
        sizes, offsets, mtimes = (np.array(a, np.int64)[order] for a in (self.sizes, self.offsets, self.mtimes))
        labels = np.full(len(order), label, np.int32)
        return SourceSplit(pa.array([names[i] for i in order], pa.binary()), labels, sizes, offsets, mtimes)


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of a tree.

    Args:
        folders: The picture files of each folder that has some, and an empty list for each folder without any entry.
        ignored: Number of files that are not pictures, by the ending of their names.
        texts: The files that were asked for by name, by folder and name.
    """

    folders: dict[FolderPath, FileList]
    ignored: Counter[str]
    texts: dict[FolderPath, FileEntry]

    def subfolders(self, parent: FolderPath) -> list[str]:
        """Return the names of the folders directly in a folder, sorted."""
        depth = len(parent)
        return sorted({folder[depth] for folder in self.folders if len(folder) > depth and folder[:depth] == parent})

    def files_below(self, parent: FolderPath) -> FileList:
        """Return the picture files in a folder and in its subfolders."""
        lists = (files for folder, files in self.folders.items() if folder[: len(parent)] == parent)
        return reduce(FileList.joined, lists, FileList())


def is_picture_name(name: str) -> bool:
    """Return whether a file of this name may be a picture: it has the ending of one, or none."""
    ending = PurePosixPath(name).suffix.lower()
    return not ending or ending in _PICTURE_ENDINGS


def list_files(tree: FileTree, text_names: frozenset[str] = frozenset()) -> Listing:
    """List the files of a tree.

    Args:
        tree: The files.
        text_names: The names of files to list beside the pictures.
    """
    folders: dict[FolderPath, FileList] = {}
    ignored: Counter[str] = Counter()
    texts: dict[FolderPath, FileEntry] = {}
    not_empty: set[FolderPath] = set()  # folders with a file or folder of any kind in them
    all_folders: set[FolderPath] = set()
    for entry in tree.entries():
        *parents, name = entry.path.rstrip("/").split("/")
        folder = tuple(parents)
        not_empty.update(folder[:depth] for depth in range(len(folder) + 1))
        if entry.path.endswith("/"):
            all_folders.add((*folder, name))
        elif is_picture_name(name):
            folders.setdefault(folder, FileList()).append(entry)
        elif name in text_names:
            texts[(*folder, name)] = entry
        else:
            ignored[PurePosixPath(name).suffix.lower()] += 1
    for folder, files in folders.items():
        folders[folder] = files.drop_duplicate_paths()
        if replaced := len(files) - len(folders[folder]):
            ignored[_REPLACED] += replaced
    return Listing(folders | {folder: FileList() for folder in all_folders - not_empty}, ignored, texts)

"""ImageNet's picture files by synset: in a .tar or folder for each synset, or numbered in one .tar or folder.

Each class here lists files as "n02123045/n02123045_1.JPEG", with the WordNet ID of the synset as their folder, whatever
the archives look like. Nothing is unpacked.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from alexnet.checked import require
from alexnet.data.sources.archive import TarTree
from alexnet.data.sources.file_tree import FileEntry, FileTree
from alexnet.data.sources.folder import FolderTree
from alexnet.data.sources.tar import ArchiveFile, TarRegion
from alexnet.utils.wordnet import WNID

_NUMBER = re.compile(r"_(\d+)\.jpe?g$", re.IGNORECASE)  # of ILSVRC2012_val_00000001.JPEG


class SynsetFiles(Protocol):
    """Files in a folder for each synset."""

    def entries(self) -> Iterator[FileEntry]:
        """List the files, and the folders of the synsets that have a folder or archive of their own."""
        ...

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file that `entries` has listed."""
        ...


def synset_of_tar(name: str) -> str | None:
    """Return the synset of a .tar that is named by it, "n02123045.tar"; None for other names."""
    path = PurePosixPath(name)
    return path.stem if path.suffix == ".tar" and WNID.fullmatch(path.stem) else None


def select_synsets(path: Path, synsets: Collection[str], list_file: Path | None) -> set[str]:
    """Return the synsets in a list; all if there is no list.

    Args:
        path: The pictures, for messages.
        synsets: The synsets that they have.
        list_file: A text file. Each line begins with a WordNet ID; empty lines and lines that begin with "#" are left
            out.

    Raises:
        ValueError: A line is none of these synsets, or there are fewer than two.
    """
    if list_file is None:
        return set(synsets)
    selected: set[str] = set()
    for number, line in enumerate(list_file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        synset = next(iter(line.split()), "#")
        if synset.startswith("#"):
            continue
        require(synset in synsets, f"{list_file}, line {number}: a synset", f"one of those of {path}", synset)
        selected.add(synset)
    require(len(selected) >= 2, str(list_file), "a list of 2 synsets or more, one a line", f"{len(selected)} synsets")
    return selected


class SynsetTars:
    """A .tar for each synset, in a .tar (ILSVRC2012_img_train.tar) or in a folder (the release of Fall 2009).

    Args:
        path: The .tar or the folder.

    Attributes:
        synsets: The name of each synset's .tar, by synset, sorted.

    Raises:
        ValueError: The .tar is damaged, a member is not the .tar of a synset, or two are of the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outer = None if path.is_dir() else ArchiveFile(path)
        self._members: dict[str, FileEntry] = {}
        if self._outer is None:
            names = [child.name for child in path.iterdir()]
        else:
            names = [entry.path for entry in self._list_outer(self._outer)]
        by_synset = {synset: name for name in names if (synset := synset_of_tar(name)) is not None}
        self.synsets = dict(sorted(by_synset.items()))

    def _list_outer(self, outer: ArchiveFile) -> Iterator[FileEntry]:
        """List the members of the outer .tar, and keep their entries."""
        for entry in TarRegion(outer).entries():
            if entry.path.endswith("/"):
                continue
            synset = synset_of_tar(entry.path)
            if synset is None or synset in self._members:
                rule = "only one .tar for each synset" if synset else "only the .tar of a synset, such as n02123045.tar"
                raise ValueError(f"{self._path}: must have {rule}; got {entry.path!r}: download the archive again")
            self._members[synset] = entry
            yield entry

    def keep(self, synsets: Collection[str]) -> None:
        """Leave all other synsets out. Their archives are then not even read."""
        self.synsets = {synset: name for synset, name in self.synsets.items() if synset in synsets}

    def entries(self) -> Iterator[FileEntry]:
        """List the files of all synsets.

        Raises:
            ValueError: A .tar is damaged or empty.
        """
        for synset in self.synsets:
            yield from _entries_in_tar(synset, TarRegion(self._file(synset), self._members.get(synset)))

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file."""
        return self._file(entry.path.partition("/")[0]).read_picture(entry)

    def _file(self, synset: str) -> ArchiveFile:
        """Return the file with the .tar of a synset."""
        # The archives of a folder are opened for each picture: they are more than a process may have open files.
        return self._outer or ArchiveFile(self._path / self.synsets[synset])


class SynsetFolders:
    """A folder of a folder for each synset, which the archives are unpacked to.

    Args:
        path: The folder.

    Attributes:
        synsets: The name of each synset's folder, by synset, sorted. Other folders are listed all the same.
    """

    def __init__(self, path: Path) -> None:
        self._tree = FolderTree(path)
        names = sorted(child.name for child in path.iterdir() if child.is_dir())
        self.synsets = {name: f"folder {name}" for name in names if WNID.fullmatch(name)}
        self._left_out: set[str] = set()

    def keep(self, synsets: Collection[str]) -> None:
        """Leave all other synsets out."""
        self._left_out = set(self.synsets).difference(synsets)

    def entries(self) -> Iterator[FileEntry]:
        """List the files of all synsets, and other files."""
        for entry in self._tree.entries():
            if entry.path.partition("/")[0] not in self._left_out:
                yield entry

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file."""
        return self._tree.read(entry)


def _entries_in_tar(synset: str, tar: TarRegion) -> Iterator[FileEntry]:
    """List the files of one synset's .tar in a folder named by the synset.

    Raises:
        ValueError: The .tar is damaged or empty.
    """
    is_empty = True
    yield FileEntry(f"{synset}/")
    for entry in tar.entries():
        is_empty = False
        yield replace(entry, path=f"{synset}/{entry.path}")
    if is_empty:
        raise ValueError(f"{tar.name}: the .tar of a synset must have pictures; it is empty: download it again")


class NumberedFiles:
    """Numbered pictures in one .tar or folder, with a list of their synsets: ILSVRC2012_img_val.tar.

    Args:
        path: The .tar or folder.
        synsets: The synset of each picture; that of number N is at index N - 1.
    """

    def __init__(self, path: Path, synsets: Sequence[str]) -> None:
        self._path, self._synsets = path, synsets
        self._tree: FileTree = FolderTree(path) if path.is_dir() else TarTree(path)

    def entries(self) -> Iterator[FileEntry]:
        """List the numbered pictures by synset, and other files outside of these.

        Raises:
            ValueError: The .tar is damaged, or a number is greater than that of the labels.
        """
        for entry in self._tree.entries():
            name = entry.path.rpartition("/")[2]
            match = _NUMBER.search(name)
            if match is None:
                if name:  # a folder of the .tar, such as val/, has none
                    yield replace(entry, path=name)
                continue
            if not 1 <= int(match[1]) <= len(self._synsets):
                raise ValueError(
                    f"{self._path}: a picture must have a number from 1 to {len(self._synsets):,}, the number of "
                    f"labels; got {entry.path!r}: use the labels that belong to these pictures"
                )
            yield replace(entry, path=f"{self._synsets[int(match[1]) - 1]}/{name}")

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file."""
        return self._tree.read(replace(entry, path=entry.path.rpartition("/")[2]))


class CorrectedFiles:
    """Files of which some are replaced by those of the same name in another .tar: ILSVRC-2010's patch_images.tar.

    Args:
        files: The files.
        corrections: The .tar of the corrected ones.
    """

    def __init__(self, files: SynsetFiles, corrections: Path) -> None:
        self._files, self._corrections = files, ArchiveFile(corrections)

    @cached_property
    def _corrected(self) -> dict[str, FileEntry]:
        """The corrected files, by name without folders."""
        return {PurePosixPath(entry.path).name: entry for entry in TarRegion(self._corrections).entries()}

    def entries(self) -> Iterator[FileEntry]:
        """List the files. A corrected one has a negative offset, that in the other .tar."""
        for entry in self._files.entries():
            other = None if entry.path.endswith("/") else self._corrected.get(PurePosixPath(entry.path).name)
            yield replace(entry, size=other.size, offset=-other.offset) if other else entry

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file, the corrected one if there is one."""
        if entry.offset < 0:
            return self._corrections.read_picture(replace(entry, offset=-entry.offset))
        return self._files.read(entry)


class SynsetSplits:
    """A `FileTree` of splits with a folder for each synset: "train/n02123045/n02123045_1.JPEG".

    Args:
        name: Its name.
        splits: The files of each split. The name "" stands for pictures that are not divided into splits.
        left_out: Synsets whose files are not listed.
    """

    def __init__(self, name: str, splits: Mapping[str, SynsetFiles], left_out: Collection[str] = ()) -> None:
        self.name, self._splits, self._left_out = name, splits, left_out

    def entries(self) -> Iterator[FileEntry]:
        """List the files."""
        for split, files in self._splits.items():
            for entry in files.entries():
                if entry.path.partition("/")[0] not in self._left_out:
                    yield replace(entry, path=f"{split}/{entry.path}" if split else entry.path)

    def read(self, entry: FileEntry) -> bytes:
        """Return the contents of a file."""
        if "" in self._splits:
            return self._splits[""].read(entry)
        split, _, path = entry.path.partition("/")
        return self._splits[split].read(replace(entry, path=path))

"""Classes and splits from the names of folders: a folder of pictures for each class, below train/, val/ or test/."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from alexnet.data.sources.base import SourceOptions, SourceSplit, printable_name
from alexnet.data.sources.file_tree import FileTree, PictureFiles
from alexnet.data.sources.hold_out import hold_out

_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Pillow reads HEIC only with a plugin. It is in this list so that such files are reported, not silently ignored.
_PICTURE_ENDINGS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
        *("tga", "ico", "avif", "jp2", "j2k", "pcx", "sgi", "heic", "heif"),
    )
)
_LAYOUT = "put the pictures of each class into a folder of its own, directly or in train/ and val/ or test/"

_FolderPath = tuple[str, ...]  # the names of the folders from the root of the tree


@dataclass(frozen=True, eq=False)
class _FileList:
    """The picture files in one folder: about 60 bytes for each."""

    names: list[bytes] = field(default_factory=list)
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))

    def extend(self, other: "_FileList") -> None:
        """Add the files of another list."""
        self.names.extend(other.names)
        self.sizes.extend(other.sizes)
        self.offsets.extend(other.offsets)

    def to_split(self, label: int) -> SourceSplit:
        """Return the listing of these files as pictures of one class, sorted by name."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        names = pa.array([self.names[i] for i in order], pa.binary())
        sizes, offsets = np.array(self.sizes, np.int64)[order], np.array(self.offsets, np.int64)[order]
        return SourceSplit(names, np.full(len(order), label, np.int32), sizes, offsets)


def open_class_folders(
    path: Path, tree: FileTree, options: SourceOptions, class_names: Mapping[str, str] | None = None
) -> PictureFiles:
    """Return the source in a tree with a folder for each class, which may be in a folder for each split.

    Args:
        path: The folder or archive, for messages.
        tree: Its files.
        options: How to divide the pictures, if there are no folders for the splits.
        class_names: The class name for each class folder, in the order of the labels. By default the names are those
            of the folders, sorted.

    Raises:
        ValueError: There are too few classes or pictures, the splits differ in their classes, two classes differ in
            upper and lower case only, a folder is none of `class_names`, or `train_per_class` was given although there
            are folders for the splits.
    """
    ignored: Counter[str] = Counter()
    folders = _list_folders(tree, ignored)
    split_folders = _find_split_folders(path, folders, _find_top_folder(folders))
    files = {split: _group_by_class(folders, folder, ignored) for split, folder in split_folders.items()}
    _check_classes(path, files, ignored)
    if class_names is None:
        class_names = {folder: printable_name(folder) for folder in files["train"]}
    class_names = _present_classes(path, files["train"], class_names)
    files = {split: {folder: by_class[folder] for folder in class_names} for split, by_class in files.items()}
    splits = {
        split: SourceSplit.concatenate([pictures.to_split(label) for label, pictures in enumerate(by_class.values())])
        for split, by_class in files.items()
    }
    classes = tuple(class_names.values())
    if list(splits) == ["train"]:
        splits = hold_out(path, classes, splits["train"], options)
    else:
        others = " and ".join(split for split in splits if split != "train")
        options.refuse("train_per_class", path, f"it has a {others} split of its own")
    return PictureFiles(tree.name, classes, splits, dict(ignored), tree)


def _list_folders(tree: FileTree, ignored: Counter[str]) -> dict[_FolderPath, _FileList]:
    """Return the picture files of each folder that has some, and an empty list for each folder that has no entry."""
    folders: dict[_FolderPath, _FileList] = {}
    not_empty: set[_FolderPath] = set()  # folders with a file or folder of any kind in them
    all_folders: set[_FolderPath] = set()
    for entry in tree.entries():
        *parents, name = entry.path.rstrip("/").split("/")
        folder = tuple(parents)
        not_empty.update(folder[:depth] for depth in range(len(folder) + 1))
        if entry.path.endswith("/"):
            all_folders.add((*folder, name))
        elif (ending := PurePosixPath(name).suffix.lower()) and ending not in _PICTURE_ENDINGS:
            ignored[ending] += 1
        else:
            files = folders.setdefault(folder, _FileList())
            files.names.append(os.fsencode(entry.path))
            files.sizes.append(entry.size)
            files.offsets.append(entry.offset)
    return folders | {folder: _FileList() for folder in all_folders - not_empty}


def _list_subfolders(folders: dict[_FolderPath, _FileList], parent: _FolderPath) -> list[str]:
    """Return the names of the folders directly in a folder, sorted."""
    depth = len(parent)
    return sorted({folder[depth] for folder in folders if len(folder) > depth and folder[:depth] == parent})


def _find_top_folder(folders: dict[_FolderPath, _FileList]) -> _FolderPath:
    """Return the folder that contains the class or split folders: archives often have a single folder around them."""
    top: _FolderPath = ()
    while len(names := _list_subfolders(folders, top)) == 1 and top not in folders:
        if names[0].lower() in _SPLIT_FOLDERS or not _list_subfolders(folders, (*top, names[0])):
            break
        top = (*top, names[0])
    return top


def _find_split_folders(path: Path, folders: dict[_FolderPath, _FileList], top: _FolderPath) -> dict[str, _FolderPath]:
    """Return the folder of each split in the order train, val, test; {"train": top} if there are none."""
    names = _list_subfolders(folders, top)
    splits = {name: _SPLIT_FOLDERS[name.lower()] for name in names if name.lower() in _SPLIT_FOLDERS}
    others = [name for name in names if name not in splits]
    # A class may be called "train". Beside other folders it is a split only if there is a val or test folder as well.
    if not splits or (others and not ("train" in splits.values() and len(splits) > 1)):
        return {"train": top}
    if others:
        raise ValueError(
            f"{path}: {', '.join(splits)} are splits, but there is also a folder {others[0]!r}; move it away"
        )
    if "train" not in splits.values():
        raise ValueError(f"{path}: it has {', '.join(splits)} but no train folder; {_LAYOUT}")
    if len(set(splits.values())) < len(splits):
        raise ValueError(f"{path}: {', '.join(splits)}: two folders for one split; keep one of them")
    split_folders = {split: (*top, name) for name, split in splits.items()}
    return {split: split_folders[split] for split in ("train", "val", "test") if split in split_folders}


def _group_by_class(
    folders: dict[_FolderPath, _FileList], parent: _FolderPath, ignored: Counter[str]
) -> dict[str, _FileList]:
    """Return the pictures in each class folder below `parent`, including those in its subfolders, sorted by class."""
    by_class: dict[str, _FileList] = {}
    for folder, files in folders.items():
        if folder == parent and files.names:
            ignored["outside a class folder"] += len(files.names)
        elif folder[: len(parent)] == parent and folder != parent:
            by_class.setdefault(folder[len(parent)], _FileList()).extend(files)
    return dict(sorted(by_class.items()))


def _present_classes(path: Path, folders: Iterable[str], class_names: Mapping[str, str]) -> dict[str, str]:
    """Return the part of `class_names` that has a folder.

    Raises:
        ValueError: A folder has no class name, or two folders differ in upper and lower case only.
    """
    by_lower: dict[str, str] = {}
    for folder in folders:
        if folder not in class_names:
            raise ValueError(f"{path}: folder {folder!r} is none of the {len(class_names)} classes; move it away")
        other = by_lower.setdefault(folder.lower(), folder)
        if other != folder:
            raise ValueError(
                f"{path}: class folders must differ in more than upper and lower case; got {other!r} and {folder!r}: "
                "put their pictures into one folder, or rename one"
            )
    present = set(by_lower.values())
    return {folder: name for folder, name in class_names.items() if folder in present}


def _check_classes(path: Path, files: dict[str, dict[str, _FileList]], ignored: Counter[str]) -> None:
    """Check that all splits have the same classes, at least two, and that no class of a split is empty.

    Args:
        path: The folder or archive, for messages.
        files: The files of each class, by split.
        ignored: Number of files that were ignored, by ending.
    """
    train = set(files["train"])
    for split, by_class in files.items():
        extra, missing = sorted(set(by_class) - train), sorted(train - set(by_class))
        if by_class and (extra or missing):
            differences = [f"only in {split}: {', '.join(extra[:5])}"] if extra else []
            differences += [f"only in train: {', '.join(missing[:5])}"] if missing else []
            raise ValueError(
                f"{path}: train and {split} have different classes ({'; '.join(differences)}); make them the same"
            )
    for split, by_class in files.items():
        if len(by_class) < 2:
            counts = ", ".join(f"{count} {ending}" for ending, count in ignored.items())
            raise ValueError(
                f"{path}: {len(by_class)} classes{'' if len(files) == 1 else f' in {split}'}, at least 2 are needed"
                f"{f'; ignored files: {counts}' if counts else ''}; {_LAYOUT}"
            )
        for name, class_files in by_class.items():
            if not class_files.names:
                raise ValueError(f"{path}: class {name!r} has no pictures in {split}; add some or remove the folder")

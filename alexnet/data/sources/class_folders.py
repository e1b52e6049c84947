"""Classes and splits from the names of folders: a folder of pictures for each class, below train/, val/ or test/."""

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from alexnet.data.sources.base import SourceOptions, printable_name
from alexnet.data.sources.file_tree import FileTree, PictureFiles
from alexnet.data.sources.labelled_files import build_source, count_files
from alexnet.data.sources.labelled_splits import check_classes
from alexnet.data.sources.listing import FileList, FolderPath, Listing, list_files
from alexnet.data.sources.split_names import find_split_names, is_unlabelled_name, split_in_name
from alexnet.data.sources.tiny_imagenet import ANNOTATIONS_FILE, TEXT_FILES, group_by_annotations, name_classes
from alexnet.utils.console import note_once

_LAYOUT = "put the pictures of each class into a folder of its own, directly or in train/ and val/ or test/"


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
        ValueError: There are too few classes or pictures, the splits differ in their classes, a folder is none of
            `class_names`, or `train_per_class` was given although there are folders for the splits.
    """
    listing = list_files(tree, TEXT_FILES)
    top = _find_top_folder(listing)
    split_folders = _find_split_folders(path, listing, top, options)
    files: dict[str, dict[str, FileList]] = {}
    for split, folder in split_folders.items():
        if (*folder, ANNOTATIONS_FILE) in listing.texts:
            files[split] = group_by_annotations(str(path), tree, listing, folder, files.get("train"))
        else:
            files[split] = _group_by_class(listing, folder)
    main_files = files.get("train", next(iter(files.values())))  # those of the classes
    is_test_unlabelled = "test" in files and _is_unlabelled(files["test"], main_files)
    if is_test_unlabelled:
        del files["test"]
    check_classes(path, count_files(files), options, f"{_LAYOUT}{_describe_ignored(listing)}")
    if class_names is None:
        names = map(printable_name, name_classes(str(path), tree, listing, top, main_files))
        class_names = dict(zip(main_files, names, strict=True))
    class_names = _present_classes(path, main_files, class_names)
    source = build_source(path, tree, files, class_names, dict(listing.ignored), options)
    if is_test_unlabelled:  # said at last, so that an error above stands alone
        count = len(listing.files_below(split_folders["test"]))
        note_once(f"{path}: the {count:,} pictures in {'/'.join(split_folders['test'])}/ have no classes: left out")
    return source


def _find_top_folder(listing: Listing) -> FolderPath:
    """Return the folder that contains the class or split folders: archives often have a single folder around them."""
    top: FolderPath = ()
    while len(names := listing.subfolders(top)) == 1 and top not in listing.folders:
        if split_in_name(names[0]) or not listing.subfolders((*top, names[0])):
            break
        top = (*top, names[0])
    return top


def _find_split_folders(path: Path, listing: Listing, top: FolderPath, options: SourceOptions) -> dict[str, FolderPath]:
    """Return the folder of each split in the order train, val, test; {"train": top} if there are none."""
    names = listing.subfolders(top)
    splits = find_split_names(names)
    others = [name for name in names if name not in splits and not is_unlabelled_name(name)]
    # A class may be called "train". Beside other folders it is a split only if there is a val or test folder as well.
    if not splits or (others and not ("train" in splits.values() and len(splits) > 1)):
        _note_split_names(path, listing, top, names)
        return {"train": top}
    if others:
        raise ValueError(
            f"{path}: {', '.join(splits)} are splits, but there is also a folder {others[0]!r}; move it away"
        )
    if "train" not in splits.values() and not options.only_tests:
        raise ValueError(f"{path}: it has {', '.join(splits)} but no train folder; {_LAYOUT}")
    if len(set(splits.values())) < len(splits):
        raise ValueError(f"{path}: {', '.join(splits)}: two folders for one split; keep one of them")
    folders = {split: name for name, split in splits.items()}
    if any(split != name for split, name in folders.items()):
        note_once(f"{path}: " + ", ".join(f"{name}/ is read as {split}" for split, name in folders.items()))
    for name in set(names) - set(splits):
        listing.ignored["in folders of pictures without classes"] += len(listing.files_below((*top, name)))
    return {
        split: _find_inner_folder(listing, (*top, folders[split]))
        for split in ("train", "val", "test")
        if split in folders
    }


def _note_split_names(path: Path, listing: Listing, top: FolderPath, classes: list[str]) -> None:
    """Say which classes may be meant as splits: their names have a word for one, and they have subfolders."""
    doubtful = [name for name in classes if split_in_name(name) and listing.subfolders((*top, name))]
    if doubtful:
        folders = ", ".join(f"{name}/" for name in doubtful)
        note_once(
            f"{path}: {folders} and the folders beside it are read as classes; if it is a split, name them train/, "
            "val/ and test/, with the classes in them, and move all others away"
        )


def _find_inner_folder(listing: Listing, folder: FolderPath) -> FolderPath:
    """Return the folder of a split, or the only folder in it if that has a name of the same split again."""
    split = split_in_name(folder[-1])
    while folder not in listing.folders and len(names := listing.subfolders(folder)) == 1:
        if split_in_name(names[0]) != split:
            break
        folder = (*folder, names[0])
    return folder


def _group_by_class(listing: Listing, parent: FolderPath) -> dict[str, FileList]:
    """Return the pictures in each class folder below `parent`, including those in its subfolders, sorted by class.

    The names of classes are in Unicode's normal form NFC. On macOS and elsewhere, the same name can have another form.
    """
    by_class: dict[str, FileList] = {}
    for folder, files in listing.folders.items():
        if folder == parent and files:
            listing.ignored["outside a class folder"] += len(files)
        elif folder[: len(parent)] == parent and folder != parent:
            name = unicodedata.normalize("NFC", folder[len(parent)])
            by_class[name] = by_class[name].joined(files) if name in by_class else files
    return dict(sorted(by_class.items()))


def _present_classes(path: Path, folders: Iterable[str], class_names: Mapping[str, str]) -> dict[str, str]:
    """Return the part of `class_names` that has a folder.

    Raises:
        ValueError: A folder has no class name.
    """
    present = set(folders)
    if unknown := sorted(present - class_names.keys()):
        raise ValueError(f"{path}: folder {unknown[0]!r} is none of the {len(class_names)} classes; move it away")
    return {folder: name for folder, name in class_names.items() if folder in present}


def _describe_ignored(listing: Listing) -> str:
    """Return what follows a message about missing classes: the number of files that were ignored, by ending."""
    counts = ", ".join(f"{count} {ending}" for ending, count in listing.ignored.items())
    return f" (ignored files: {counts})" if counts else ""


def _is_unlabelled(test: Mapping[str, FileList], train: Mapping[str, FileList]) -> bool:
    """Return whether the pictures to test on have no classes: all are in one folder, which no class is named after.

    Args:
        test: The files of each folder in the folder of the test pictures.
        train: The files of each class.
    """
    return len(test) <= 1 < len(train) and test.keys().isdisjoint(train)

"""Picture files that are grouped by split and class: what they must have, and the source that they make."""

from collections.abc import Mapping
from pathlib import Path

from alexnet.data.sources.base import SourceOptions, SourceSplit
from alexnet.data.sources.file_tree import FileTree, PictureFiles
from alexnet.data.sources.hold_out import hold_out
from alexnet.data.sources.listing import FileList
from alexnet.utils.console import note_once

FilesByClass = Mapping[str, FileList]


def build_source(
    path: Path,
    tree: FileTree,
    files: Mapping[str, FilesByClass],
    class_names: Mapping[str, str],
    ignored: dict[str, int],
    options: SourceOptions,
) -> PictureFiles:
    """Return the source of picture files. In each split they are ordered by class, and by name within a class.

    Args:
        path: The source, for messages.
        tree: The files.
        files: The files of each class, by split.
        class_names: The name of each class, in the order of the labels.
        ignored: Number of files that are not used, by the ending of their names or the reason.
        options: How to divide the pictures, if there are none but of train.

    Raises:
        ValueError: An option does not suit the source, or there are too few pictures to hold some out.
    """
    splits = {
        split: SourceSplit.concatenate(
            [by_class.get(name, FileList()).to_split(label) for label, name in enumerate(class_names)]
        )
        for split, by_class in files.items()
    }
    classes = tuple(class_names.values())
    return PictureFiles(tree.name, classes, _hold_out_if_needed(path, classes, splits, options), ignored, tree)


def _hold_out_if_needed(
    path: Path, classes: tuple[str, ...], splits: dict[str, SourceSplit], options: SourceOptions
) -> dict[str, SourceSplit]:
    """Return the splits of a source, of which some pictures are held out if there are none but those of train.

    Args:
        path: The source, for messages.
        classes: The class names.
        splits: The listing of each split that the source has.
        options: How to divide the pictures.

    Raises:
        ValueError: `train_per_class` does not suit the source, or there are too few pictures to hold some out.
    """
    if list(splits) == ["train"]:
        return hold_out(path, classes, splits["train"], options)
    others = " and ".join(split for split in splits if split != "train")
    options.refuse("train_per_class", path, f"it has a {others} split of its own")
    return splits


def check_classes(path: Path, files: Mapping[str, FilesByClass], options: SourceOptions, remedy: str) -> None:
    """Check that all splits have classes of train only, that train has at least two, and that none of them is empty.

    If there is no train, the first split has all classes.

    Args:
        path: The source, for messages.
        files: The files of each class, by split.
        options: A source that is only tested on may have a single class.
        remedy: What to do if there are too few classes.
    """
    first, *_ = files
    classes = files[first]
    for split, by_class in files.items():
        extra, missing = sorted(by_class.keys() - classes.keys()), sorted(classes.keys() - by_class.keys())
        if extra and classes:
            differences = [f"only in {split}: {', '.join(extra[:5])}"]
            differences += [f"only in {first}: {', '.join(missing[:5])}"] if missing else []
            raise ValueError(
                f"{path}: {first} and {split} have different classes ({'; '.join(differences)}); make them the same"
            )
    for split, by_class in files.items():
        least = 2 if split == "train" and not options.only_tests else 1
        if len(by_class) < least:
            place = "" if len(files) == 1 else f" in {split}"
            raise ValueError(f"{path}: {len(by_class)} classes{place}, at least {least} needed; {remedy}")
        empty = [name for name in classes if name not in by_class or not by_class[name].names]
        if empty and split == first:
            raise ValueError(f"{path}: class {empty[0]!r} has no pictures in {first}; add some or remove the class")
        if empty:
            others = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
            note_once(f"{path}: {split} has no pictures of {', '.join(map(repr, empty[:5]))}{others}")

"""Picture files that are grouped by split and class: the source that they make."""

from collections.abc import Mapping
from pathlib import Path

from alexnet.data.sources.base import SourceOptions, SourceSplit
from alexnet.data.sources.file_tree import FileTree, PictureFiles
from alexnet.data.sources.labelled_splits import divide
from alexnet.data.sources.listing import FileList

FilesByClass = Mapping[str, FileList]


def count_files(files: Mapping[str, FilesByClass]) -> dict[str, dict[str, int]]:
    """Return the number of files of each class, by split."""
    return {split: {name: len(listed) for name, listed in by_class.items()} for split, by_class in files.items()}


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
    return PictureFiles(tree.name, classes, divide(path, classes, splits, options), ignored, tree)

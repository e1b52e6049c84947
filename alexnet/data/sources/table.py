"""Pictures in the rows of tables: the source that they make, whatever the format of the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alexnet.data.sources.base import SourceOptions, SourceSplit
from alexnet.data.sources.file_tree import check_file_size
from alexnet.data.sources.labelled_splits import check_classes, count_pictures, divide
from alexnet.data.sources.labels import check_class_names, sort_labels
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.format import SPLITS
from alexnet.utils.console import count_of, note_once

_ROW_BITS = 40  # of an offset; the bits above them are the number of the file


class PictureRows(Protocol):
    """The column of pictures in one or more files. Any number of threads may read at once."""

    def read(self, file: int, row: int) -> tuple[bytes | None, str | None]:
        """Return a picture's bytes, and its path; None for what is not there."""
        ...


@dataclass(frozen=True, eq=False)
class TableFile:
    """What is listed of one file of a table.

    Args:
        name: Its name, for the names of pictures and for messages.
        labels: (N,) the labels: whole numbers or text.
        paths: (N,) the paths of the pictures; None if the table has none.
        sizes: (N,) int64, the sizes of the pictures in bytes, or about so.
        mtime: When the file was last modified, in nanoseconds.
    """

    name: str
    labels: pa.Array
    paths: pa.Array | None
    sizes: np.ndarray
    mtime: int


@dataclass(eq=False)
class TableSource:
    """A `Source` whose pictures are in the rows of tables. In each split they have the order of the tables.

    Args:
        name: Name of the folder or file.
        classes: The class names.
        splits: The listing of each split.
        rows: The pictures.
        folder: The folder of the files that the tables have only paths of.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, SourceSplit]
    rows: PictureRows
    folder: Path
    ignored: dict[str, int] = field(default_factory=dict)
    size: int | None = None
    class_ids: ClassIds | None = None

    def read(self, split: str, index: int) -> bytes:
        """Return the bytes of a picture file.

        Raises:
            ValueError: The table has no bytes for it, nor a path in the folder of the table.
        """
        file, row = divmod(int(self.splits[split].offsets[index]), 1 << _ROW_BITS)
        contents, path = self.rows.read(file, row)
        if contents is not None:
            check_file_size(len(contents))
            return contents
        if not path or not _is_inside(path):
            raise ValueError("the table has neither its bytes nor a path in the folder of the table")
        check_file_size((self.folder / path).stat().st_size)
        return (self.folder / path).read_bytes()


def build_table_source(
    path: Path,
    rows: PictureRows,
    files: Mapping[str, Sequence[tuple[int, TableFile]]],
    class_names: Sequence[str] | None,
    options: SourceOptions,
) -> TableSource:
    """Return the source of the pictures in tables.

    Args:
        path: The source.
        rows: The pictures of all files.
        files: The files of each split, with their numbers in `rows`.
        class_names: The class names, of which a label is the index; None if the labels are the names.
        options: How to divide the pictures, if there is only one split.

    Raises:
        ValueError: A label is missing or out of range; there are too few classes; or an option does not suit.
    """
    if "train" not in files and not options.only_tests:
        raise ValueError(f"{path}: has {' and '.join(files)}, but nothing to train on; add the files of train")
    are_names = class_names is None
    classes = tuple(_collect_names(path, files) if class_names is None else class_names)
    check_class_names(str(path), classes)
    splits = {}
    for split in [split for split in SPLITS if split in files]:
        pictures = SourceSplit.concatenate(
            [_list_rows(number, file, classes, are_names) for number, file in files[split]]
        )
        if split != "train" and len(pictures) and (pictures.labels < 0).all():
            note_once(f"{path}: the {len(pictures):,} pictures of {split} have no labels: left out")
        elif len(pictures):
            _check_labels(files[split], pictures, classes)
            splits[split] = pictures
    if not splits:
        raise ValueError(f"{path}: has no pictures; download it again")
    check_classes(path, count_pictures(classes, splits), options, "label the pictures with the names of their classes")
    splits = {
        # In the order of the rows: a table is read in pieces of many rows.
        split: pictures.take(np.argsort(pictures.offsets))
        for split, pictures in divide(path, classes, splits, options).items()
    }
    folder = path if path.is_dir() else path.parent
    return TableSource(path.resolve().name, classes, splits, rows, folder)


def _collect_names(path: Path, files: Mapping[str, Sequence[tuple[int, TableFile]]]) -> list[str]:
    """Return the labels of all files, in their order."""
    arrays = [_to_names(file.labels) for of_split in files.values() for _, file in of_split]
    names = pc.unique(pa.chunked_array(arrays, pa.string())).to_pylist()
    return sort_labels(str(path), [name for name in names if name])


def _to_names(labels: pa.Array) -> pa.Array:
    """Return labels as names in Unicode's normal form NFC, without spaces around them."""
    return pc.utf8_trim_whitespace(pc.utf8_normalize(labels.cast(pa.string()), "NFC"))


def _list_rows(number: int, file: TableFile, classes: Sequence[str], are_names: bool) -> SourceSplit:
    """Return the listing of the pictures of a file. A label that is missing is -1, one that is no class is as it is.

    Args:
        number: The number of the file.
        file: The file.
        classes: The class names.
        are_names: Whether the labels are the names, not indices of them.
    """
    count = len(file.labels)
    if are_names:
        labels = pc.index_in(_to_names(file.labels), pa.array(classes, pa.string()))
    else:
        labels = file.labels.cast(pa.int64())
    labels = labels.fill_null(-1).to_numpy(zero_copy_only=False)
    rows = np.arange(count, dtype=np.int64)
    return SourceSplit(
        pa.array(_name_pictures(file), pa.binary()),
        np.clip(labels, -(1 << 31), (1 << 31) - 1).astype(np.int32),
        file.sizes,
        rows | number << _ROW_BITS,
        np.full(count, file.mtime, np.int64),
    )


def _name_pictures(file: TableFile) -> list[bytes]:
    """Return the names of the pictures of a file: their paths if these differ, else the number of the row."""
    paths = [] if file.paths is None else file.paths.to_pylist()
    if len(set(paths)) < len(file.labels):
        paths = [None] * len(file.labels)
    names = (path if path and _is_inside(path) else f"{file.name}#{row}" for row, path in enumerate(paths))
    return [name.encode() for name in names]


def _check_labels(files: Sequence[tuple[int, TableFile]], pictures: SourceSplit, classes: Sequence[str]) -> None:
    """Raise a ValueError if the label of a picture is missing or out of range."""
    wrong = np.flatnonzero((pictures.labels < 0) | (pictures.labels >= len(classes)))
    if len(wrong):
        number, row = divmod(int(pictures.offsets[wrong[0]]), 1 << _ROW_BITS)
        file, label = dict(files)[number], pictures.labels[wrong[0]]
        problem = "no label" if label == -1 else f"label {label}"
        raise ValueError(
            f"{file.name}, row {row}: has {problem}, but there are names of {len(classes)} classes "
            f"({count_of(len(wrong), 'row')} in all): correct the labels, or leave these rows out"
        )


def _is_inside(path: str) -> bool:
    """Return whether a path is relative and stays in its folder."""
    return not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts and "\0" not in path

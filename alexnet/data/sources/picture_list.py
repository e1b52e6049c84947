"""A list of pictures, a .csv, .tsv or .jsonl file: the path, the label and perhaps the split of each picture.

Paths are relative to the folder of the list and stay in it. A folder may have the list in it under the name of
metadata.csv or metadata.jsonl, itself or in the folder of each split, as Hugging Face's "imagefolder" has.
"""

import csv
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from alexnet.data.sources.base import Source, SourceOptions, printable_name
from alexnet.data.sources.file_tree import FileEntry
from alexnet.data.sources.folder import FolderTree
from alexnet.data.sources.labelled_files import build_source, count_files
from alexnet.data.sources.labelled_splits import check_classes
from alexnet.data.sources.labels import LABEL_COLUMNS, sort_labels
from alexnet.data.sources.listing import FileList
from alexnet.data.sources.split_names import find_split_names, split_of_word
from alexnet.data.store.format import SPLITS

NAME = "a .csv, .tsv or .jsonl list of paths and labels"
OPTIONS: tuple[str, ...] = ("train_per_class",)

_ENDINGS = (".csv", ".tsv", ".jsonl")
_METADATA_FILES = tuple(f"metadata{ending}" for ending in _ENDINGS)
# The names of columns, or of fields of JSON. The first one that a list has is taken.
_COLUMNS = {
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image",
        "image_path",
        "img_path",
        "img",
    ),
    "label": LABEL_COLUMNS,
    "split": ("split", "part", "set", "subset"),
}


class _Row(NamedTuple):
    """What a list says about one picture.

    Args:
        place: The list and the line, for messages.
        path: The path, as it is in the list.
        label: The label, without spaces around it.
        split: The word for the split; None if the list has no column for it.
    """

    place: str
    path: str
    label: str
    split: str | None


def matches(path: Path) -> bool:
    """Return whether a list, or a folder with a list of its pictures, is at `path`."""
    return (path.is_file() and path.suffix.lower() in _ENDINGS) or (path.is_dir() and bool(_find_metadata_files(path)))


def open(path: Path, options: SourceOptions) -> Source:
    """Open the pictures of a list. In each split they are ordered by class, and by path within a class.

    Labels that are all numbers are ordered by value, names alphabetically.

    Raises:
        ValueError: The list has no columns for paths and labels; a line is damaged, or names a file twice, one that is
            not there or one outside the folder; there are too few classes or pictures; or an option does not suit it.
    """
    root = path if path.is_dir() else path.parent
    lists = _find_metadata_files(path) if path.is_dir() else [(path, None)]
    files: dict[str, dict[str, FileList]] = {}
    seen: set[str] = set()
    missing: list[str] = []
    for list_file, list_split in lists:
        for row in _read_rows(list_file):
            name = _normalise_path(row, list_file.parent.relative_to(root))
            entry = _find_file(root, name)
            if entry is None:
                missing.append(f"{row.place} names {printable_name(row.path)!r}")
                continue
            if entry.path in seen:
                raise ValueError(f"{row.place}: a picture must be named once; got {printable_name(name)!r} again")
            seen.add(entry.path)
            split = _parse_split(row) if list_split is None else list_split
            files.setdefault(split, {}).setdefault(row.label, FileList()).append(entry)
    if missing:
        raise ValueError(
            f"{missing[0]}, which is not in {root}; {len(missing)} of {len(missing) + len(seen)} files are missing: "
            "paths are relative to the folder of the list"
        )
    if "train" not in files and not options.only_tests:
        raise ValueError(
            f"{path}: has no pictures of the split train; name some, or leave the column for the split out"
        )
    labels = sort_labels(str(path), {label for by_class in files.values() for label in by_class})
    ordered = {
        split: {label: files[split][label] for label in labels if label in files[split]}
        for split in SPLITS
        if split in files
    }
    check_classes(path, count_files(ordered), options, "give each picture the name of its class")
    class_names = {label: printable_name(label) for label in labels}
    return build_source(path, FolderTree(root), ordered, class_names, {}, options)


def _find_metadata_files(folder: Path) -> list[tuple[Path, str | None]]:
    """Return the list in a folder, without a split, or the lists in its folders for the splits, with their splits.

    Files of these names that have no column for labels, but captions or boxes, are left out.
    """
    for name in _METADATA_FILES:
        if _has_labels(folder / name):
            return [(folder / name, None)]
    splits = find_split_names(child.name for child in folder.iterdir() if child.is_dir())
    found = [(folder / child / name, split) for child, split in splits.items() for name in _METADATA_FILES]
    return [(path, split) for path, split in found if _has_labels(path)]


def _has_labels(path: Path) -> bool:
    """Return whether there is a list at `path` with columns for paths and labels."""
    try:
        return path.is_file() and next(_read_rows(path), None) is not None
    except ValueError:
        return False


def _read_rows(path: Path) -> Iterator[_Row]:
    """Yield the rows of a list.

    Raises:
        ValueError: It has no columns for paths and labels, or a line is damaged.
    """
    # File names need not be UTF-8; their other bytes are escaped as Python does in names of files.
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            rows = _read_json_lines(path, file) if path.suffix.lower() == ".jsonl" else _read_table(path, file)
            for number, values in rows:
                yield _parse_row(f"{path}, line {number}", values)
        except csv.Error as error:
            raise ValueError(f"{path}: not a table ({error}); save it as CSV in UTF-8") from error


def _read_table(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line of a table, and its cells by the names of the columns."""
    first_line = file.readline()
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first_line.count)
    header = [_normalise_name(name) for name in next(csv.reader([first_line], delimiter=delimiter), [])]
    _require_columns(str(path), header)
    reader = csv.reader(file, delimiter=delimiter)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            cells += [""] * (len(header) - len(cells))
            yield reader.line_num + 1, dict(zip(header, cells, strict=False))


def _read_json_lines(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line of JSON, and the fields of its object by their names."""
    has_splits: bool | None = None
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{place}: must be a JSON object ({error}); got {printable_name(line[:60])!r}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{place}: must be a JSON object; got {printable_name(line[:60].strip())!r}")
        values = {_normalise_name(name): value for name, value in values.items()}
        _require_columns(place, list(values))
        if has_splits not in (None, not values.keys().isdisjoint(_COLUMNS["split"])):
            raise ValueError(f"{place}: all lines must have a split, or none; add it")
        has_splits = not values.keys().isdisjoint(_COLUMNS["split"])
        yield number, values


def _normalise_name(name: str) -> str:
    """Return the name of a column in lower case, with "_" for spaces and hyphens."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _require_columns(place: str, names: Sequence[str]) -> None:
    """Raise a ValueError unless there are columns for the path and the label."""
    for role in ("path", "label"):
        if not set(_COLUMNS[role]) & set(names):
            got = ", ".join(printable_name(name)[:30] for name in names[:8])
            raise ValueError(
                f"{place}: must have a column for the {role}, called {', '.join(_COLUMNS[role][:4])} or another name "
                f"in docs/data.md; got {got or 'none'}"
            )


def _parse_row(place: str, values: Mapping[str, Any]) -> _Row:
    """Return what a line says about a picture.

    Raises:
        ValueError: The path or the label is missing, or of another type than text and whole numbers.
    """
    cells: dict[str, str | None] = {}
    for role, names in _COLUMNS.items():
        name = next((name for name in names if name in values), None)
        value = None if name is None else values[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
            raise ValueError(f"{place}: the {role} must be text or a whole number; got {str(value)[:60]!r}")
        cells[role] = None if value is None else unicodedata.normalize("NFC", str(value).strip())
        if role == "path" and isinstance(value, str):
            cells[role] = value  # the name of a file may be in any form of Unicode
        if role == "split" and name is not None and value is None:
            cells[role] = ""
    path, label = cells["path"], cells["label"]
    if not path or not label:
        raise ValueError(f"{place}: the {'label' if path else 'path'} is missing; add it or remove the line")
    return _Row(place, path, label, cells["split"])


def _parse_split(row: _Row) -> str:
    """Return the split of a row; "train" if the list has no column for it.

    Raises:
        ValueError: It is none of the words for splits.
    """
    if row.split is None:
        return "train"
    split = split_of_word(row.split)
    if split is None:
        raise ValueError(f"{row.place}: the split must be train, val or test; got {row.split[:60]!r}")
    return split


def _normalise_path(row: _Row, folder: Path) -> str:
    """Return the path of a row, relative to the root, without "." in it.

    Args:
        row: The row.
        folder: The folder of the list, relative to the root.

    Raises:
        ValueError: It leads out of the folder of the list.
    """
    path = PurePosixPath(row.path.strip())
    if path.is_absolute() or ".." in path.parts or "\0" in row.path:
        raise ValueError(
            f"{row.place}: a path must be relative to the folder of the list and stay in it; got "
            f"{printable_name(row.path)!r}: put the list above its pictures"
        )
    return str(PurePosixPath(folder.as_posix()) / path)


def _find_file(root: Path, name: str) -> FileEntry | None:
    """Return the file of a name; None if there is none. Windows writes the path with backslashes."""
    for path in (name, name.replace("\\", "/")):
        try:
            status = (root / path).stat()
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(status.st_mode):
            return FileEntry(os.path.normpath(path), status.st_size, mtime=status.st_mtime_ns)
    return None

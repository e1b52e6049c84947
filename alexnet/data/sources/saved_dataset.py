"""A data set that Hugging Face's `datasets` has saved on the disk (`save_to_disk`); pyarrow reads it in place."""

import json
from pathlib import Path
from typing import Any

from alexnet.data.sources.arrow_files import ArrowRows, map_batches
from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.split_names import split_in_name
from alexnet.data.sources.table import TableFile, build_table_source
from alexnet.data.sources.table_columns import find_columns

NAME = "a saved data set of Hugging Face"
OPTIONS: tuple[str, ...] = ("train_per_class",)

_SPLITS_FILE, _INFO_FILE, _STATE_FILE = "dataset_dict.json", "dataset_info.json", "state.json"


def matches(path: Path) -> bool:
    """Return whether a saved data set, with or without splits, is at `path`."""
    return (path / _SPLITS_FILE).is_file() or ((path / _INFO_FILE).is_file() and (path / _STATE_FILE).is_file())


def open(path: Path, options: SourceOptions) -> Source:
    """Open the pictures of a saved data set.

    Raises:
        ValueError: A file is missing or damaged; there is no column of pictures or of labels; a split has no known
            name; or see `build_table_source`.
    """
    paths = _find_files(path)
    found = {
        file: find_columns(str(file), map_batches(file)[0].schema) for of_split in paths.values() for file in of_split
    }
    first, columns = next(iter(found.items()))
    for file, other in found.items():
        if other != columns:
            raise ValueError(f"{file}: must have the columns and classes of {first}; save the data set again")
    rows = ArrowRows(columns)
    files: dict[str, list[tuple[int, TableFile]]] = {
        split: [rows.add_file(file, file.relative_to(path).as_posix()) for file in of_split]
        for split, of_split in paths.items()
    }
    return build_table_source(path, rows, files, columns.class_names, options)


def _find_files(path: Path) -> dict[str, list[Path]]:
    """Return the Arrow files of each split; all are of "train" if the data set has no splits.

    Raises:
        ValueError: A file is missing, or the name of a split is not known.
    """
    if not (path / _SPLITS_FILE).is_file():
        return {"train": _files_in(path)}
    files: dict[str, list[Path]] = {}
    for name in _read_json(path / _SPLITS_FILE).get("splits") or []:
        split = split_in_name(str(name))
        if split is None or split in files:
            raise ValueError(f"{path}: each split must have train, val or test in its name; got {name!r}: save it anew")
        files[split] = _files_in(path / str(name))
    if not files:
        raise ValueError(f"{path / _SPLITS_FILE}: must name the splits; save the data set again")
    return files


def _files_in(folder: Path) -> list[Path]:
    """Return the Arrow files that the state of a split names."""
    names = [entry.get("filename") for entry in _read_json(folder / _STATE_FILE).get("_data_files") or []]
    paths = [folder / Path(str(name)).name for name in names]  # without folders: nothing outside is read
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        problem = f"names {missing[0].name}, which is not there" if missing else "names no files"
        raise ValueError(f"{folder / _STATE_FILE}: {problem}; copy or save the data set again")
    return paths


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        ValueError: It is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error}); copy or save the data set again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be a JSON object; copy or save the data set again")
    return value

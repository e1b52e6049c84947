"""A data set of Hugging Face's hub by its name, "hf:uoft-cs/cifar100"; `datasets` downloads and converts it."""

from pathlib import Path
from typing import Any

from alexnet.data.sources.arrow_files import ArrowRows
from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.split_names import split_in_name
from alexnet.data.sources.table import TableFile, build_table_source
from alexnet.data.sources.table_columns import find_columns
from alexnet.data.store.format import SPLITS
from alexnet.utils.console import format_error, note_once
from alexnet.utils.extras import missing_extra

NAME = "the name of a data set of Hugging Face, hf:OWNER/NAME or hf:OWNER/NAME:CONFIGURATION"
OPTIONS: tuple[str, ...] = ("train_per_class",)
_PREFIX = "hf:"


def matches(path: Path) -> bool:
    """Return whether `path` is the name of a data set."""
    return str(path).startswith(_PREFIX)


def open(path: Path, options: SourceOptions) -> Source:
    """Download a data set, unless it is in the cache of `datasets`, and open its pictures.

    Raises:
        ValueError: `datasets` is not installed; it cannot load the data set; there is no column of pictures or of
            labels; or see `build_table_source`.
    """
    data_set = _load(path)
    files_of_splits: dict[str, list[Path]] = {}
    for name, part in data_set.items():
        split = split_in_name(name) or (name if len(data_set) > 1 else "train")
        files_of_splits.setdefault(split, []).extend(Path(file["filename"]) for file in part.cache_files)
    columns = find_columns(str(path), next(iter(data_set.values())).data.schema)
    rows = _HubRows(columns)
    files: dict[str, list[tuple[int, TableFile]]] = {
        split: [rows.add_file(file, file.name) for file in of_split]
        for split, of_split in files_of_splits.items()
        if split in SPLITS
    }
    if unknown := sorted(files_of_splits.keys() - files.keys()):
        note_once(f"{path}: has splits that are not used: {', '.join(unknown)}")
    return build_table_source(path, rows, files, columns.class_names, options)


def _load(path: Path) -> dict[str, Any]:
    """Return the splits of a data set, as `datasets` loads them."""
    try:
        import datasets
        import huggingface_hub
    except ImportError as error:
        raise missing_extra(f"{path}: Hugging Face's hub", "datasets", error) from error
    huggingface_hub.logging.set_verbosity_error()  # else a line for each attempt to reach the hub
    name, _, configuration = str(path).removeprefix(_PREFIX).partition(":")
    try:
        data_set = dict(datasets.load_dataset(name, configuration or None))
    except Exception as error:  # the libraries below raise their own types
        raise ValueError(
            f"{path}: Hugging Face's datasets cannot load it ({format_error(error, limit=300)}); check the name and "
            "the network, or download its Parquet files elsewhere and give their folder"
        ) from error
    note_once(f"{path}: Hugging Face's datasets has loaded it into {datasets.config.HF_DATASETS_CACHE}")
    return data_set


class _HubRows(ArrowRows):
    """The column of pictures of Arrow files that `datasets` has written on this machine.

    Their paths are in its cache, outside the folder of these files.
    """

    def read(self, file: int, row: int) -> tuple[bytes | None, str | None]:
        """Return a picture's bytes, and its path; None for what is not there."""
        contents, path = super().read(file, row)
        if contents is None and path is not None:
            contents = Path(path).read_bytes()
        return contents, path

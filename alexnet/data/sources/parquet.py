"""Parquet files with a column of pictures and one of labels, as Hugging Face's hub has; pyarrow reads them in place."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.file_tree import is_hidden
from alexnet.data.sources.split_names import find_split_names, group_by_split
from alexnet.data.sources.table import TableFile, build_table_source
from alexnet.data.sources.table_columns import PictureColumns, find_columns
from alexnet.utils.console import format_error

NAME = "Parquet files of pictures"
OPTIONS: tuple[str, ...] = ("train_per_class",)

_MAGIC = b"PAR1"
_CONTAINERS = frozenset(("data", "default", "plain_text"))  # folders around the files on Hugging Face's hub
PIECE_BYTES = 4 << 20  # of pictures that a thread has in memory
_MAX_PIECE_ROWS = 1024
_BUFFER_BYTES = 1 << 20  # of a file that a thread reads; without it, a whole column of a row group is in memory


def matches(path: Path) -> bool:
    """Return whether a Parquet file, or a folder of such files, is at `path`."""
    return bool(_find_files(path))


def open(path: Path, options: SourceOptions) -> Source:
    """Open the pictures of Parquet files, whose splits are in the names of the files or of their folders.

    Raises:
        ValueError: A file is damaged, or has no column of pictures or of labels; the files differ in their columns;
            only some have a split; or see `build_table_source`.
    """
    paths = _find_files(path)
    columns = [_read_columns(file) for file in paths]
    for file, other in zip(paths, columns, strict=True):
        if other != columns[0]:
            raise ValueError(
                f"{file}: must have the columns and classes of {paths[0].name}; give the folder of one data set only"
            )
    files = {
        split: [(number, _list_file(path, paths[number], columns[0])) for number in numbers]
        for split, numbers in group_by_split(path, paths).items()
    }
    return build_table_source(path, _ParquetRows(paths, columns[0].image), files, columns[0].class_names, options)


def _find_files(path: Path) -> list[Path]:
    """Return the Parquet file at `path`, or those in it and in its folders for splits, in order."""
    if path.is_file():
        with path.open("rb") as file:
            return [path] if file.read(len(_MAGIC)) == _MAGIC or path.suffix.lower() == ".parquet" else []
    if not path.is_dir():
        return []
    children = sorted(child for child in path.iterdir() if not is_hidden(child.name))
    folders = [child for child in children if child.is_dir()]
    names = {folder.name for folder in folders}
    inner = _CONTAINERS & names or find_split_names(names) or (names if len(children) == 1 else ())
    files = [child for child in children if child.suffix.lower() == ".parquet" and child.is_file()]
    return files + [file for folder in folders if folder.name in inner for file in _find_files(folder)]


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn pyarrow's exceptions for a damaged file into a ValueError that says what to do."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = format_error(error, with_type=False, limit=None)
        raise ValueError(f"{path}: not a readable Parquet file ({reason}); copy or download it again") from error


def _read_columns(path: Path) -> PictureColumns:
    """Return the columns of pictures and labels of a file."""
    with _explain_damage(path):
        schema = pq.read_schema(path)
    return find_columns(str(path), schema)


def _list_file(source: Path, path: Path, columns: PictureColumns) -> TableFile:
    """Return the labels and paths of the pictures of a file, without reading the pictures."""
    read = [columns.label, *([f"{columns.image}.path"] if columns.has_paths else [])]
    with _explain_damage(path), pq.ParquetFile(path) as file:
        table = file.read(columns=read)
        sizes = [np.zeros(0, np.int64)]
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            parts = [group.column(index) for index in range(group.num_columns)]
            total = sum(part.total_uncompressed_size for part in parts if _is_part_of(part, columns.image))
            sizes.append(np.full(group.num_rows, total // max(1, group.num_rows), np.int64))
    labels = table.column(columns.label)
    if pa.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    paths = table.column(columns.image).combine_chunks().field("path") if columns.has_paths else None
    name = path.relative_to(source).as_posix() if source.is_dir() else path.name
    return TableFile(name, labels.combine_chunks(), paths, np.concatenate(sizes), path.stat().st_mtime_ns)


def _is_part_of(part: pq.ColumnChunkMetaData, column: str) -> bool:
    """Return whether a column of the file is a column of the table, or a field of it."""
    return bool(part.path_in_schema == column or part.path_in_schema.startswith(f"{column}."))


class _ParquetRows:
    """The column of pictures of Parquet files.

    A thread reads the rows of a row group one piece after another, and keeps one piece. Threads prepare consecutive
    pictures, so a piece serves many. Going back, and going to another row group, starts at the start of a row group.

    Args:
        paths: The files.
        column: The name of the column.
    """

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        self._paths, self._column = paths, column
        self._ends = []
        for path in paths:
            with _explain_damage(path):
                metadata = pq.read_metadata(path)
            self._ends.append(np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]))
        self._of_thread = threading.local()

    def read(self, file: int, row: int) -> tuple[bytes | None, str | None]:
        """Return a picture's bytes, and its path; None for what is not there.

        Raises:
            ValueError: The file is damaged.
        """
        ends = self._ends[file]
        group = int(np.searchsorted(ends, row, side="right"))
        row -= int(ends[group - 1]) if group else 0
        pieces: _RowGroupPieces | None = getattr(self._of_thread, "pieces", None)
        if pieces is None or (pieces.path, pieces.group) != (self._paths[file], group) or row < pieces.start:
            pieces = self._of_thread.pieces = _RowGroupPieces(self._paths[file], group, self._column)
        with _explain_damage(self._paths[file]):
            return pieces.read(row)


class _RowGroupPieces:
    """The pieces of a row group, of which one is in memory.

    Args:
        path: The file.
        group: The number of the row group.
        column: The name of the column of pictures.
    """

    def __init__(self, path: Path, group: int, column: str) -> None:
        self.path, self.group, self.start = path, group, 0
        with _explain_damage(path):
            file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            metadata = file.metadata.row_group(group)
            rows = max(1, min(_MAX_PIECE_ROWS, PIECE_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)))
            self._pieces = file.iter_batches(rows, row_groups=[group], columns=[column], use_threads=False)
        self._piece: pa.Array = pa.array([])

    def read(self, row: int) -> tuple[bytes | None, str | None]:
        """Return a picture's bytes, and its path. `row` must not be before the piece in memory."""
        while row >= self.start + len(self._piece):
            self.start += len(self._piece)
            piece = next(self._pieces, None)
            if piece is None:
                raise ValueError(f"{self.path}: a row group has fewer rows than it says; copy or download it again")
            self._piece = piece.column(0)
        value = self._piece[row - self.start].as_py()
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)

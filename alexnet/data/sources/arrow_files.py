"""Arrow files of Hugging Face's `datasets`, with a column of pictures and one of labels: memory-mapped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alexnet.data.sources.table import TableFile
from alexnet.data.sources.table_columns import PictureColumns
from alexnet.utils.console import format_error


class ArrowRows:
    """The column of pictures of Arrow files, which is not copied.

    Args:
        columns: The columns of pictures and labels.
    """

    def __init__(self, columns: PictureColumns) -> None:
        self._columns = columns
        self._files: list[tuple[np.ndarray, list[pa.Array]]] = []  # the first row of each piece, and the pieces

    def add_file(self, path: Path, name: str) -> tuple[int, TableFile]:
        """Open a file, and list its pictures.

        Args:
            path: The file.
            name: Its name, for the names of pictures and for messages.

        Returns:
            Its number, and what is listed of it.

        Raises:
            ValueError: It is damaged.
        """
        batches = map_batches(path)
        with _explain_damage(path):
            for batch in batches:  # else a damaged offset would be read as an address
                batch.select([self._columns.image, self._columns.label]).validate(full=True)
        images = [batch.column(self._columns.image) for batch in batches]
        self._files.append((np.cumsum([0, *map(len, images)]), images))
        contents = [_field(image, "bytes") for image in images]
        sizes = [pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False) for column in contents]
        paths = pa.chunked_array([_field(image, "path") for image in images]) if self._columns.has_paths else None
        labels = pa.chunked_array([batch.column(self._columns.label) for batch in batches])
        return len(self._files) - 1, TableFile(
            name,
            labels.combine_chunks(),
            None if paths is None else paths.combine_chunks(),
            np.concatenate(sizes).astype(np.int64),
            path.stat().st_mtime_ns,
        )

    def read(self, file: int, row: int) -> tuple[bytes | None, str | None]:
        """Return a picture's bytes, and its path; None for what is not there."""
        starts, pieces = self._files[file]
        piece = int(np.searchsorted(starts, row, side="right")) - 1
        value = pieces[piece][row - int(starts[piece])].as_py()
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)


def map_batches(path: Path) -> Sequence[pa.RecordBatch]:
    """Return the record batches of an Arrow file as views of its memory map.

    Raises:
        ValueError: It is damaged.
    """
    with _explain_damage(path), pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        batches = list(reader)
        return batches or [pa.RecordBatch.from_pylist([], schema=reader.schema)]


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Turn pyarrow's exceptions for a damaged file into a ValueError that says what to do."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = format_error(error, with_type=False, limit=None)
        raise ValueError(f"{path}: not a readable Arrow file ({reason}); copy or download it again") from error


def _field(column: pa.Array, name: str) -> pa.Array:
    """Return a field of a column of structures, or the column itself."""
    return column.field(name) if pa.types.is_struct(column.type) else column

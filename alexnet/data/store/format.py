"""The files of a store: their names, the Arrow schema of the shards, and how they are read.

A store is a folder with these files:

- `train-00000.arrow` ..., `val-*.arrow`, `test-*.arrow`: the shards. They are Arrow IPC files that any Arrow library
  opens.
- `statistics.safetensors`: the statistics of the training pictures (alexnet/data/store/statistics.py), and in its
  metadata the number of pictures of each split.
- `places.safetensors`: the byte offsets of the pictures in the shards, for stores that are read over a network
  (alexnet/data/store/offsets.py).
- `checksums.safetensors`: the checksums of the other files, and of each picture (alexnet/data/store/checksums.py).
- `skipped.jsonl`: a line for each file of the source that is not a readable picture.
- `duplicates.jsonl`: a line for each photograph that several pictures show, with their splits and names.
- `progress.safetensors`: only while the store is being prepared.
"""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load as safetensors_load
from safetensors.numpy import save as safetensors_save

from alexnet.data.store.location import StoreURL
from alexnet.utils.checksums import damaged_parts, sealed_header, with_checksums
from alexnet.utils.console import format_error

STORE_FORMAT = 1
METADATA_KEY = "alexnet"
STATISTICS_FILE = "statistics.safetensors"
OFFSETS_FILE = "places.safetensors"
CHECKSUMS_FILE = "checksums.safetensors"
SKIPPED_FILE = "skipped.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
PROGRESS_FILE = "progress.safetensors"
SPLITS = ("train", "val", "test")
_MAX_SIZE = 1 << 15  # pixels of a side; a larger one would only be read from a damaged file
SHARD_NAME = re.compile(r"(train|val|test)-(\d{5,})\.arrow")


def shard_name(split: str, number: int) -> str:
    """Return the file name of a shard: `train-00007.arrow`."""
    return f"{split}-{number:05d}.arrow"


def shard_schema(
    size: int, encoding: str, classes: tuple[str, ...], split: str, source: str, resampling: str
) -> pa.Schema:
    """Return the Arrow schema of a shard; its metadata holds what a reader must know.

    Args:
        size: The side of the square pictures, in pixels.
        encoding: "raw" (size * size * 3 bytes, height x width x RGB) or "jpeg" (the bytes of a JPEG file).
        classes: The class names; a label is an index into them.
        split: "train", "val" or "test".
        source: Where the pictures come from.
        resampling: The name of the resampling filter.
    """
    image = pa.binary(size * size * 3) if encoding == "raw" else pa.binary()
    metadata = {"format": STORE_FORMAT, "size": size, "encoding": encoding, "classes": list(classes)}
    metadata |= {"split": split, "source": source, "filter": resampling}
    return pa.schema(
        [("image", image), ("label", pa.int32()), ("name", pa.string())],
        metadata={METADATA_KEY: json.dumps(metadata, ensure_ascii=False)},
    )


def find_shards(folder: Path, split: str) -> list[Path]:
    """Return the shards of a split, in order.

    Raises:
        ValueError: A shard is missing.
    """
    matches = [(SHARD_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    paths = {int(match[2]): path for match, path in matches if match and match[1] == split}
    numbers = [-1, *sorted(paths)]
    missing = [a + 1 for a, b in pairwise(numbers) if b != a + 1] or ([] if paths else [0])
    if missing:
        name = shard_name(split, missing[0])
        raise ValueError(f"{folder}: {name} is missing; remove the store and prepare it again")
    return [paths[number] for number in sorted(paths)]


def read_shard(path: Path) -> tuple[list[pa.RecordBatch], pa.Buffer]:
    """Return the record batches of a shard as views of its memory map, and the memory map.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        # The batches keep the mapping alive after the file is closed, so no descriptor stays open: a large set has more
        # shards than a process may have open files.
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            for batch in batches:
                _check_batch(batch)
            file.seek(0)
            return batches, file.read_buffer()
    except (pa.ArrowException, ValueError) as error:
        raise _damage_error(path, error) from error


def _damage_error(path: str | Path, error: Exception) -> ValueError:
    """Return the error for a damaged file of a store."""
    reason = format_error(error, with_type=False)
    return ValueError(f"{path}: damaged ({reason}); remove the store and prepare it again")


def _check_batch(batch: pa.RecordBatch) -> None:
    """Check that nothing in a record batch lies outside its memory, which Arrow would read without a question.

    Raises:
        ValueError: Something does, or the columns are not those of `shard_schema`.
    """
    types = {field.name: field.type for field in batch.schema}
    image = types.pop("image", pa.null())
    is_image = pa.types.is_binary(image) or pa.types.is_fixed_size_binary(image)
    if not is_image or types != {"label": pa.int32(), "name": pa.string()}:
        raise ValueError("it must have the columns image, label and name")
    batch.validate()
    for column in batch.columns:
        if column.null_count:
            raise ValueError("a value is missing")
        if len(column.buffers()) == 3:  # validity, offsets, data
            offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
            if (offsets[1:] < offsets[:-1]).any():
                raise ValueError("the offsets of its pictures or names do not rise")


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a shard, each read into memory of its own: less than the shard if they are not kept.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                _check_batch(batch)
                yield batch
    except (pa.ArrowException, ValueError) as error:
        raise _damage_error(path, error) from error


def read_shard_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata in the schema of a shard.

    Raises:
        ValueError: The file is not a shard, or of a format that this version does not read.
    """
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            metadata = json.loads((reader.schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    except (pa.ArrowException, ValueError, RecursionError) as error:
        raise _damage_error(path, error) from error
    check_description(metadata, path)
    return dict(metadata)


def _check_format(metadata: Any, path: str | Path) -> None:
    """Raise a ValueError if the metadata of the file at `path` are of a format that this version does not read."""
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: not part of a store (its metadata is no JSON object); prepare the store again")
    if metadata.get("format") != STORE_FORMAT:
        raise ValueError(
            f"{path}: store format {metadata.get('format')}, this version reads {STORE_FORMAT}; "
            "prepare the source again"
        )


def check_description(metadata: Any, path: str | Path) -> None:
    """Raise a ValueError unless metadata have what a reader must know of a store, as `shard_schema` writes it."""
    _check_format(metadata, path)
    size, classes = metadata.get("size"), metadata.get("classes")
    is_valid = isinstance(size, int) and 0 < size <= _MAX_SIZE and metadata.get("encoding") in ("raw", "jpeg")
    if not is_valid or not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{path}: damaged (its size, encoding or classes); remove the store and prepare it again")


def read_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a safetensors file, and the JSON object in its metadata.

    Raises:
        ValueError: The file is truncated, or not a safetensors file.
    """
    return parse_safetensors(Path(path).read_bytes(), path)


def parse_safetensors(contents: bytes, path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and the metadata from the contents of a safetensors file; `path` is for the error message.

    Raises:
        ValueError: The file is damaged, as its checksums show if it has some.
    """
    if parts := damaged_parts(contents):
        raise ValueError(f"{path}: damaged ({', '.join(parts)}); remove the store and prepare it again")
    try:
        tensors = {name: tensor.copy() for name, tensor in safetensors_load(contents).items()}
        # The library returns the metadata only for files on a disk. A file begins with the length of its JSON header,
        # in 8 bytes, and the header.
        header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
        metadata = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damage_error(path, error) from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: not part of a store (its metadata is no JSON object); prepare the store again")
    return tensors, metadata


def safetensors_bytes(tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> bytes:
    """Return the contents of a safetensors file with these arrays and metadata, and their checksums."""
    # For an array that is not contiguous, safetensors would write the memory in the wrong order.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # Only one metadata key: safetensors writes several keys in an order that changes from run to run.
    text = json.dumps(with_checksums(metadata, tensors), ensure_ascii=False)
    return sealed_header(bytes(safetensors_save(tensors, metadata={METADATA_KEY: text})))


def split_counts(metadata: dict[str, Any], path: Path | StoreURL) -> dict[str, int]:
    """Return the number of pictures of each split, from the metadata of the statistics.

    Args:
        metadata: The metadata of `statistics.safetensors`.
        path: The store, for the error message.

    Raises:
        ValueError: The metadata has no counts: `prepare` did not write it.
    """
    counts = metadata.get("counts")
    if not isinstance(counts, dict) or not all(isinstance(counts.get(name, 0), int) for name in SPLITS):
        counts = {}
    counts = {name: counts[name] for name in SPLITS if name in counts}
    if not counts:
        raise ValueError(
            f"{path}: not a store ({STATISTICS_FILE} has no count of {', '.join(SPLITS)}); remove it and prepare again"
        )
    return counts

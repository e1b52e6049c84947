"""Synthetic stores of any number of pictures, written in seconds and in the format of `alexnet prepare`."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.prepare.encode import encode_jpeg
from alexnet.data.prepare.plan import CHUNK_BYTES, SHARD_BYTES
from alexnet.data.store.format import STATISTICS_FILE, shard_name, shard_schema
from alexnet.data.store.statistics import Statistics

_DISTINCT_PICTURES = 256  # the other pictures of a store repeat these
_MAX_SHARD_BYTES = 2**28  # a shard is made in memory before it is written


def write_store(path: Path, size: int, classes: int, encoding: str = "raw", **counts: int) -> Path:
    """Write a store of smooth random pictures.

    Args:
        path: The folder of the store, which must not exist.
        size: The side of the pictures, in pixels.
        classes: The number of classes; the label of picture n is n modulo this number.
        encoding: "raw" or "jpeg".
        counts: The number of pictures of each split: train=1000, val=100.

    Returns:
        The path.
    """
    path.mkdir(parents=True)
    pictures = _smooth_pictures(_DISTINCT_PICTURES, size)
    encoded = [picture.tobytes() if encoding == "raw" else encode_jpeg(picture) for picture in pictures]
    names = tuple(f"class {n}" for n in range(classes))
    pictures_per_shard = max(1, _MAX_SHARD_BYTES // max(map(len, encoded)))
    for split, count in counts.items():
        schema = shard_schema(size, encoding, names, split, "made up", "none")
        image_type = schema.field("image").type
        for number, start in enumerate(range(0, count, pictures_per_shard)):
            indices = np.arange(start, min(start + pictures_per_shard, count))
            columns = [
                pa.array([encoded[index] for index in (indices % _DISTINCT_PICTURES).tolist()], image_type),
                pa.array(indices % classes, pa.int32()),
                pa.array([f"{split}/{index:07d}" for index in indices.tolist()]),
            ]
            _write_shard(path / shard_name(split, number), schema, [columns])
    values = pictures.astype(np.int64)
    pixels = values.reshape(-1, 3)
    statistics = Statistics.from_sums(values.sum(0), pixels.T @ pixels, len(values))
    statistics.save(path / STATISTICS_FILE, {"counts": counts})
    return path


def write_tiny_pictures_store(path: Path, count: int, size: int = 8) -> Path:
    """Write a raw store of tiny random pictures, in as many shards and record batches as 256 x 256 pictures would need.

    Args:
        path: The folder of the store, which must not exist.
        count: The number of training pictures.
        size: The side of the pictures, in pixels.

    Returns:
        The path.
    """
    path.mkdir()
    random, classes = np.random.default_rng(0), tuple(f"class{n}" for n in range(1000))
    schema = shard_schema(size, "raw", classes, "train", "made up", "none")
    pictures_per_shard, pictures_per_chunk = (limit // (256 * 256 * 3) for limit in (SHARD_BYTES, CHUNK_BYTES))

    def record_batches(start: int, stop: int) -> Iterable[list[pa.Array]]:
        for first, last in pairwise([*range(start, stop, pictures_per_chunk), stop]):
            pixels = random.integers(0, 256, (last - first, size * size * 3), np.uint8)
            labels = pa.array(random.integers(0, 1000, last - first), pa.int32())
            names = pa.array([f"n00000000/{n:08d}.JPEG" for n in range(first, last)])
            yield [pa.array(list(map(bytes, pixels)), schema.field("image").type), labels, names]

    for number, (start, stop) in enumerate(pairwise([*range(0, count, pictures_per_shard), count])):
        _write_shard(path / shard_name("train", number), schema, record_batches(start, stop))
    mean = np.zeros((3, size, size), np.float32)
    Statistics.from_covariance(mean, np.eye(3), count).save(path / STATISTICS_FILE, {"counts": {"train": count}})
    return path


def _smooth_pictures(count: int, size: int) -> np.ndarray:
    """Return smooth coarse noise with a little fine noise, as hard to encode as usual pictures.

    Returns:
        (count, size, size, 3) uint8.
    """
    random = np.random.default_rng(0)
    coarse = random.integers(0, 200, (count, -(-size // 16) + 1, -(-size // 16) + 1, 3)).astype(np.float32)
    positions = np.arange(size) / 16
    cells, fractions = positions.astype(int), (positions % 1).astype(np.float32)[:, None]
    rows = coarse[:, cells] * (1 - fractions)[:, None] + coarse[:, cells + 1] * fractions[:, None]
    pictures = rows[:, :, cells] * (1 - fractions) + rows[:, :, cells + 1] * fractions
    return (pictures + random.integers(0, 40, pictures.shape)).astype(np.uint8)


def _write_shard(path: Path, schema: pa.Schema, record_batches: Iterable[list[pa.Array]]) -> None:
    """Write a shard of record batches, each given by its columns."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for columns in record_batches:
            writer.write_batch(pa.record_batch(columns, schema=schema))

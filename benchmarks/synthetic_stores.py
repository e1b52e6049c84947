"""Stores of made-up pictures in the project's format, of any number and size, written in seconds."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.prepare.encode import encode_jpeg
from alexnet.data.store.format import STATISTICS_FILE, shard_name, shard_schema
from alexnet.data.store.statistics import Statistics

DISTINCT = 256  # pictures that are drawn; the others repeat them
SHARD_BYTES = 2**28  # as large as what is made in memory at a time


def smooth_pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """(count, size, size, 3) uint8: coarse noise made smooth, and a little fine noise, so that JPEG has usual work."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 200, (count, -(-size // 16) + 1, -(-size // 16) + 1, 3)).astype(np.float32)
    place = np.arange(size) / 16
    low, part = place.astype(int), (place % 1).astype(np.float32)
    rows = coarse[:, low] * (1 - part)[:, None, None] + coarse[:, low + 1] * part[:, None, None]
    part = part[:, None]
    pictures = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    return (pictures + random.integers(0, 40, pictures.shape)).astype(np.uint8)


def write_store(path: Path, size: int, classes: int, encoding: str = "raw", **counts: int) -> Path:
    """A store of made-up pictures, as `alexnet prepare` would leave it.

    Args:
        path: The folder; made.
        size: Side of the pictures, in pixels.
        classes: Number of classes; a picture's label is its number modulo that.
        encoding: "raw" or "jpeg".
        counts: Pictures of each split: train=1000, val=100.
    """
    path.mkdir(parents=True)
    pictures = smooth_pictures(DISTINCT, size)
    stored = [picture.tobytes() if encoding == "raw" else encode_jpeg(picture) for picture in pictures]
    names = tuple(f"class {n}" for n in range(classes))
    each = max(1, SHARD_BYTES // max(len(one) for one in stored))
    for split, count in counts.items():
        schema = shard_schema(size, encoding, names, split, "made up", "none")
        for number, start in enumerate(range(0, count, each)):
            places = np.arange(start, min(start + each, count))
            columns = [
                pa.array([stored[place % DISTINCT] for place in places.tolist()], schema.field("image").type),
                pa.array(places % classes, pa.int32()),
                pa.array([f"{split}/{place:07d}" for place in places.tolist()]),
            ]
            with pa.OSFile(str(path / shard_name(split, number)), "wb") as file, pa.ipc.new_file(file, schema) as out:
                out.write_batch(pa.record_batch(columns, schema=schema))
    wide = pictures.astype(np.int64)
    values = wide.reshape(-1, 3)
    Statistics.from_sums(wide.sum(0), values.T @ values, len(wide)).save(path / STATISTICS_FILE, {"counts": counts})
    return path

"""A chunk: a few megabytes of consecutive pictures, which a thread reads, decodes, crops, resizes and encodes."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from alexnet.data.prepare.colour_sums import colour_sums
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.duplicates import HASH_WORDS, picture_hashes
from alexnet.data.prepare.encode import encode_jpeg
from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.sources.base import printable_name
from alexnet.utils.checksums import short_checksum

_SAMPLE_EVERY = 32  # of a raw store, one picture in so many is encoded as JPEG to estimate the size of a JPEG store


@dataclass(frozen=True)
class Chunk:
    """Prepared pictures, and what they add to the sums and counts of their shard.

    Args:
        batch: The pictures with their labels and names.
        skipped: The name of each file that is not a readable picture, and the reason.
        sums: (size, size, 3) uint32, the sum over the pictures; None if they do not count for the statistics.
        products: (3, 3) int64, the sum over pictures and pixels of the products of two channels; None likewise.
        image_bytes: Size of the pictures as they are stored.
        sampled: Number of pictures encoded as JPEG: all of a JPEG store, a sample of a raw one.
        sampled_bytes: Size of these as JPEG.
        hashes: (N, 4) uint64, the perceptual hashes of the N files read: zeros for a file that is not a readable
            picture; all zeros if no duplicates are to be found.
        checksums: (pictures,) uint32, the checksum of each picture as it is stored.
    """

    batch: pa.RecordBatch
    skipped: list[tuple[str, str]]
    sums: np.ndarray | None
    products: np.ndarray | None
    image_bytes: int
    sampled: int
    sampled_bytes: int
    hashes: np.ndarray
    checksums: np.ndarray

    @property
    def file_count(self) -> int:
        """Number of files read, including the skipped ones."""
        return int(self.batch.num_rows) + len(self.skipped)


def prepare_chunk(plan: Plan, shard: Shard, start: int, stop: int) -> Chunk:
    """Prepare the pictures from index `start` to `stop` - 1 of a shard's split; runs in a thread."""
    pixels, rows, names, skipped = _read_pictures(plan, shard.split, start, stop)
    labels = plan.source.splits[shard.split].labels[start:stop][rows]
    hashes = np.zeros((stop - start, HASH_WORDS), np.uint64)
    if plan.finds_duplicates:
        hashes[rows] = picture_hashes(pixels)
    sums, products = colour_sums(pixels) if shard.split in plan.statistics_splits else (None, None)
    schema = plan.schemas[shard.split]
    if plan.encoding == "raw":
        image_type = schema.field("image").type
        images = pa.FixedSizeBinaryArray.from_buffers(image_type, len(names), [None, pa.py_buffer(pixels)])
        files = [encode_jpeg(picture) for picture in pixels[::_SAMPLE_EVERY]]
        image_bytes = pixels.nbytes
    else:
        files = [encode_jpeg(picture) for picture in pixels]
        images = pa.array(files, pa.binary())
        image_bytes = sum(map(len, files))
    columns = [images, pa.array(labels, pa.int32()), pa.array(names, pa.string())]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    checksums = [short_checksum(picture) for picture in (pixels if plan.encoding == "raw" else files)]
    return Chunk(
        batch=batch,
        skipped=skipped,
        sums=sums,
        products=products,
        image_bytes=image_bytes,
        sampled=len(files),
        sampled_bytes=sum(map(len, files)),
        hashes=hashes,
        checksums=np.array(checksums, np.uint32),
    )


def _read_pictures(
    plan: Plan, split: str, start: int, stop: int
) -> tuple[np.ndarray, list[int], list[str], list[tuple[str, str]]]:
    """Read, decode, crop and resize pictures.

    Returns:
        (N, size, size, 3) uint8 pixels of the readable pictures, their positions from `start`, their names; and the
        name of each file that is not a readable picture, with the reason.
    """
    pictures = plan.source.splits[split]
    pixels = np.empty((stop - start, plan.size, plan.size, 3), np.uint8)
    rows: list[int] = []
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    for index in range(start, stop):
        name = printable_name(pictures.picture_name(index))
        try:
            data = plan.source.read(split, index)
            square = pixels[len(names)]
            if isinstance(data, bytes):
                read_image(data, plan.size, square)  # which saves a copy
            else:
                square[:] = data
        except (ValueError, OSError) as error:
            # The full text of an OSError contains the path on this machine, which does not belong into the store.
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            skipped.append((name, " ".join(reason.split())))
            continue
        rows.append(index - start)
        names.append(name)
    return pixels[: len(names)], rows, names, skipped

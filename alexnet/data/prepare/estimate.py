"""How long preparing a source will take here, and how much disk its store, judged by a few of its pictures."""

import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.encode import encode_jpeg
from alexnet.data.sources.base import Source
from alexnet.utils.cores import available_cores
from alexnet.utils.prefetch import prefetch

_SAMPLE = 64  # pictures that are prepared to measure the rate


@dataclass(frozen=True)
class PrepareEstimate:
    """What preparing a source will take.

    Args:
        pictures: The number of pictures.
        seconds: The time; the reading of the archives' headers is not in it.
        raw_bytes: The size of a raw store.
        jpeg_bytes: The size of a JPEG store.
    """

    pictures: int
    seconds: float
    raw_bytes: int
    jpeg_bytes: int


def estimate_preparing(source: Source, size: int = 256, workers: int | None = None) -> PrepareEstimate:
    """Prepare some pictures of a source, spread evenly over all, and estimate what all of them will take.

    Args:
        source: The source.
        size: Side of the stored pictures in pixels, unless those of the source keep their own.
        workers: The number of threads; by default one for each core.

    Raises:
        ValueError: None of the sampled pictures can be read.
    """
    size, workers = source.size or size, workers or available_cores()
    count = sum(map(len, source.splits.values()))
    every = 1 + count // _SAMPLE
    places = [(split, index) for split, part in source.splits.items() for index in range(0, len(part), every)]

    def prepare_one(place: tuple[str, int]) -> int | None:
        """Return the size of a picture as JPEG; None if it cannot be read."""
        try:
            data = source.read(*place)
            return len(encode_jpeg(read_image(data, size) if isinstance(data, bytes) else data))
        except (ValueError, OSError):
            return None

    prepare_one(places[0])  # the first call compiles
    start = time.perf_counter()
    with closing(prefetch(prepare_one, places, workers=workers, buffer_size=workers + 1)) as results:
        sizes = [jpeg_bytes for jpeg_bytes in results if jpeg_bytes is not None]
    seconds = time.perf_counter() - start
    if not sizes:
        raise ValueError(f"{source.name}: none of {len(places)} pictures could be read; look at some of its files")
    return PrepareEstimate(count, count * seconds / len(places), count * size**2 * 3, int(count * np.mean(sizes)))

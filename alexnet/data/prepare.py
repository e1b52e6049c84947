"""A source of pictures -> a store: squares of one size, the mean activity, the colour components (section 3).

The work is cut into shards, and those into chunks of a few megabytes; threads make the chunks (decoding, resizing and
summing release the interpreter lock) and the caller's thread writes them in order. So the store's bytes are the same
whatever the number of workers, and whether or not it was stopped on the way.
"""

import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from alexnet.data.ahead import cores, in_order
from alexnet.data.image import FILTER, JPEG_QUALITY, encode_jpeg, read_image
from alexnet.data.parts import Source, fingerprint
from alexnet.data.pixels import colour_sums
from alexnet.data.sources import open_source
from alexnet.data.store import FORMAT, SKIPPED
from alexnet.data.writer import Chunk, Progress, Shard, Writer, alone, resume

SHARD_BYTES = 100 << 20  # of raw pixels: what a kill can lose, and how big a file gets
SHARD_MOST = 1 << 20  # pictures, however small
CHUNK_BYTES = 6 << 20  # of raw pixels: what a thread makes at a time, of
CHUNK_MOST = 4096  # pictures at most
JPEG_SHARE = 8  # a JPEG shard holds this many times the pictures of a raw one, and is still smaller
SAMPLED = 32  # one picture in so many is measured in the other encoding too
PLAIN_SECONDS = 30.0  # between progress lines where standard error is no terminal


@dataclass(frozen=True)
class Summary:
    """What `prepare` did.

    Args:
        store: The folder written.
        counts: Pictures of each split.
        classes: The class names.
        skipped: Files that were no readable pictures, named in skipped.jsonl.
        ignored: Files passed over for their endings, counted by ending.
        size: Side of the squares, in pixels.
        encoding: "raw" or "jpeg".
        raw_bytes: What the pictures take raw.
        jpeg_bytes: What they take as JPEG; estimated from one in 32 where the store is raw.
        seconds: Time taken by this call.
        pictures_per_second: Rate of this call, skipped files included.
        already: The store was complete before this call.
    """

    store: str
    counts: dict[str, int]
    classes: tuple[str, ...]
    skipped: int
    ignored: dict[str, int]
    size: int
    encoding: str
    raw_bytes: int
    jpeg_bytes: int
    seconds: float
    pictures_per_second: float
    already: bool = False

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        sizes = {"raw": f"raw {self.raw_bytes / 1e6:,.1f} MB", "jpeg": f"JPEG {self.jpeg_bytes / 1e6:,.1f} MB"}
        other = "jpeg" if self.encoding == "raw" else "raw"
        about = f" (estimated, quality {JPEG_QUALITY})" if other == "jpeg" else ""
        lines = [
            f"{self.store}: {sum(self.counts.values()):,} pictures of {self.size}x{self.size}"
            f" in {len(self.classes):,} classes: {parts}",
            f"kept as {sizes[self.encoding]}; the other encoding: {sizes[other]}{about}",
        ]
        if self.skipped:
            lines.append(f"skipped {self.skipped:,} files that are no readable pictures: see {self.store}/{SKIPPED}")
        if self.ignored:
            endings = ", ".join(f"{count:,} {ending}" for ending, count in sorted(self.ignored.items()))
            lines.append(f"passed over by their endings: {endings}")
        rate = f"{self.seconds:.1f} s, {self.pictures_per_second:,.0f} pictures a second"
        lines.append("it was complete already, nothing to do" if self.already else rate)
        return "\n".join(lines)


def _plan(source: Source, size: int, encoding: str) -> list[Shard]:
    """The shards of a source in the order they are made: all of train, then the part set aside."""
    most = max(1, SHARD_BYTES // (size * size * 3)) * (JPEG_SHARE if encoding == "jpeg" else 1)
    most = min(most, SHARD_MOST)
    return [
        Shard(split, number, start, min(start + most, len(part)))
        for split, part in source.parts.items()
        for number, start in enumerate(range(0, len(part), most))
    ]


def _make_chunk(
    source: Source, shard: Shard, start: int, stop: int, schema: pa.Schema, size: int, encoding: str
) -> Chunk:
    """Read, decode, square, sum and encode pictures start..stop of a part; runs in a thread."""
    part = source.parts[shard.split]
    pixels = np.empty((stop - start, size, size, 3), np.uint8)
    labels: list[int] = []
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    for index in range(start, stop):
        name = part.name_of(index).encode("utf-8", "backslashreplace").decode()
        try:
            data = source.read(shard.split, index)
            pixels[len(names)] = read_image(data, size) if isinstance(data, bytes) else data
        except (ValueError, OSError) as error:
            # An OSError's whole text has the path on this machine in it, which is no business of the store's readers.
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            skipped.append((name, " ".join(reason.split())))
            continue
        labels.append(part.labels[index])
        names.append(name)
    pixels = pixels[: len(names)]
    sums = products = None
    if shard.split == "train":
        sums, products = colour_sums(pixels)
    if encoding == "raw":
        images = pa.FixedSizeBinaryArray.from_buffers(
            schema.field("image").type, len(names), [None, pa.py_buffer(pixels)]
        )
        files = [encode_jpeg(image) for image in pixels[::SAMPLED]]
        image_bytes = pixels.nbytes
    else:
        files = [encode_jpeg(image) for image in pixels]
        images = pa.array(files, pa.binary())
        image_bytes = sum(map(len, files))
    columns = [images, pa.array(labels, pa.int32()), pa.array(names, pa.string())]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    return Chunk(batch, skipped, sums, products, image_bytes, len(files), sum(map(len, files)))


class _Bar:
    """A progress bar with rate and time left; a plain line now and then where standard error is no terminal."""

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.total, self.done, self.first = total, done, done
        self.plain = shown and not sys.stderr.isatty()
        self.began = self.said = time.monotonic()
        self.bar = tqdm(
            total=total, initial=done, unit=" pictures", disable=not shown or self.plain, dynamic_ncols=True
        )

    def __call__(self, count: int) -> None:
        """Add to what is done."""
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        if self.plain and now - self.said >= PLAIN_SECONDS:
            self.said = now
            rate = (self.done - self.first) / (now - self.began)
            left = tqdm.format_interval((self.total - self.done) / rate)
            print(f"prepare: {self.done:,} of {self.total:,} pictures, {rate:,.0f}/s, {left} left", file=sys.stderr)


def prepare(
    source: str | Path,
    store: str | Path,
    *,
    size: int = 256,
    encoding: str = "raw",
    held_out: float = 0.1,
    train_per_class: int | None = None,
    val_batch: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    max_failures: float = 0.05,
    progress: bool = True,
) -> Summary:
    """Make a store of squares from a source of pictures, going on where it was stopped (section 3).

    Args:
        source: A folder or archive with a folder of pictures for each class, or CIFAR-10's (`open_source`).
        store: The folder to write; new, empty, or one that the same call began.
        size: Side of the squares, in pixels; CIFAR-10 keeps its 32.
        encoding: "raw", exact pixels that need no decoding while training, or "jpeg", a seventh of the size or less.
        held_out: Share of each class set aside as "val" where the source has no val/ or test/ of its own.
        train_per_class: Instead, this many of each class to train on and the rest as "test".
        val_batch: Of CIFAR-10, the training batch, 1 to 5, to keep as "val".
        seed: Of the draw of those set aside.
        workers: Threads; None for one a core.
        max_failures: Share of the files that may be no readable pictures; two may be in any case, unless it is 0.
        progress: Whether to show progress on standard error.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: An argument, the source or the store's folder does not do, or too many files are unreadable.
        OSError: The disk is full; what is done is kept.
    """
    began = time.perf_counter()
    _check(source, store, size, encoding, workers, max_failures)
    opened = open_source(source, held_out=held_out, train_per_class=train_per_class, val_batch=val_batch, seed=seed)
    size = opened.size or size
    key = {"size": size, "encoding": encoding, "held_out": held_out, "train_per_class": train_per_class}
    key |= {"seed": seed, "filter": FILTER, "format": FORMAT, "fingerprint": fingerprint(opened)}
    if val_batch is not None:
        key["val_batch"] = val_batch
    if encoding == "jpeg":
        key["quality"] = JPEG_QUALITY
    folder = Path(store)
    with alone(folder):
        state, complete = resume(folder, opened, key)
        done = 0 if complete else _work(folder, opened, state, workers or cores(), max_failures, progress)
    return _summary(folder, opened, state, done, time.perf_counter() - began, complete)


def _check(
    source: str | Path, store: str | Path, size: int, encoding: str, workers: int | None, max_failures: float
) -> None:
    """Check the arguments that `open_source` does not."""
    if not 1 <= size <= 4096:
        raise ValueError(f"size must be from 1 to 4096 pixels; got {size}")
    if encoding not in ("raw", "jpeg"):
        raise ValueError(f"encoding must be 'raw' or 'jpeg'; got {encoding!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1 thread; got {workers}")
    if not 0 <= max_failures <= 1:
        raise ValueError(f"max_failures must be a share from 0 to 1, such as 0.05; got {max_failures}")
    if Path(source).is_dir() and Path(store).resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{store}: lies inside the source {source}; choose a folder outside it")


def _work(store: Path, source: Source, state: Progress, workers: int, max_failures: float, progress: bool) -> int:
    """Make the shards that are not there yet, and finish the store; how many files it saw."""
    size, encoding = state.key["size"], state.key["encoding"]
    writer = Writer(store, source, state, max_failures)
    shards = _plan(source, size, encoding)
    left = shards[state.shards :]
    to_do = sum(shard.stop - shard.start for shard in left)
    free = shutil.disk_usage(store).free
    if encoding == "raw" and to_do * size * size * 3 > free:
        raise ValueError(
            f"{store}: raw pictures need {to_do * size * size * 3 / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free "
            "on that disk; free some, choose another disk or encoding='jpeg'"
        )
    step = min(CHUNK_MOST, max(1, CHUNK_BYTES // (size * size * 3)))
    schemas = {split: writer.schema(split) for split in source.parts}
    jobs = ((shard, at, min(at + step, shard.stop)) for shard in left for at in range(shard.start, shard.stop, step))

    def make(job: tuple[Shard, int, int]) -> Chunk:
        return _make_chunk(source, *job, schemas[job[0].split], size, encoding)

    bar = _Bar(writer.total, writer.total - to_do, progress)
    with warnings.catch_warnings(), bar.bar:
        # Pillow warns about oddities of files that are read all the same; the reasons of failures are kept in any case.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        chunks = in_order(make, jobs, workers=workers, ahead=workers + 1)
        try:
            for shard in left:
                count = len(range(shard.start, shard.stop, step))
                writer.write(shard, islice(chunks, count), bar)
        finally:
            chunks.close()
    writer.finish()
    return to_do


def _summary(store: Path, source: Source, state: Progress, done: int, seconds: float, already: bool) -> Summary:
    counts = dict(zip(source.parts, state.class_counts.sum(axis=1).tolist(), strict=True))
    pictures = sum(counts.values())
    jpeg = state.image_bytes if state.key["encoding"] == "jpeg" else pictures * state.sampled_bytes // state.sampled
    raw = pictures * state.key["size"] ** 2 * 3
    return Summary(
        str(store), counts, source.classes, state.skipped, source.ignored, state.key["size"], state.key["encoding"],
        raw, jpeg, seconds, done / seconds, already,
    )  # fmt: skip

"""A source of pictures -> a store: squares of one size, the mean activity, the colour components (section 3).

The work is cut into shards, and those into chunks of a few megabytes; threads make the chunks (decoding, resizing and
summing release the interpreter lock) and the caller's thread writes them in order. So the store's bytes are the same
whatever the number of workers, and whether or not it was stopped on the way.

Several processes, on one machine or on many that share a file system, each make some of the shards. All follow from the
source's listing, so that the processes need not wait for each other; process 0 says which shards are to be made, and in
the end adds up what they found.
"""

import json
import shutil
import socket
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

from alexnet.data.prepare.decode import FILTER, JPEG_QUALITY, encode_jpeg, read_image
from alexnet.data.prepare.resize import colour_sums
from alexnet.data.prepare.writer import LATE_SECONDS, Chunk, Shard, Writer, difference
from alexnet.data.sources.base import Source, SourceOptions, fingerprint
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.format import PROGRESS_FILE, SKIPPED_FILE, STATISTICS_FILE, STORE_FORMAT, read_safetensors
from alexnet.distributed.coordinator import POLL_SECONDS, Coordinator
from alexnet.utils.cores import available_cores
from alexnet.utils.files import exclusive_lock, explain_full_disk
from alexnet.utils.prefetch import prefetch

SHARD_BYTES = 100 << 20  # of raw pixels: what a kill can lose, and how big a file gets
SHARD_MOST = 1 << 20  # pictures, however small
CHUNK_BYTES = 6 << 20  # of raw pixels: what a thread makes at a time, of
CHUNK_MOST = 4096  # pictures at most
JPEG_SHARE = 8  # a JPEG shard holds this many times the pictures of a raw one, and is still smaller
SAMPLED = 32  # one picture in so many is measured in the other encoding too
PLAIN_SECONDS = 30.0  # between progress lines where standard error is no terminal
SILENT_SECONDS = 600.0  # without a picture from any of them, until process 0 gives the other processes up


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
        pictures_per_second: Rate of this call, skipped files included; of all processes together.
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
            lines.append(
                f"skipped {self.skipped:,} files that are no readable pictures: see {self.store}/{SKIPPED_FILE}"
            )
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
        for split, part in source.splits.items()
        for number, start in enumerate(range(0, len(part), most))
    ]


def _make_chunk(
    source: Source, shard: Shard, start: int, stop: int, schema: pa.Schema, size: int, encoding: str
) -> Chunk:
    """Read, decode, square, sum and encode pictures start..stop of a part; runs in a thread."""
    part = source.splits[shard.split]
    pixels = np.empty((stop - start, size, size, 3), np.uint8)
    labels: list[int] = []
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    for index in range(start, stop):
        name = part.picture_name(index).encode("utf-8", "backslashreplace").decode()
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
    """A progress bar with rate and time left; a plain line now and then where standard error is no terminal.

    Args:
        total: Files there are.
        done: How many were done before.
        shown: Whether to show anything.
    """

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self.total, self.done, self.first = total, done, done
        self.plain = shown and not sys.stderr.isatty()
        self.began = self.said = time.monotonic()
        self.bar = tqdm(
            total=total, initial=done, unit=" pictures", disable=not shown or self.plain, dynamic_ncols=True
        )

    def show(self, seen: int) -> None:
        """Show that so many files were seen since the beginning, by all processes."""
        self.bar.update(self.first + seen - self.done)
        self.done = self.first + seen
        now = time.monotonic()
        if self.plain and now - self.said >= PLAIN_SECONDS:
            self.said = now
            rate = (self.done - self.first) / (now - self.began)
            left = tqdm.format_interval((self.total - self.done) / rate)
            print(f"prepare: {self.done:,} of {self.total:,} pictures, {rate:,.0f}/s, {left} left", file=sys.stderr)


def prepare(
    source: str | Path | Source,
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
    parallel: bool = False,
) -> Summary:
    """Make a store of squares from a source of pictures, going on where it was stopped (section 3).

    Args:
        source: A folder or archive with a folder of pictures for each class, or CIFAR-10's (`open_source`); or a
            source that is open already, such as a `StoreSubset` of a store.
        store: The folder to write; new, empty, or one that the same call began.
        size: Side of the squares, in pixels; CIFAR-10 keeps its 32.
        encoding: "raw", exact pixels that need no decoding while training, or "jpeg", a seventh of the size or less.
        held_out: Share of each class set aside as "val" where the source has no val/ or test/ of its own.
        train_per_class: Instead, this many of each class to train on and the rest as "test".
        val_batch: Of CIFAR-10, the training batch, 1 to 5, to keep as "val".
        seed: Of the draw of those set aside.
        workers: Threads of this process; None for one a core, divided among the processes on this machine.
        max_failures: Share of the files that may be no readable pictures; two may be in any case, unless it is 0.
        progress: Whether to show progress on standard error; process 0 shows that of all.
        parallel: Whether to share the work with the other processes that torchrun started, each of which must make
            this same call; the store is the same as one process's. Where one fails, all stop.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: An argument, the source or the store's folder does not do, or too many files are unreadable; a
            `ReportedElsewhere` where another process failed first.
        OSError: The disk is full; what is done is kept.
    """
    began = time.perf_counter()
    coordinator = Coordinator.from_torchrun() if parallel else Coordinator()
    with coordinator.raise_together():
        _check(source, store, size, encoding, workers, max_failures)
        options = SourceOptions(held_out, train_per_class, val_batch, seed)
        opened = open_source(source, options) if isinstance(source, (str, Path)) else source
        size = opened.size or size
        key = {"size": size, "encoding": encoding, "held_out": held_out, "train_per_class": train_per_class}
        key |= {"seed": seed, "filter": FILTER, "format": STORE_FORMAT, "fingerprint": fingerprint(opened)}
        if val_batch is not None:
            key["val_batch"] = val_batch
        if encoding == "jpeg":
            key["quality"] = JPEG_QUALITY
        writer = Writer(Path(store), opened, key, _plan(opened, size, encoding), max_failures, coordinator)
        workers = workers or max(1, available_cores() // coordinator.local_world_size)
        seen = _follow(writer, workers) if coordinator.rank else _lead(writer, workers, progress)
        coordinator.shutdown()
    return _summary(Path(store), opened, seen, time.perf_counter() - began)


def _check(
    source: str | Path | Source, store: str | Path, size: int, encoding: str, workers: int | None, max_failures: float
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
    folder = Path(source) if isinstance(source, (str, Path)) else None
    if folder and folder.is_dir() and Path(store).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{store}: lies inside the source {source}; choose a folder outside it")


def _lead(writer: Writer, workers: int, progress: bool) -> int | None:
    """Process 0: says what is to be made, makes its share, finishes; how many files all saw, None where complete."""
    seen = None
    with exclusive_lock(writer.store):
        left = writer.resume()
        _check_space(writer, left or [])
        writer.coordinator.publish("begun", json.dumps({"about": writer.begun, "left": left}))
        if left is not None:
            seen = _work(writer, left, workers, progress)
            writer.finish()
    writer.coordinator.publish("finished", "")
    return seen


def _follow(writer: Writer, workers: int) -> int | None:
    """Another process: makes its share of what process 0 says, and waits until the store is complete."""
    coordinator, store = writer.coordinator, writer.store
    begun = json.loads(coordinator.wait_for("begun"))
    where = f"process {coordinator.rank} on {socket.gethostname()}"
    if found := difference(begun["about"], writer.begun):
        raise ValueError(f"{store}: {where} is to go on with {found}; give all processes the same source and options")
    if begun["left"] is None:
        return None
    if not coordinator.wait_until((store / PROGRESS_FILE).is_file, LATE_SECONDS):
        raise ValueError(f"{store}: {where} does not see what process 0 wrote there; choose a STORE on a shared disk")
    with explain_full_disk(store):
        seen = _work(writer, begun["left"], workers, progress=False)
    coordinator.wait_for("finished")
    return seen


def _check_space(writer: Writer, left: list[int]) -> None:
    """Check that raw shards fit on the disk, and their records, whose sums take four bytes a value."""
    free = shutil.disk_usage(writer.store).free
    need = sum(len(writer.shards[place]) + 4 for place in left) * writer.size**2 * 3
    if writer.encoding == "raw" and need > free:
        raise ValueError(
            f"{writer.store}: raw pictures need {need / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free "
            "on that disk; free some, choose another disk or encoding='jpeg'"
        )


def _work(writer: Writer, left: list[int], workers: int, progress: bool) -> int:
    """Make this process's share of the shards that are not there yet; how many files there are in all of them.

    Process 0 comes back when all have made theirs, and its bar shows the work of all.
    """
    source, coordinator = writer.source, writer.coordinator
    to_do = sum(len(writer.shards[place]) for place in left)
    share = [writer.shards[place] for place in left[coordinator.rank :: coordinator.world_size]]
    step = min(CHUNK_MOST, max(1, CHUNK_BYTES // (writer.size**2 * 3)))
    schemas = {split: writer.schema(split) for split in source.splits}
    jobs = ((shard, at, min(at + step, shard.stop)) for shard in share for at in range(shard.start, shard.stop, step))

    def make(job: tuple[Shard, int, int]) -> Chunk:
        return _make_chunk(source, *job, schemas[job[0].split], writer.size, writer.encoding)

    bar = _Bar(writer.total, writer.total - to_do, progress)

    def done(count: int) -> None:
        bar.show(coordinator.add("seen", count))
        coordinator.check_others()

    with warnings.catch_warnings(), bar.bar:
        # Pillow warns about oddities of files that are read all the same; the reasons of failures are kept in any case.
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        chunks = prefetch(make, jobs, workers=workers, buffer_size=workers + 1)
        try:
            for shard in share:
                count = len(range(shard.start, shard.stop, step))
                writer.write(shard, islice(chunks, count), done)
        finally:
            chunks.close()
        coordinator.add("ended", 1)
        if coordinator.rank == 0:
            _await_others(writer, bar)
    return to_do


def _await_others(writer: Writer, bar: _Bar) -> None:
    """Wait until all processes have made their shares, showing how far they are."""
    coordinator = writer.coordinator
    last, since = (0, 0), time.monotonic()
    while (now := (coordinator.add("ended"), coordinator.add("seen")))[0] < coordinator.world_size:
        if now != last:
            last, since = now, time.monotonic()
            bar.show(now[1])
        elif time.monotonic() - since > SILENT_SECONDS:
            raise ValueError(
                f"{writer.store}: nothing was heard of {coordinator.world_size - now[0]} of {coordinator.world_size} "
                f"processes for {SILENT_SECONDS / 60:.0f} minutes; end them and run the same again: it goes on"
            )
        coordinator.check_others()
        time.sleep(POLL_SECONDS)


def _summary(store: Path, source: Source, seen: int | None, seconds: float) -> Summary:
    """The summary of a complete store, in which a call saw so many files; None where it was complete before."""
    about = read_safetensors(store / STATISTICS_FILE)[1]
    key, counts = about["key"], dict(zip(source.splits, about["counts"].values(), strict=True))
    pictures = sum(counts.values())
    jpeg = about["image_bytes"] if key["encoding"] == "jpeg" else pictures * about["sampled_bytes"] // about["sampled"]
    raw = pictures * key["size"] ** 2 * 3
    return Summary(
        str(store), counts, source.classes, about["skipped"], source.ignored, key["size"], key["encoding"],
        raw, jpeg, seconds, (seen or 0) / seconds, seen is None,
    )  # fmt: skip

"""Write the files of a store: its shards with their records, and at the end the statistics.

Each shard is written under a temporary name and renamed; then its record is written. A shard with a record is complete,
a shard without one is not: resume.py relies on nothing else. The statistics, written last, make the folder a store.
"""

import io
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from alexnet.data.prepare.chunk import Chunk
from alexnet.data.prepare.failures import FailureLimit
from alexnet.data.prepare.parts import Duplicates, duplicate_lines, moved_from, summarise_duplicates
from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.prepare.record import RECORD_NAME, ShardRecord, read_checksums
from alexnet.data.store.checksums import ShardChecksums, write_checksums
from alexnet.data.store.format import DUPLICATES_FILE, OFFSETS_FILE, PROGRESS_FILE, SKIPPED_FILE, STATISTICS_FILE
from alexnet.data.store.offsets import write_offsets
from alexnet.data.store.statistics import Statistics
from alexnet.utils.checksums import Digest
from alexnet.utils.files import atomic_replacement, write_atomic


class _DigestedFile(io.FileIO):
    """A new file; all that is written to it is added to a digest.

    Args:
        path: The file.
        digest: The digest.
    """

    def __init__(self, path: Path, digest: Digest) -> None:
        super().__init__(path, "wb")
        self._digest = digest

    def write(self, data: Any) -> int:
        """Write bytes, and return how many were written."""
        count = super().write(data)
        self._digest.update(memoryview(data)[:count])
        return count


def write_shard(
    plan: Plan, shard: Shard, chunks: Iterable[Chunk], failures: FailureLimit, on_chunk: Callable[[int], None]
) -> None:
    """Write one shard and its record.

    Args:
        plan: The plan of the store.
        shard: The shard.
        chunks: Its chunks, in order.
        failures: The limit on skipped files.
        on_chunk: Called after each chunk with the number of files in it.

    Raises:
        ValueError: With this shard there are too many files that are not readable pictures.
    """
    record = ShardRecord(plan.size, len(plan.source.classes), modified=plan.modification_digest(shard))
    digest = Digest()
    with open_shard(plan, shard, digest) as write_batch:
        for chunk in chunks:
            write_batch(chunk.batch)
            record.add(chunk)
            on_chunk(chunk.file_count)
            failures.add(len(chunk.skipped), shard, bytes(record.skipped_lines))
    record.save(plan.store / shard.record_name, digest.hexdigest())


@contextmanager
def open_shard(plan: Plan, shard: Shard, digest: Digest | None = None) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Yield a function that writes a record batch to the file of a shard, which is replaced when the block ends.

    Args:
        plan: The plan of the store.
        shard: The shard.
        digest: If it is given, all that is written is added to it.
    """
    path = plan.store / shard.file_name
    # The random part keeps other processes from writing to the same file, even one left behind on a lost machine.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with (
        atomic_replacement(path, temporary),
        io.BufferedWriter(_DigestedFile(temporary, digest or Digest())) as file,
        pa.ipc.new_file(file, plan.schemas[shard.split]) as writer,
    ):

        def write_batch(batch: pa.RecordBatch) -> None:
            if batch.num_rows:
                writer.write_batch(batch)

        yield write_batch


def complete_store(
    plan: Plan,
    duplicates: Duplicates,
    moved: Iterable[tuple[str, Plan]],
    new_checksums: Mapping[str, ShardChecksums],
) -> None:
    """Add up the records of all shards, and write the statistics.

    Args:
        plan: The plan of the store.
        duplicates: The photographs that several pictures show.
        moved: The split that pictures were moved from, and the plan of the shards with these pictures.
        new_checksums: The checksums of shards that were written again without the pictures that were moved from them,
            by the names of their files; those of others are read from the files.

    Raises:
        ValueError: A record is damaged, or a class or split has no pictures.
    """
    totals = ShardRecord(plan.size, len(plan.source.classes), np.int64)
    class_counts = {split: np.zeros_like(totals.class_counts) for split in plan.source.splits}
    for shard in plan.shards:
        class_counts[shard.split] += totals.add_file(plan.store / shard.record_name)
    shards = {shard: moved_from(plan, shard, duplicates.moves).size > 0 for shard in plan.shards}
    for origin, moved_plan in moved:
        shards |= dict.fromkeys(moved_plan.shards, False)
        for shard in moved_plan.shards:
            _move_counts(plan, origin, shard, totals, class_counts)
    lines = list(duplicate_lines(plan, duplicates))
    text = "".join(json.dumps({"pictures": pictures}, ensure_ascii=False) + "\n" for pictures in lines)
    write_atomic(plan.store / DUPLICATES_FILE, text.encode())
    write_atomic(plan.store / SKIPPED_FILE, bytes(totals.skipped_lines))
    _check_class_counts(plan, class_counts, has_moves=len(duplicates.moves) > 0)
    split_counts = {split: int(counts.sum()) for split, counts in class_counts.items()}
    skipped, image_bytes, sampled, sampled_bytes = totals.counters.tolist()
    metadata = {"key": plan.key, "source": plan.source.name, "shards": len(shards), "skipped": skipped}
    metadata |= {"duplicates": summarise_duplicates(lines, len(duplicates.moves))}
    metadata |= {"skipped_bytes": len(totals.skipped_lines), "image_bytes": image_bytes}
    metadata |= {"sampled": sampled, "sampled_bytes": sampled_bytes, "counts": split_counts}
    if plan.source.class_ids is not None:
        metadata |= plan.source.class_ids.to_metadata()
    checksums = {
        shard.file_name: new_checksums.get(shard.file_name) or _shard_checksums(plan, shard, changed)
        for shard, changed in shards.items()
    }
    write_checksums(plan.store, checksums)
    statistics_count = sum(split_counts[split] for split in plan.statistics_splits)
    statistics = Statistics.from_sums(totals.sums, totals.products, statistics_count)
    statistics.save(plan.store / STATISTICS_FILE, metadata)
    clean_up(plan.store)


def _shard_checksums(plan: Plan, shard: Shard, was_changed: bool) -> ShardChecksums:
    """Return the checksums of a shard.

    Args:
        plan: The plan of the store.
        shard: The shard.
        was_changed: Whether it was written again after its record, because pictures were moved from it.
    """
    recorded = None if was_changed else read_checksums(plan.store / shard.record_name)
    return recorded or ShardChecksums.from_file(plan.store / shard.file_name)


def _move_counts(
    plan: Plan, origin: str, shard: Shard, totals: ShardRecord, class_counts: dict[str, np.ndarray]
) -> None:
    """Count the pictures of a shard for its split, and no longer for the split that they were moved from.

    Args:
        plan: The plan of the store.
        origin: The split that they were moved from.
        shard: The shard that they were moved to.
        totals: The sum of the records of the plan's shards; changed in place.
        class_counts: The number of pictures of each class in each split; changed in place.
    """
    record = ShardRecord(plan.size, len(plan.source.classes), np.int64)
    counts = record.add_file(plan.store / shard.record_name)
    class_counts[shard.split] += counts
    class_counts[origin] -= counts
    sign = (shard.split in plan.statistics_splits) - (origin in plan.statistics_splits)
    totals.sums += sign * record.sums
    totals.products += sign * record.products


def clean_up(store: Path) -> None:
    """Remove the records and the progress file of a complete store, and write the pictures' offsets if necessary.

    It is necessary if the last call was killed at the very end, or for a store of an earlier version.
    """
    for path in [path for path in store.iterdir() if RECORD_NAME.fullmatch(path.name)]:
        path.unlink()
    (store / PROGRESS_FILE).unlink(missing_ok=True)
    if not (store / OFFSETS_FILE).exists():
        write_offsets(store)


def _check_class_counts(plan: Plan, class_counts: dict[str, np.ndarray], *, has_moves: bool) -> None:
    """Raise a ValueError if a class has no picture to train on, or a split has no pictures.

    Args:
        plan: The plan of the store.
        class_counts: The number of pictures of each class in each split.
        has_moves: Whether pictures were moved to another split because of duplicates.
    """
    for name, count in zip(plan.source.classes, class_counts.get("train", ()), strict="train" in class_counts):
        if count == 0:
            _raise_unreadable(plan.store, f"class {name!r} has no readable picture to train on")
    for split, counts in class_counts.items():
        if not counts.any() and has_moves:
            raise ValueError(
                f"{plan.store}: each picture of {split!r} shows the same photograph as one in train, see "
                f"{plan.store / DUPLICATES_FILE}; remove the store, and add other pictures or use "
                "`ignore_duplicates=True`"
            )
        if not counts.any():
            _raise_unreadable(plan.store, f"split {split!r} has no readable picture")


def _raise_unreadable(store: Path, problem: str) -> NoReturn:
    """Raise the error for a class or a split without readable pictures."""
    raise ValueError(
        f"{store}: {problem}; repair the files named in {store / SKIPPED_FILE} or add others, "
        "then remove the store and prepare it again"
    )

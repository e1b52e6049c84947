"""Write the files of a store: its shards with their records, and at the end the statistics.

Each shard is written under a temporary name and renamed; then its record is written. A shard with a record is complete,
a shard without one is not: resume.py relies on nothing else. The statistics, written last, make the folder a store.
"""

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa

from alexnet.data.prepare.chunk import Chunk
from alexnet.data.prepare.failures import FailureLimit
from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.prepare.record import RECORD_NAME, ShardRecord
from alexnet.data.store.format import OFFSETS_FILE, PROGRESS_FILE, SKIPPED_FILE, STATISTICS_FILE
from alexnet.data.store.offsets import write_offsets
from alexnet.data.store.statistics import Statistics
from alexnet.utils.files import atomic_replacement, write_atomic


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
    path = plan.store / shard.file_name
    # The random part keeps other processes from writing to the same file, even one left behind on a lost machine.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    record = ShardRecord(plan.size, len(plan.source.classes), modified=plan.modification_digest(shard))
    schema = plan.schemas[shard.split]
    with (
        atomic_replacement(path, temporary),
        temporary.open("wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for chunk in chunks:
            if chunk.batch.num_rows:
                writer.write_batch(chunk.batch)
            record.add(chunk)
            on_chunk(chunk.file_count)
            failures.add(len(chunk.skipped), shard, bytes(record.skipped_lines))
    record.save(plan.store / shard.record_name)


def complete_store(plan: Plan) -> None:
    """Add up the records of all shards, and write the statistics.

    Raises:
        ValueError: A record is damaged, or a class or split has no pictures.
    """
    totals = ShardRecord(plan.size, len(plan.source.classes), np.int64)
    class_counts = {split: np.zeros_like(totals.class_counts) for split in plan.source.splits}
    for shard in plan.shards:
        class_counts[shard.split] += totals.add_file(plan.store / shard.record_name)
    write_atomic(plan.store / SKIPPED_FILE, bytes(totals.skipped_lines))
    if "train" in class_counts:
        for name, count in zip(plan.source.classes, class_counts["train"], strict=True):
            if count == 0:
                _raise_unreadable(plan.store, f"class {name!r} has no readable picture to train on")
    for split, counts in class_counts.items():
        if not counts.any():
            _raise_unreadable(plan.store, f"split {split!r} has no readable picture")
    split_counts = {split: int(counts.sum()) for split, counts in class_counts.items()}
    skipped, image_bytes, sampled, sampled_bytes = totals.counters.tolist()
    metadata = {"key": plan.key, "source": plan.source.name, "shards": len(plan.shards), "skipped": skipped}
    metadata |= {"skipped_bytes": len(totals.skipped_lines), "image_bytes": image_bytes}
    metadata |= {"sampled": sampled, "sampled_bytes": sampled_bytes, "counts": split_counts}
    if plan.source.class_ids is not None:
        metadata |= plan.source.class_ids.to_metadata()
    statistics_count = sum(split_counts[split] for split in plan.statistics_splits)
    statistics = Statistics.from_sums(totals.sums, totals.products, statistics_count)
    statistics.save(plan.store / STATISTICS_FILE, metadata)
    clean_up(plan.store)


def clean_up(store: Path) -> None:
    """Remove the records and the progress file of a complete store, and write the pictures' offsets if necessary.

    It is necessary if the last call was killed at the very end, or for a store of an earlier version.
    """
    for path in [path for path in store.iterdir() if RECORD_NAME.fullmatch(path.name)]:
        path.unlink()
    (store / PROGRESS_FILE).unlink(missing_ok=True)
    if not (store / OFFSETS_FILE).exists():
        write_offsets(store)


def _raise_unreadable(store: Path, problem: str) -> NoReturn:
    """Raise the error for a class or a split without readable pictures."""
    raise ValueError(
        f"{store}: {problem}; repair the files named in {store / SKIPPED_FILE} or add others, "
        "then remove the store and prepare it again"
    )

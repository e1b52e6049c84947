"""Move pictures of a prepared store from one split to another, because of duplicates (parts.py).

The pictures that a split gets are prepared once more, into shards after its others. Then they are removed from the
shards that they were in. The moves are in the progress file before the first of them, and each step can be repeated, so
a process that is killed is resumed without loss.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import pairwise

import numpy as np
import pyarrow as pa

from alexnet.data.prepare.chunk import Chunk, prepare_chunk
from alexnet.data.prepare.failures import FailureLimit
from alexnet.data.prepare.parts import Duplicates, find_duplicates, moved_from
from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.prepare.record import read_checksums, read_hashes
from alexnet.data.prepare.writer import open_shard, write_shard
from alexnet.data.sources.base import Source, SourceSplit
from alexnet.data.store.checksums import ShardChecksums
from alexnet.data.store.format import PROGRESS_FILE, read_batches, read_safetensors, read_shard, safetensors_bytes
from alexnet.utils.checksums import Digest
from alexnet.utils.files import write_atomic
from alexnet.utils.prefetch import prefetch


class _MovedPictures:
    """A `Source` with the pictures that are moved from one split of another source to another split.

    Args:
        source: The other source.
        origin: The split they are moved from.
        split: The split they are moved to.
        indices: (N,) int64, their indices in the listing of `origin`.
    """

    def __init__(self, source: Source, origin: str, split: str, indices: np.ndarray) -> None:
        self.name, self.classes, self.size, self.ignored = source.name, source.classes, source.size, source.ignored
        self.class_ids = source.class_ids
        self.splits: dict[str, SourceSplit] = {split: source.splits[origin].take(indices)}
        self._source, self._origin, self._indices = source, origin, indices

    def read(self, _: str, index: int) -> bytes | np.ndarray:
        """Return a picture file's bytes, or its pixels."""
        return self._source.read(self._origin, int(self._indices[index]))


def read_or_find_duplicates(plan: Plan) -> Duplicates:
    """Return the duplicates and moves that the progress file has; or find them, and write them to it."""
    path = plan.store / PROGRESS_FILE
    arrays = read_safetensors(path)[0]
    if "moves" in arrays:
        return Duplicates(arrays["pictures"], arrays["moves"])
    duplicates = find_duplicates(plan)
    write_atomic(path, safetensors_bytes(vars(duplicates), plan.progress_metadata))
    return duplicates


def plans_of_moves(plan: Plan, moves: np.ndarray) -> Iterator[tuple[str, Plan]]:
    """Plan the shards for the pictures that are moved.

    Args:
        plan: The plan of the store.
        moves: As in `Duplicates`.

    Yields:
        The split that pictures are moved from, and the plan of the shards for these pictures, which follow the shards
        that the other split has.
    """
    names = list(plan.source.splits)
    length = max(map(len, plan.shards))
    for new in np.unique(moves[:, 2]).tolist():
        number = sum(shard.split == names[new] for shard in plan.shards)
        for old in np.unique(moves[moves[:, 2] == new, 0]).tolist():
            indices = np.sort(moves[(moves[:, 0] == old) & (moves[:, 2] == new), 1])
            ends = [*range(0, len(indices), length), len(indices)]
            shards = [Shard(names[new], number + n, *ends) for n, ends in enumerate(pairwise(ends))]
            number += len(shards)
            source = _MovedPictures(plan.source, names[old], names[new], indices)
            yield names[old], Plan(plan.store, source, plan.key, shards)


def move_pictures(plan: Plan, moves: np.ndarray, failures: FailureLimit, workers: int) -> dict[str, ShardChecksums]:
    """Move pictures to other splits; what an earlier call has done is not done again.

    Args:
        plan: The plan of the store, whose shards are complete.
        moves: As in `Duplicates`.
        failures: The limit on skipped files.
        workers: Number of threads.

    Returns:
        The checksums of the shards that this call has written without the pictures that were moved from them, by the
        names of their files; without those of a shard whose record an earlier version has written.

    Raises:
        ValueError: A picture cannot be read any more.
    """
    for _, moved in plans_of_moves(plan, moves):
        for shard in moved.shards:
            if not (plan.store / shard.record_name).exists():
                with closing(_prepare_moved(moved, shard, workers)) as chunks:
                    write_shard(moved, shard, chunks, failures, lambda _: None)
    checksums = {}
    for shard in plan.shards:
        inside = moved_from(plan, shard, moves)
        if len(inside) and (rewritten := _remove_pictures(plan, shard, inside - shard.start)):
            checksums[shard.file_name] = rewritten
    return checksums


def _prepare_moved(plan: Plan, shard: Shard, workers: int) -> Generator[Chunk, None, None]:
    """Yield the chunks of a shard of moved pictures, all of which were readable before."""

    def prepare(ends: tuple[int, int]) -> Chunk:
        return prepare_chunk(plan, shard, *ends)

    for chunk in prefetch(prepare, plan.chunk_ranges(shard), workers=workers, buffer_size=workers + 1):
        if chunk.skipped:
            name, reason = chunk.skipped[0]
            raise ValueError(
                f"{plan.store}: {name} was readable before, but is not any more ({reason}); restore it and run the "
                "same command again"
            )
        yield chunk


def _remove_pictures(plan: Plan, shard: Shard, positions: np.ndarray) -> ShardChecksums | None:
    """Write a shard again without some of its pictures, unless that was done before.

    Args:
        plan: The plan of the store.
        shard: The shard.
        positions: (N,), the pictures' positions among the files of the shard, of which unreadable ones have no row.

    Returns:
        The new checksums of the shard; None if they must be read from its file.
    """
    path, record = plan.store / shard.file_name, plan.store / shard.record_name
    readable = np.any(read_hashes(record, len(shard)), axis=1)
    remains = readable.copy()
    remains[positions] = False
    if sum(batch.num_rows for batch in read_shard(path)[0]) == remains.sum():
        return None
    start, row_remains, digest, recorded = 0, remains[readable], Digest(), read_checksums(record)
    with open_shard(plan, shard, digest) as write_batch:
        for batch in read_batches(path):
            mask = row_remains[start : start + batch.num_rows]
            write_batch(batch if mask.all() else batch.filter(pa.array(mask)))
            start += batch.num_rows
    return ShardChecksums(digest.hexdigest(), recorded.pictures[row_remains]) if recorded else None

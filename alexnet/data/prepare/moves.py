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
from alexnet.data.prepare.record import read_hashes
from alexnet.data.prepare.writer import open_shard, write_shard
from alexnet.data.sources.base import Source, SourceSplit
from alexnet.data.store.format import PROGRESS_FILE, read_safetensors, read_shard, safetensors_bytes
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


def move_pictures(plan: Plan, moves: np.ndarray, failures: FailureLimit, workers: int) -> None:
    """Move pictures to other splits; what an earlier call has done is not done again.

    Args:
        plan: The plan of the store, whose shards are complete.
        moves: As in `Duplicates`.
        failures: The limit on skipped files.
        workers: Number of threads.

    Raises:
        ValueError: A picture cannot be read any more.
    """
    for _, moved in plans_of_moves(plan, moves):
        for shard in moved.shards:
            if not (plan.store / shard.record_name).exists():
                with closing(_prepare_moved(moved, shard, workers)) as chunks:
                    write_shard(moved, shard, chunks, failures, lambda _: None)
    for shard in plan.shards:
        inside = moved_from(plan, shard, moves)
        if len(inside):
            _remove_pictures(plan, shard, inside - shard.start)


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


def _remove_pictures(plan: Plan, shard: Shard, positions: np.ndarray) -> None:
    """Write a shard again without some of its pictures, unless that was done before.

    Args:
        plan: The plan of the store.
        shard: The shard.
        positions: (N,), the pictures' positions among the files of the shard, of which unreadable ones have no row.
    """
    path = plan.store / shard.file_name
    readable = np.any(read_hashes(plan.store / shard.record_name, len(shard)), axis=1)
    remains = readable.copy()
    remains[positions] = False
    batches, _ = read_shard(path)
    if sum(batch.num_rows for batch in batches) == remains.sum():
        return
    start, row_remains = 0, remains[readable]
    with open_shard(plan, shard) as write_batch:
        for batch in batches:
            write_batch(batch.filter(pa.array(row_remains[start : start + batch.num_rows])))
            start += batch.num_rows

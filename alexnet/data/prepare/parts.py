"""Keep all pictures of one photograph in one split, where the splits were drawn at random.

A net that is tested on a photograph it was trained on is measured too well. So a photograph that the draw has put into
several splits goes to "train", and other pictures of its class, drawn at random, take the places that become free in
"val" and "test". Without such photographs the draw stays as it is.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet.data.prepare.duplicates import group_duplicates
from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.prepare.record import read_hashes
from alexnet.data.sources.base import printable_name

_EXAMPLES = 3  # pairs of pictures that the summary names


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The photographs that several pictures of a source show, and which pictures change their splits because of them.

    Splits are numbered as in the source, pictures as in its listing of the split that they were drawn for.

    Args:
        pictures: (M, 3) int64, the number of the photograph, the split and the index of each picture of which there is
            another; in the order of the photographs.
        moves: (K, 3) int64, the split, the index and the new split of each picture that changes its split.
    """

    pictures: np.ndarray
    moves: np.ndarray

    def final_splits(self) -> np.ndarray:
        """Return the split of each row of `pictures` after the moves, (M,)."""
        new_splits = {(split, index): new for split, index, new in self.moves.tolist()}
        return np.array([new_splits.get((split, index), split) for _, split, index in self.pictures.tolist()], np.int64)


def moved_from(plan: Plan, shard: Shard, moves: np.ndarray) -> np.ndarray:
    """Return the indices of the pictures that are moved from a shard of a plan, (N,); `moves` as in `Duplicates`."""
    indices = moves[moves[:, 0] == list(plan.source.splits).index(shard.split), 1]
    inside: np.ndarray = indices[(indices >= shard.start) & (indices < shard.stop)]
    return inside


def find_duplicates(plan: Plan) -> Duplicates:
    """Find the photographs that several pictures show, from the records of all shards of a plan."""
    splits, indices, hashes = _read_hashes(plan)
    groups = group_duplicates(hashes)
    pictures = [
        np.column_stack([np.full(len(group), number), splits[group], indices[group]])
        for number, group in enumerate(groups)
    ]
    new_splits = _keep_together(plan, splits, indices, groups)
    moved = np.flatnonzero(new_splits != splits)
    return Duplicates(
        np.concatenate([np.zeros((0, 3), np.int64), *pictures]),
        np.column_stack([splits[moved], indices[moved], new_splits[moved]]),
    )


def _read_hashes(plan: Plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the splits (N,), the indices (N,) and the hashes (N, 4) of all readable pictures."""
    names = list(plan.source.splits)
    splits, indices, hashes = [], [], []
    for shard in plan.shards:
        shard_hashes = read_hashes(plan.store / shard.record_name, len(shard))
        readable = np.flatnonzero(shard_hashes.any(1))
        splits.append(np.full(len(readable), names.index(shard.split), np.int64))
        indices.append(shard.start + readable)
        hashes.append(shard_hashes[readable])
    return np.concatenate(splits), np.concatenate(indices), np.concatenate(hashes)


def _keep_together(plan: Plan, splits: np.ndarray, indices: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return the split of each picture (N,) such that no group has pictures in several drawn splits.

    Args:
        plan: The plan, for its source and seed.
        splits, indices: (N,), the pictures.
        groups: The pictures of each photograph, as positions in `splits`.
    """
    names, new_splits = list(plan.source.splits), splits.copy()
    drawn = [number for number, name in enumerate(names) if plan.source.splits[name].is_drawn]
    if "train" not in names or names.index("train") not in drawn:
        return new_splits
    train = names.index("train")
    is_drawn = np.isin(splits, drawn)
    groups = [group[is_drawn[group]] for group in groups]
    for group in groups:
        if len(np.unique(splits[group])) > 1:
            new_splits[group] = train
    if np.array_equal(new_splits, splits):
        return new_splits
    labels = np.concatenate([plan.source.splits[name].labels for name in names])
    starts = np.cumsum([0, *(len(plan.source.splits[name]) for name in names)])
    labels = labels[starts[splits] + indices]
    units = _Units(labels, groups)
    for label in np.unique(labels[new_splits != splits]).tolist():
        generator = np.random.default_rng([plan.key["seed"], zlib.crc32(plan.source.classes[label].encode()), 1])
        in_class = np.flatnonzero((labels == label) & is_drawn)
        for split in (split for split in drawn if split != train):
            free = int((splits[in_class] == split).sum() - (new_splits[in_class] == split).sum())
            candidates = generator.permutation(in_class[new_splits[in_class] == train])
            for members in units.draw(candidates, free) if free else ():
                new_splits[members] = split
    return new_splits


class _Units:
    """The pictures that are moved together: each group, and each other picture alone.

    Args:
        labels: (N,), the class of each picture.
        groups: The groups of pictures.
    """

    def __init__(self, labels: np.ndarray, groups: Sequence[np.ndarray]) -> None:
        self._group_of = np.full(len(labels), -1, np.int64)
        for number, group in enumerate(groups):
            self._group_of[group] = number
        self._groups = groups
        self._is_pure = [len(np.unique(labels[group])) == 1 for group in groups]

    def draw(self, order: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """Yield units of one class, in a given order of their pictures, until they have `count` pictures.

        A group that has more pictures than are missing, or pictures of several classes, is left out.
        """
        seen: set[int] = set()
        for picture in order.tolist():
            number = int(self._group_of[picture])
            if number >= 0 and (number in seen or not self._is_pure[number] or len(self._groups[number]) > count):
                continue
            seen.add(number)
            members = self._groups[number] if number >= 0 else np.array([picture])
            count -= len(members)
            yield members
            if count == 0:
                return


def duplicate_lines(plan: Plan, duplicates: Duplicates) -> Iterator[list[dict[str, str]]]:
    """Yield for each photograph its pictures, as they are written to duplicates.jsonl: their splits and names."""
    names = list(plan.source.splits)
    pictures: list[dict[str, str]] = []
    last = 0
    for (number, split, index), final in zip(duplicates.pictures.tolist(), duplicates.final_splits(), strict=True):
        if number != last:
            yield pictures
            pictures, last = [], number
        name = printable_name(plan.source.splits[names[split]].picture_name(index))
        pictures.append({"split": names[final], "name": name})
    if pictures:
        yield pictures


def summarise_duplicates(lines: Sequence[Sequence[dict[str, str]]], moved: int) -> dict[str, Any]:
    """Return what the summary of a store says about its duplicates.

    Args:
        lines: The lines of duplicates.jsonl.
        moved: Number of pictures that have changed their splits.

    Returns:
        pictures: How many pictures show a photograph that an earlier one shows. moved. shared: For "val" and "test" the
        number of its pictures whose photographs are in an earlier split, too. examples: The first few pairs of these.
    """
    shared: dict[str, int] = {}
    examples: list[tuple[str, str]] = []
    for pictures in lines:
        for split, earlier in (("val", ("train",)), ("test", ("train", "val"))):
            others = [picture for picture in pictures if picture["split"] in earlier]
            sharing = [picture for picture in pictures if picture["split"] == split]
            if others and sharing:
                shared[split] = shared.get(split, 0) + len(sharing)
                if len(examples) < _EXAMPLES:
                    examples.append((sharing[0]["name"], others[0]["name"]))
    count = sum(len(pictures) - 1 for pictures in lines)
    return {"pictures": count, "moved": moved, "shared": shared, "examples": examples}

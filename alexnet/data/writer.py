"""A store in the making: shards written beside their places and renamed, and one file that says how far it is.

After each shard `progress.safetensors` is replaced: the number of shards made, their sums and counts, and the length
of skipped.jsonl. It is the only truth about how far the work is, so that a process killed anywhere loses one shard at
most. The statistics, written last, make the folder a store.
"""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save as safetensors_bytes

from alexnet.data.parts import Source
from alexnet.data.store import (
    METADATA_KEY,
    PROGRESS,
    SHARD_NAME,
    SKIPPED,
    STATISTICS,
    Statistics,
    flush,
    read_tensors,
    shard_name,
    shard_schema,
    write_aside,
)

FEWEST_FAILURES = 3  # fewer never stop the work, however few pictures there are, unless none is allowed


@dataclass
class Progress:
    """How far the work is, and the sums over what is done: the contents of progress.safetensors."""

    key: dict[str, Any]  # the arguments and the source's fingerprint
    source: str
    sums: np.ndarray  # (size, size, 3) int64
    products: np.ndarray  # (3, 3) int64
    class_counts: np.ndarray  # (splits, classes) int64
    shards: int = 0
    skipped: int = 0
    skipped_bytes: int = 0
    image_bytes: int = 0
    sampled: int = 0
    sampled_bytes: int = 0

    @classmethod
    def start(cls, key: dict[str, Any], source: Source) -> "Progress":
        """The state before any work."""
        size = key["size"]
        counts = np.zeros((len(source.parts), len(source.classes)), np.int64)
        return cls(key, source.name, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64), counts)

    def about(self) -> dict[str, Any]:
        """All of it but the arrays."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, np.ndarray)}

    def save(self, path: Path) -> None:
        """Write its file, whole or not at all."""
        tensors = {"sums": self.sums, "products": self.products, "class_counts": self.class_counts}
        write_aside(path, bytes(safetensors_bytes(tensors, metadata={METADATA_KEY: json.dumps(self.about())})))

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """Read its file.

        Raises:
            ValueError: The file is damaged, or not what `save` writes.
        """
        tensors, about = read_tensors(path)
        if not _whole(about) or not set(ARRAYS) <= tensors.keys():
            raise ValueError(f"{path}: not the progress file of a store; remove the store and prepare it again")
        facts = {name: about[name] for name in FACTS}
        return cls(**facts, **{name: tensors[name].copy() for name in ARRAYS})


# What its file keeps as tensors, and what as JSON.
ARRAYS = ("sums", "products", "class_counts")
FACTS = tuple(field.name for field in fields(Progress) if field.name not in ARRAYS)


def _whole(about: dict[str, Any]) -> bool:
    """Whether what was read from a file has all that `Progress.about` gives."""
    key = about.get("key")
    return set(FACTS) <= about.keys() and isinstance(key, dict) and {"size", "encoding", "filter"} <= key.keys()


@dataclass(frozen=True)
class Shard:
    """A run of a part's listing that becomes one file."""

    split: str
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Chunk:
    """A run of neighbouring pictures, made by one thread."""

    batch: pa.RecordBatch
    skipped: list[tuple[str, str]]
    sums: np.ndarray | None
    products: np.ndarray | None
    image_bytes: int
    sampled: int
    sampled_bytes: int


class Writer:
    """Makes the files of a store, one shard after another."""

    def __init__(self, store: Path, source: Source, state: Progress, max_failures: float) -> None:
        self.store, self.source, self.state = store, source, state
        self.size, self.encoding = state.key["size"], state.key["encoding"]
        self.splits = tuple(source.parts)
        self.total = sum(len(part) for part in source.parts.values())
        fewest = FEWEST_FAILURES if max_failures > 0 else 1
        self.most_failures = max(fewest - 1, int(max_failures * self.total))

    def schema(self, split: str) -> pa.Schema:
        """The schema of a split's shards."""
        return shard_schema(
            self.size, self.encoding, self.source.classes, split, self.state.source, self.state.key["filter"]
        )

    def write(self, shard: Shard, chunks: Iterable[Chunk], done: Callable[[int], None]) -> None:
        """Write one shard beside its place, rename it, and say so in the progress file.

        Args:
            shard: Which.
            chunks: Its chunks, in order.
            done: Told after each chunk how many files were seen.
        """
        path = self.store / shard_name(shard.split, shard.number)
        beside = path.with_name(path.name + ".part")
        skipped: list[tuple[str, str]] = []
        # Of this shard, in 32 bits: 255 times its pictures fit, and adding to 64 takes many times as long.
        sums = np.zeros((self.size, self.size, 3), np.uint32)
        try:
            with beside.open("wb") as file:
                with pa.ipc.new_file(file, self.schema(shard.split)) as writer:
                    for chunk in chunks:
                        if chunk.batch.num_rows:
                            writer.write_batch(chunk.batch)
                        skipped += chunk.skipped
                        self._add(shard.split, chunk, sums)
                        done(chunk.batch.num_rows + len(chunk.skipped))
                        if self.state.skipped > self.most_failures:
                            break
                flush(file)
            self._log(skipped)
            if self.state.skipped > self.most_failures:
                self._too_many(skipped[-1])
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        self.state.sums += sums
        self.state.shards += 1
        self.state.save(self.store / PROGRESS)

    def _add(self, split: str, chunk: Chunk, sums: np.ndarray) -> None:
        """Add a chunk to the counts, and to the sums of its shard."""
        state = self.state
        if chunk.sums is not None and chunk.products is not None:
            sums += chunk.sums
            state.products += chunk.products
        labels = chunk.batch.column("label").to_numpy()
        state.class_counts[self.splits.index(split)] += np.bincount(labels, minlength=len(self.source.classes))
        state.skipped += len(chunk.skipped)
        state.image_bytes += chunk.image_bytes
        state.sampled += chunk.sampled
        state.sampled_bytes += chunk.sampled_bytes

    def _log(self, skipped: list[tuple[str, str]]) -> None:
        """Add lines to skipped.jsonl, in place of any that a stopped run left behind the last finished shard."""
        lines = [json.dumps({"name": name, "reason": reason}, ensure_ascii=False) + "\n" for name, reason in skipped]
        with (self.store / SKIPPED).open("ab") as file:
            file.truncate(self.state.skipped_bytes)
            file.write("".join(lines).encode())
            flush(file)
            self.state.skipped_bytes = os.fstat(file.fileno()).st_size

    def _too_many(self, last: tuple[str, str]) -> None:
        raise ValueError(
            f"{self.store}: {self.state.skipped} files of {self.total} are no readable pictures, "
            f"{self.most_failures} are allowed; the last: {last[0]} ({last[1]}); see {self.store / SKIPPED}, "
            "mend or remove them, or raise max_failures"
        )

    def _none_readable(self, fact: str) -> None:
        raise ValueError(
            f"{self.store}: {fact}; mend the files named in {self.store / SKIPPED} or add others, "
            "then remove the store and prepare it again"
        )

    def finish(self) -> None:
        """Write the statistics, which makes the folder a store, and remove the progress file."""
        state = self.state
        for split, counts in zip(self.splits, state.class_counts, strict=True):
            for name, count in zip(self.source.classes, counts, strict=True):
                if split == "train" and count == 0:
                    self._none_readable(f"class {name!r} has no readable picture to train on")
            if not counts.any():
                self._none_readable(f"split {split!r} has no readable picture")
        pictures = dict(zip(self.splits, state.class_counts.sum(axis=1).tolist(), strict=True))
        statistics = Statistics.from_sums(state.sums, state.products, pictures["train"])
        statistics.save(self.store / STATISTICS, state.about() | {"counts": pictures})
        (self.store / PROGRESS).unlink()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a store or a run, and turn a full disk into a line that says what to do.

    Raises:
        ValueError: Another process works in the folder.
        OSError: The disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is at work in it; wait for it or stop it") from None
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = OSError(f"{folder}: the disk is full; free some space and run the same again: it goes on")
        full.errno = errno.ENOSPC
        raise full from error
    finally:
        os.close(held)


def resume(store: Path, source: Source, key: dict[str, Any]) -> tuple[Progress, bool]:
    """How far a store is, a new one's progress file written; and whether it is complete.

    Raises:
        ValueError: The folder holds other files, or a store of another source or other arguments.
    """
    names = sorted(path.name for path in store.iterdir())
    ours = (STATISTICS, PROGRESS, SKIPPED)
    plain = {name: name.removesuffix(".part") for name in names}
    foreign = [name for name in names if plain[name] not in ours and not SHARD_NAME.fullmatch(plain[name])]
    if foreign:
        raise ValueError(f"{store}: holds {foreign[0]!r}, which is no part of a store; choose a new or empty folder")
    for name in names:
        if name.endswith(".part"):
            (store / name).unlink()
    names = [name for name in names if not name.endswith(".part")]
    complete = STATISTICS in names
    if not complete and PROGRESS not in names:
        if names:
            raise ValueError(f"{store}: holds {names[0]!r} but no {PROGRESS}; remove the folder and prepare again")
        state = Progress.start(key, source)
        state.save(store / PROGRESS)
    elif complete:
        about = read_tensors(store / STATISTICS)[1]
        if not _whole(about) or not isinstance(about.get("counts"), dict):
            raise ValueError(f"{store}: a store that `prepare` did not make; use another STORE")
        state = Progress.start(about["key"], source)
        state.class_counts = np.array(list(about["counts"].values()))[:, None]
        vars(state).update({name: about[name] for name in state.about()})
        (store / PROGRESS).unlink(missing_ok=True)  # a kill between the last two steps leaves it
    else:
        state = Progress.load(store / PROGRESS)
    for name, value in key.items():
        if state.key.get(name) != value:
            was = f"{name}={state.key.get(name)!r}, not {value!r}"
            if name == "fingerprint":
                was = f"a source of other files (some of {source.name!r} were added, removed or changed since)"
            raise ValueError(f"{store}: prepared with {was}; use another STORE, or remove this one")
    return state, complete

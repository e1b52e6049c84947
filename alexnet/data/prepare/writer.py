"""A store in the making: shards written beside their places and renamed, each followed by a record of what it adds.

The record of a shard (train-00007.safetensors beside train-00007.arrow) holds its sums, its counts and the files that
were skipped, and is written last: a shard with a record is made, one without is not. That is the only truth about how
far the work is, so that a process killed anywhere loses one shard at most, and any number of processes may share the
shards and any other number go on with them. In the end one process adds the records up; sums of whole numbers do not
depend on the order. The statistics, written last, make the folder a store.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from alexnet.data.sources.base import Source
from alexnet.data.store.format import (
    METADATA_KEY,
    OFFSETS_FILE,
    PROGRESS_FILE,
    SHARD_NAME,
    SKIPPED_FILE,
    STATISTICS_FILE,
    read_safetensors,
    shard_name,
    shard_schema,
)
from alexnet.data.store.offsets import write_offsets
from alexnet.data.store.statistics import Statistics
from alexnet.distributed.coordinator import Coordinator
from alexnet.utils.files import fsync_file, write_atomic

FEWEST_FAILURES = 3  # fewer never stop the work, however few pictures there are, unless none is allowed
LATE_SECONDS = 60.0  # until a folder made on one machine is surely seen on another through a network file system
OURS = (STATISTICS_FILE, PROGRESS_FILE, SKIPPED_FILE, OFFSETS_FILE)  # beside shards and records
KEY = {"size", "encoding", "filter", "fingerprint"}  # what each key has
FACTS = {"key", "source", "counts", "skipped", "image_bytes", "sampled", "sampled_bytes"}  # what a summary is made of
RECORD_NAME = re.compile(r"(train|val|test)-(\d{5,})\.safetensors")
PART = re.compile(r"(\.[0-9a-f]{8})?\.part$")  # the ending of a file that is being written


@dataclass(frozen=True)
class Shard:
    """A run of a part's listing that becomes one file."""

    split: str
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def name(self) -> str:
        """The file's name: "train-00007.arrow"."""
        return shard_name(self.split, self.number)

    @property
    def record(self) -> str:
        """The name of its record."""
        return self.name.removesuffix("arrow") + "safetensors"


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


class Record:
    """What a shard adds to the whole; or, where records were added up, the whole.

    Args:
        size: Side of the pictures, in pixels.
        classes: Number of classes.
        kind: Of the sums: 32 bits are enough for 255 times a shard's pictures, and added to several times as fast.
    """

    def __init__(self, size: int, classes: int, kind: type[np.integer[Any]] = np.uint32) -> None:
        self.sums = np.zeros((size, size, 3), kind)
        self.products = np.zeros((3, 3), np.int64)
        self.class_counts = np.zeros(classes, np.int64)
        self.numbers = np.zeros(4, np.int64)  # files skipped, bytes of pictures, pictures sampled, their bytes
        self.lines = bytearray()  # of skipped.jsonl

    def add(self, chunk: Chunk) -> None:
        """Add a chunk of the shard."""
        if chunk.sums is not None and chunk.products is not None:
            self.sums += chunk.sums
            self.products += chunk.products
        self.class_counts += np.bincount(chunk.batch.column("label").to_numpy(), minlength=len(self.class_counts))
        self.numbers += (len(chunk.skipped), chunk.image_bytes, chunk.sampled, chunk.sampled_bytes)
        for name, reason in chunk.skipped:
            self.lines += json.dumps({"name": name, "reason": reason}, ensure_ascii=False).encode() + b"\n"

    def save(self, path: Path) -> None:
        """Write its file, whole or not at all."""
        tensors = {name: value for name, value in vars(self).items() if name != "lines"}
        write_atomic(path, bytes(safetensors_bytes(tensors | {"lines": np.frombuffer(self.lines, np.uint8)})))

    def include(self, path: Path) -> np.ndarray:
        """Add the record in a file; returns its class counts.

        Raises:
            ValueError: The file is damaged.
        """
        found = _read(path, *vars(self))
        for name, value in vars(self).items():
            if name == "lines":
                self.lines += found[name].tobytes()
            elif value.shape != found[name].shape:
                raise ValueError(f"{path}: not the record of a shard; remove it and prepare again")
            else:
                value += found[name]
        return found["class_counts"]


def _read(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Some of the arrays in a record."""
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); remove it and prepare again") from error


class Writer:
    """Makes the files of a store, one shard after another.

    Args:
        store: The folder.
        source: What is prepared.
        key: The arguments and the source's fingerprint, to which later calls are held.
        shards: The whole plan, in order.
        max_failures: Share of the files that may be no readable pictures.
        coordinator: The processes that share the work.
    """

    def __init__(
        self,
        store: Path,
        source: Source,
        key: dict[str, Any],
        shards: list[Shard],
        max_failures: float,
        coordinator: Coordinator,
    ) -> None:
        self.store, self.source, self.key, self.shards, self.coordinator = store, source, key, shards, coordinator
        self.size, self.encoding = key["size"], key["encoding"]
        self.total = sum(len(part) for part in source.splits.values())
        fewest = FEWEST_FAILURES if max_failures > 0 else 1
        self.most_failures = max(fewest - 1, int(max_failures * self.total))
        self.begun = {"key": key, "source": source.name, "shards": len(shards), "longest_shard": max(map(len, shards))}
        # No other process ever writes under this ending, not even one that a lost machine left behind.
        self.ending = f".{secrets.token_hex(4)}.part"

    def schema(self, split: str) -> pa.Schema:
        """The schema of a split's shards."""
        return shard_schema(self.size, self.encoding, self.source.classes, split, self.source.name, self.key["filter"])

    def resume(self) -> list[int] | None:
        """The places in the plan of the shards to make, where no process is at work; None where all is complete.

        Raises:
            ValueError: The folder holds other files, or a store of another source or other arguments; or the files
                that an earlier call skipped are too many for this one.
        """
        names = begin(self.store, self.begun)
        if names is None:
            settle(self.store)
            return None
        made = [{shard.name, shard.record} <= names for shard in self.shards]
        records = [self.store / shard.record for shard in compress(self.shards, made)]
        self._count(sum(int(_read(path, "numbers")["numbers"][0]) for path in records), None, bytearray())
        return [place for place, there in enumerate(made) if not there]

    def write(self, shard: Shard, chunks: Iterable[Chunk], done: Callable[[int], None]) -> None:
        """Write one shard beside its place, rename it, and write its record.

        Args:
            shard: Which.
            chunks: Its chunks, in order.
            done: Told after each chunk how many files were seen.

        Raises:
            ValueError: With this shard too many files were no readable pictures.
        """
        path = self.store / shard.name
        beside = path.with_name(path.name + self.ending)
        record = Record(self.size, len(self.source.classes))
        try:
            with beside.open("wb") as file:
                with pa.ipc.new_file(file, self.schema(shard.split)) as writer:
                    for chunk in chunks:
                        if chunk.batch.num_rows:
                            writer.write_batch(chunk.batch)
                        record.add(chunk)
                        done(chunk.batch.num_rows + len(chunk.skipped))
                        self._count(len(chunk.skipped), shard, record.lines)
                fsync_file(file)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        record.save(self.store / shard.record)

    def _count(self, skipped: int, shard: Shard | None, lines: bytearray) -> None:
        """Count files skipped by any process; the one with which they become too many says so."""
        if not skipped:
            return
        count = self.coordinator.add("skipped", skipped)
        if not count - skipped <= self.most_failures < count:
            return
        whole = b"".join(
            bytes(lines) if one == shard else _read(self.store / one.record, "lines")["lines"].tobytes()
            for one in self.shards
            if one == shard or (self.store / one.record).exists()
        )
        write_atomic(self.store / SKIPPED_FILE, whole)
        last = json.loads(whole.splitlines()[-1])
        raise ValueError(
            f"{self.store}: {count} files of {self.total} are no readable pictures, "
            f"{self.most_failures} are allowed; the last: {last['name']} ({last['reason']}); see "
            f"{self.store / SKIPPED_FILE}, mend or remove them, or raise max_failures"
        )

    def finish(self) -> None:
        """Add up the records and write the statistics, which makes the folder a store.

        Raises:
            ValueError: A record is damaged, or a class or split has no pictures.
        """
        whole = Record(self.size, len(self.source.classes), np.int64)
        counts = {split: np.zeros_like(whole.class_counts) for split in self.source.splits}
        for shard in self.shards:
            counts[shard.split] += whole.include(self.store / shard.record)
        write_atomic(self.store / SKIPPED_FILE, bytes(whole.lines))
        for name, count in zip(self.source.classes, counts["train"], strict=True):
            if count == 0:
                self._none_readable(f"class {name!r} has no readable picture to train on")
        for split, of_split in counts.items():
            if not of_split.any():
                self._none_readable(f"split {split!r} has no readable picture")
        pictures = {split: int(of_split.sum()) for split, of_split in counts.items()}
        skipped, image_bytes, sampled, sampled_bytes = whole.numbers.tolist()
        about = {"key": self.key, "source": self.source.name, "shards": len(self.shards), "skipped": skipped}
        about |= {"skipped_bytes": len(whole.lines), "image_bytes": image_bytes}
        about |= {"sampled": sampled, "sampled_bytes": sampled_bytes, "counts": pictures}
        statistics = Statistics.from_sums(whole.sums, whole.products, pictures["train"])
        statistics.save(self.store / STATISTICS_FILE, about)
        settle(self.store)

    def _none_readable(self, fact: str) -> None:
        raise ValueError(
            f"{self.store}: {fact}; mend the files named in {self.store / SKIPPED_FILE} or add others, "
            "then remove the store and prepare it again"
        )


def settle(store: Path) -> None:
    """Bring a complete store to its final form: just finished, left so by a kill, or made by an earlier version."""
    for path in [path for path in store.iterdir() if RECORD_NAME.fullmatch(path.name)]:
        path.unlink()
    (store / PROGRESS_FILE).unlink(missing_ok=True)
    if not (store / OFFSETS_FILE).exists():
        write_offsets(store)


def begin(store: Path, begun: dict[str, Any]) -> set[str] | None:
    """The files of a half prepared store, a new one's progress file written; None where it is complete.

    Args:
        store: The folder.
        begun: What its progress file says, or is to say: the key, the source's name, and how it is cut into shards.

    Raises:
        ValueError: The folder holds other files, or a store of another source or other arguments.
    """
    names = {path.name for path in store.iterdir()}
    for name in sorted(names):
        plain = PART.sub("", name)
        if plain not in OURS and not SHARD_NAME.fullmatch(plain) and not RECORD_NAME.fullmatch(plain):
            raise ValueError(f"{store}: holds {name!r}, which is no part of a store; choose a new or empty folder")
    for name in filter(PART.search, names):
        (store / name).unlink()
    names = {name for name in names if not PART.search(name)}
    if STATISTICS_FILE in names:
        about = read_safetensors(store / STATISTICS_FILE)[1]
        if not about.keys() >= FACTS or not isinstance(about["counts"], dict):
            raise ValueError(f"{store}: a store that `prepare` did not make; use another STORE")
        check_key(store, about, begun)
        return None
    if PROGRESS_FILE not in names:
        if names:
            raise ValueError(
                f"{store}: holds {min(names)!r} but no {PROGRESS_FILE}; remove the folder and prepare again"
            )
        metadata = {METADATA_KEY: json.dumps(begun, ensure_ascii=False)}
        write_atomic(store / PROGRESS_FILE, bytes(safetensors_bytes({}, metadata=metadata)))
    kept = read_safetensors(store / PROGRESS_FILE)[1]
    check_key(store / PROGRESS_FILE, kept, begun)
    if any(kept.get(name) != begun[name] for name in ("shards", "longest_shard")):
        raise ValueError(f"{store}: half prepared by another version of this program; remove it and prepare it again")
    return names


def check_key(store: Path, was: dict[str, Any], begun: dict[str, Any]) -> None:
    """Check that a store was begun from the same source with the same arguments."""
    if not isinstance(was.get("key"), dict) or not was["key"].keys() >= KEY:
        raise ValueError(f"{store}: not what `prepare` writes; remove the store and prepare it again")
    if found := difference(was, begun):
        raise ValueError(f"{store}: prepared with {found}; use another STORE, or remove this one")


def difference(was: dict[str, Any], begun: dict[str, Any]) -> str:
    """In what the key that was differs from another, in words; "" for nothing."""
    for name, value in begun["key"].items():
        if was["key"].get(name) != value:
            if name == "fingerprint":
                return f"a source of other files (some of {was['source']!r} were added, removed or changed since)"
            return f"{name}={was['key'].get(name)!r}, not {value!r}"
    return ""

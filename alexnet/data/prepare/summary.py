"""The summary that `prepare` returns and the command prints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.prepare.encode import JPEG_QUALITY
from alexnet.data.sources.base import Source
from alexnet.data.store.format import (
    DUPLICATES_FILE,
    SKIPPED_FILE,
    STATISTICS_FILE,
    find_shards,
    read_safetensors,
    read_shard,
)
from alexnet.utils.console import count_of, format_bytes

_NAMED_CLASSES = 6  # that the text of a summary names


@dataclass(frozen=True)
class Summary:
    """What `prepare` has done.

    Args:
        store: The folder of the store.
        counts: Number of pictures of each split.
        classes: The class names.
        class_counts: Number of pictures of each class, in all splits.
        skipped: Number of files that are not readable pictures; skipped.jsonl names them.
        ignored: Number of files that were not used, by the ending of their names or the reason.
        size: Side of the pictures in pixels.
        encoding: "raw" or "jpeg".
        raw_bytes: Size of the pictures as raw pixels.
        jpeg_bytes: Size of the pictures as JPEG; in a raw store estimated from one picture in 32.
        seconds: Duration of this call.
        pictures_per_second: Files of all processes in this call, including skipped ones, by its duration.
        already: Whether the store was complete before this call.
        duplicates: What `summarise_duplicates` says about pictures of the same photograph; empty for a store of an
            earlier version.
    """

    store: str
    counts: dict[str, int]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    skipped: int
    ignored: dict[str, int]
    size: int
    encoding: str
    raw_bytes: int
    jpeg_bytes: int
    seconds: float
    pictures_per_second: float
    already: bool = False
    duplicates: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        splits = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        sizes = {"raw": f"raw {format_bytes(self.raw_bytes)}", "jpeg": f"JPEG {format_bytes(self.jpeg_bytes)}"}
        other = "jpeg" if self.encoding == "raw" else "raw"
        note = f" (estimated, quality {JPEG_QUALITY})" if other == "jpeg" else ""
        lines = [
            f"{self.store}: {sum(self.counts.values()):,} pictures of {self.size}x{self.size}"
            f" in {len(self.classes):,} classes: {splits}",
            f"classes: {self._describe_classes()}",
            f"encoding: {sizes[self.encoding]}; the other encoding: {sizes[other]}{note}",
        ]
        lines += self.warnings()
        if self.ignored:
            endings = ", ".join(f"{count:,} {ending}" for ending, count in sorted(self.ignored.items()))
            lines.append(f"not used: {endings}")
        rate = f"{self.seconds:.1f} s, {self.pictures_per_second:,.0f} pictures a second"
        lines.append("the store was complete already: nothing to do" if self.already else rate)
        return "\n".join(lines)

    def _describe_classes(self) -> str:
        """Return the first classes and their numbers of pictures, and between what numbers those of all are."""
        first = list(zip(self.classes, self.class_counts, strict=True))[:_NAMED_CLASSES]
        text = ", ".join(f"{name} ({count:,})" for name, count in first)
        if len(first) == len(self.classes):
            return text
        least, most = min(self.class_counts), max(self.class_counts)
        sizes = f"{least:,} to {most:,}" if least < most else f"{most:,}"
        return f"{text} and {len(self.classes) - len(first):,} more; {sizes} pictures a class"

    def warnings(self) -> list[str]:
        """Return what is wrong with the pictures, in lines: files that are not readable, and duplicates."""
        lines, duplicates = [], self.duplicates
        if self.skipped:
            lines.append(f"skipped {count_of(self.skipped, 'unreadable file')}: see {self.store}/{SKIPPED_FILE}")
        if duplicates and duplicates["pictures"]:
            count, file = duplicates["pictures"], f"{self.store}/{DUPLICATES_FILE}"
            lines.append(f"{count_of(count, 'picture')} of the same photograph as an earlier one: see {file}")
        if duplicates and duplicates["moved"]:
            lines.append(
                f"moved {count_of(duplicates['moved'], 'picture')} to another split, so that each photograph is in one "
                "split only"
            )
        if duplicates and duplicates["shared"]:
            shared = " and ".join(f"{count:,} of {split}" for split, count in duplicates["shared"].items())
            examples = ", ".join(f"{name} ({other})" for name, other in duplicates["examples"])
            lines.append(
                f"warning: {shared} show photographs of an earlier split, so their error will be too low: {examples}"
            )
        return lines


def summarise(store: Path, source: Source, prepared: int | None, seconds: float) -> Summary:
    """Return the summary of a complete store.

    Args:
        store: The folder.
        source: The source it was prepared from.
        prepared: Number of pictures that this call has prepared; None if the store was complete before.
        seconds: Duration of this call.
    """
    metadata = read_safetensors(store / STATISTICS_FILE)[1]
    size, encoding = metadata["key"]["size"], metadata["key"]["encoding"]
    counts = dict(zip(source.splits, metadata["counts"].values(), strict=True))
    pictures = sum(counts.values())
    class_counts = np.zeros(len(source.classes), np.int64)
    for split, count in metadata["counts"].items():
        # Not by a Store: it imports torch, which takes longer than preparing a few thousand pictures.
        columns = [batch.column("label") for path in find_shards(store, split) for batch in read_shard(path)[0]]
        labels = np.concatenate([np.empty(0, np.int32), *(column.to_numpy() for column in columns)])
        if len(labels) != count:
            raise ValueError(
                f"{store}: split {split!r} has {len(labels)} of {count} pictures; prepare the source again"
            )
        class_counts += np.bincount(labels, minlength=len(source.classes))
    if encoding == "jpeg":
        jpeg_bytes = metadata["image_bytes"]
    else:
        jpeg_bytes = pictures * metadata["sampled_bytes"] // metadata["sampled"]
    return Summary(
        store=str(store),
        counts=counts,
        classes=source.classes,
        class_counts=tuple(class_counts.tolist()),
        skipped=metadata["skipped"],
        ignored=source.ignored,
        size=size,
        encoding=encoding,
        raw_bytes=pictures * size**2 * 3,
        jpeg_bytes=jpeg_bytes,
        seconds=seconds,
        pictures_per_second=(prepared or 0) / seconds,
        already=prepared is None,
        duplicates=metadata.get("duplicates", {}),
    )

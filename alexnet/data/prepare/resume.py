"""Resume a store after a kill: find out which shards are complete, and refuse a store of other pictures or arguments.

A shard is complete if its record is there. The records are the only truth about the progress, so a process that is
killed loses at most one shard, and any number of processes may go on.
"""

import re
from pathlib import Path
from typing import Any

from alexnet.data.prepare.failures import FailureLimit
from alexnet.data.prepare.plan import Plan
from alexnet.data.prepare.record import RECORD_NAME, read_skipped_count, was_written_from
from alexnet.data.prepare.writer import clean_up
from alexnet.data.store.format import (
    CHECKSUMS_FILE,
    DUPLICATES_FILE,
    OFFSETS_FILE,
    PROGRESS_FILE,
    SHARD_NAME,
    SKIPPED_FILE,
    STATISTICS_FILE,
    read_safetensors,
    safetensors_bytes,
)
from alexnet.utils.console import count_of, note_once
from alexnet.utils.files import write_atomic

# Beside the shards and their records.
_OTHER_FILES = (STATISTICS_FILE, PROGRESS_FILE, SKIPPED_FILE, DUPLICATES_FILE, OFFSETS_FILE, CHECKSUMS_FILE)
_TEMPORARY = re.compile(r"(\.[0-9a-f]{8})?\.part$")  # the ending of a file that is being written
# Every version writes at least these.
_KEY_FIELDS = {"size", "encoding", "filter", "fingerprint"}
_METADATA_FIELDS = {"key", "source", "counts", "skipped", "image_bytes", "sampled", "sampled_bytes"}


def resume(plan: Plan, failures: FailureLimit) -> list[int] | None:
    """Start a store or resume it where an earlier call was stopped. No other process may work in the folder meanwhile.

    Returns:
        The indices in `plan.shards` of the shards to write; None if the store is complete.

    Raises:
        ValueError: The folder contains other files, or a store of another source or other arguments; or the files that
            an earlier call skipped are too many for this one.
    """
    names = _remove_temporary_files(plan.store)
    if STATISTICS_FILE in names:
        _check_complete_store(plan)
        clean_up(plan.store)
        return None
    if PROGRESS_FILE not in names:
        _start(plan, names)
    has_moves = _check_progress_file(plan)
    complete = [{shard.file_name, shard.record_name} <= names for shard in plan.shards]
    if not has_moves:  # pictures may have been moved from shards already, which then have fewer than their files
        _forget_changed_shards(plan, complete)
    records = [plan.store / shard.record_name for shard, done in zip(plan.shards, complete, strict=True) if done]
    failures.add(sum(map(read_skipped_count, records)))
    return [index for index, done in enumerate(complete) if not done]


def _forget_changed_shards(plan: Plan, complete: list[bool]) -> None:
    """Mark the complete shards as incomplete some of whose files were modified since, and say so.

    Args:
        plan: The plan of the store.
        complete: For each shard of the plan, whether it is complete. It is changed in place.
    """
    for index, shard in enumerate(plan.shards):
        record = plan.store / shard.record_name
        if complete[index] and not was_written_from(record, plan.modification_digest(shard)):
            complete[index] = False
            note_once(f"{plan.store / shard.file_name} is written again: some of its files were modified meanwhile")


def find_difference(saved: dict[str, Any], current: dict[str, Any]) -> str:
    """Describe the first difference between the key of a store or another process and the current one.

    Args:
        saved: The metadata of a store, or of the plan of another process.
        current: The metadata of the current plan.

    Returns:
        Something like "seed=0, not 1"; "" if the keys are equal.
    """
    # An option may change the listing too, so it is the better explanation.
    names = sorted(current["key"] | saved["key"], key=lambda name: name == "fingerprint")
    for name in names:
        before, now = (metadata["key"].get(name) for metadata in (saved, current))
        if before != now:
            if name == "fingerprint":
                return f"a source of other files (some of {saved['source']!r} were added, removed or changed since)"
            return f"{name}={before!r}, not {now!r}"
    return ""


def _remove_temporary_files(store: Path) -> set[str]:
    """Remove what a killed process was writing.

    Returns:
        The names of all other files in the folder.

    Raises:
        ValueError: The folder contains files that are not part of a store.
    """
    names = {path.name for path in store.iterdir()}
    for name in sorted(names):
        final_name = _TEMPORARY.sub("", name)
        if final_name not in _OTHER_FILES and not (
            SHARD_NAME.fullmatch(final_name) or RECORD_NAME.fullmatch(final_name)
        ):
            raise ValueError(f"{store}: contains {name!r}, which is not part of a store; choose a new or empty folder")
    temporary_names = set(filter(_TEMPORARY.search, names))
    for name in temporary_names:
        (store / name).unlink()
    return names - temporary_names


def _start(plan: Plan, names: set[str]) -> None:
    """Write the progress file of a new store; `names` are the files in the folder."""
    if names:
        raise ValueError(
            f"{plan.store}: contains {min(names)!r} but no {PROGRESS_FILE}; remove the folder and prepare again"
        )
    write_atomic(plan.store / PROGRESS_FILE, safetensors_bytes({}, plan.progress_metadata))


def _check_complete_store(plan: Plan) -> None:
    """Raise a ValueError unless the complete store in the folder is that of the plan."""
    metadata = read_safetensors(plan.store / STATISTICS_FILE)[1]
    if not metadata.keys() >= _METADATA_FIELDS or not isinstance(metadata["counts"], dict):
        raise ValueError(f"{plan.store}: a store that `prepare` did not write; use another STORE")
    _check_key(plan.store, metadata, plan.progress_metadata)
    written = (plan.store / STATISTICS_FILE).stat().st_mtime_ns
    count = sum(int((pictures.mtimes > written).sum()) for pictures in plan.source.splits.values())
    if count:  # no error: a copy of the same files is newer, too
        note_once(
            f"{plan.store}: {count_of(count, 'file')} of {plan.source.name!r} changed after the store was written; if "
            "that made other pictures, remove the store and prepare it again"
        )


def _check_progress_file(plan: Plan) -> bool:
    """Raise a ValueError unless the unfinished store in the folder is that of the plan, cut into the same shards.

    Returns:
        Whether all shards were complete, and pictures are being moved from one split to another.
    """
    path, current = plan.store / PROGRESS_FILE, plan.progress_metadata
    arrays, saved = read_safetensors(path)
    _check_key(path, saved, current)
    if any(saved.get(name) != current[name] for name in ("shards", "longest_shard")):
        raise ValueError(
            f"{plan.store}: partly prepared by another version of this program; remove it and prepare it again"
        )
    return "moves" in arrays


def _check_key(path: Path, saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise a ValueError unless the metadata in a file belong to the same source and arguments as the current ones."""
    if not isinstance(saved.get("key"), dict) or not saved["key"].keys() >= _KEY_FIELDS:
        raise ValueError(f"{path}: not written by `prepare`; remove the store and prepare it again")
    if difference := find_difference(saved, current):
        raise ValueError(f"{path}: prepared with {difference}; use another STORE, or remove this one")

"""The record of a shard: a damaged file is named, with what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alexnet.data.prepare.record import (
    ShardRecord,
    read_checksums,
    read_hashes,
    read_skipped_count,
    read_skipped_lines,
    was_written_from,
)

READERS: tuple[Callable[[Path], Any], ...] = (
    lambda path: read_hashes(path, 2),
    read_checksums,
    read_skipped_count,
    read_skipped_lines,
    lambda path: was_written_from(path, 7),
    ShardRecord(4, 2).add_file,
)


def test_each_reader_names_a_damaged_record(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.safetensors"
    ShardRecord(4, 2, modified=7).save(path, "0" * 16)
    whole = path.read_bytes()
    assert was_written_from(path, 7)
    assert not was_written_from(path, 8)
    assert read_skipped_count(path) == 0
    for damaged in (whole[:-3], whole[:20], b"", b"not a record"):
        path.write_bytes(damaged)
        for read in READERS:
            with pytest.raises(ValueError, match=r"train-00000\.safetensors: damaged"):
                read(path)


def test_the_record_of_another_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000.safetensors"
    ShardRecord(4, 2).save(path, "0" * 16)
    with pytest.raises(ValueError, match="not the record of a shard"):
        ShardRecord(5, 2).add_file(path)

"""The cache of remote pictures: its limit, several processes, a damaged database and a full disk."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.data.store.cache import PictureCache
from alexnet.data.store.remote_folder import ByteRange


def test_many_small_pictures_are_removed_for_a_large_one(tmp_path: Path) -> None:
    cache = PictureCache(tmp_path, 3_000_000, "set")
    for n in range(600):
        cache.put(ByteRange("a", n, n + 4000), bytes(4000))
    for n in range(20):
        cache.put(ByteRange("b", n, n + 200_000), bytes(200_000))
        assert cache._database.volume() <= 3_000_000
    assert cache.get(ByteRange("b", 19, 200_019)) == bytes(200_000)
    assert PictureCache(tmp_path, 500_000, "set")._database.volume() <= 500_000  # a smaller limit holds at once


FILL_CACHE = """
import sys
from itertools import count
from pathlib import Path
from alexnet.data.store.cache import PictureCache
from alexnet.data.store.remote_folder import ByteRange
cache = PictureCache(Path(sys.argv[1]), 1 << 30, "set")
for i in count():
    cache.put(ByteRange("a", i * 5000, (i + 1) * 5000), bytes([i % 251]) * 5000)
    if i == 100:
        print("100 entries", flush=True)
"""


def test_processes_share_the_cache_and_a_killed_one_does_not_damage_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FILL_CACHE, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "100 entries\n"
        cache = PictureCache(tmp_path, 1 << 30, "set")
        for i in range(200):  # while the other process writes
            cache.put(ByteRange("b", i, i + 7), bytes([i]) * 7)
        process.kill()
    entries = [cache.get(ByteRange("a", i * 5000, (i + 1) * 5000)) for i in range(10_000)]
    count = sum(data is not None for data in entries)
    assert count > 100
    assert entries[:count] == [bytes([i % 251]) * 5000 for i in range(count)]
    assert [cache.get(ByteRange("b", i, i + 7)) for i in range(200)] == [bytes([i]) * 7 for i in range(200)]
    with sqlite3.connect(tmp_path / "cache.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()
    assert PictureCache(tmp_path, 1 << 30, "another").get(ByteRange("b", 0, 7)) is None
    assert cache.get(ByteRange("b", 0, 8)) is None  # another length is another range


def test_a_damaged_cache_is_refused_and_a_full_disk_is_noted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache.db").write_bytes(b"nonsense " * 1000)
    with pytest.raises(
        OSError, match=r"cannot cache pictures there \(DatabaseError: .*; remove it, or set ALEXNET_CACHE"
    ):
        PictureCache(tmp_path, 1 << 30, "set")
    with pytest.raises(OSError, match="cannot cache pictures there"):
        PictureCache(tmp_path / "cache.db", 1 << 30, "set")
    cache, byte_range = PictureCache(tmp_path / "c", 1 << 30, "set"), ByteRange("a", 0, 100_000)
    cache.put(byte_range, bytes(100_000))
    cache._database._sql("PRAGMA max_page_count = 1")  # so SQLite reports a full disk
    for n in range(3):
        cache.put(ByteRange("b", n, n + 100_000), bytes(100_000))
    assert cache.get(ByteRange("b", 0, 100_000)) is None
    assert cache.get(byte_range) == bytes(100_000)
    notes = capsys.readouterr().err
    assert notes.count("\n") == 1
    assert "no more pictures are cached in" in notes
    assert "disk is full" in notes

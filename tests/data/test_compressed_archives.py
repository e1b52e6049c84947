"""Compressed archives: the same stores as from folders, and what damaged, hostile and too large ones lead to."""

import bz2
import errno
import gzip
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from test_prepare import prepare_small, read_files, stop_after, write_pictures

from alexnet.data.prepare import plan
from alexnet.data.sources import compression
from alexnet.data.sources.kinds import open_source

FORMATS = ("gzip", "bzip2", "xz", "zstd")


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, and small shards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 16 * 16 * 3)
    monkeypatch.setattr(plan, "CHUNK_BYTES", 3 * 16 * 16 * 3)
    return folder


def compress(contents: bytes, method: str) -> bytes:
    """Return the contents of a compressed file."""
    match method:
        case "gzip":
            return gzip.compress(contents)
        case "bzip2":
            return bz2.compress(contents)
        case "xz":
            return lzma.compress(contents)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(contents)
    return sink.getvalue().to_pybytes()


def pack(root: Path, archive: Path, method: str) -> Path:
    """Pack the contents of a folder into a compressed .tar, in another order than the sorted one."""
    with tarfile.open(f"{archive}.tar", "w") as target:
        for path in sorted((path for path in root.rglob("*") if path.is_file()), reverse=True):
            target.add(path, path.relative_to(root))
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(compress(Path(f"{archive}.tar").read_bytes(), method))
    return archive


@pytest.mark.parametrize("method", FORMATS)
def test_the_store_is_that_of_the_folder_byte_for_byte(
    tmp_path: Path, method: str, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / "set", each=8, broken=1)
    (tmp_path / "packed").mkdir()
    archive = pack(folder, tmp_path / "packed" / "set", method)  # the name of a source is part of its store
    prepare_small(folder, tmp_path / "expected")
    stop_after(2, archive, tmp_path / "store", monkeypatch)
    prepare_small(archive, tmp_path / "store", workers=3)
    assert read_files(tmp_path / "store") == read_files(tmp_path / "expected")
    assert list(temporary_folder.iterdir()) == []


@pytest.mark.parametrize("method", FORMATS)
def test_several_compressed_streams_may_follow_each_other(tmp_path: Path, method: str) -> None:
    parts = [b"first " * 100_000, b"second " * 100_000]
    path = tmp_path / "file"
    path.write_bytes(b"".join(compress(part, method) for part in parts))
    with compression.open_decompressed(path) as stream:
        assert stream.read() == b"".join(parts)


def test_zeros_may_follow_an_xz_stream(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(lzma.compress(b"contents") + bytes(8))
    with compression.open_decompressed(tmp_path / "file") as stream:
        assert stream.read() == b"contents"


@pytest.mark.parametrize("method", FORMATS)
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_archive_is_refused_in_one_line(
    tmp_path: Path, method: str, damage: str, temporary_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack(write_pictures(tmp_path / "set", each=3), tmp_path / "set.packed", method)
    contents = path.read_bytes()
    middle = len(contents) // 2
    end = b"" if damage == "cut" else bytes(b ^ 255 for b in contents[middle:])
    path.write_bytes(contents[:middle] + end)
    with pytest.raises(ValueError, match="damaged archive") as caught:
        open_source(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""  # no note before the error
    assert list(temporary_folder.iterdir()) == []


@pytest.mark.parametrize("intact", [0, 1, 200, 600])
def test_damage_that_tarfile_reports_as_its_own_error_is_damage(tmp_path: Path, intact: int) -> None:
    compressor = zlib.compressobj(wbits=31)
    start = compressor.compress(bytes(intact)) + compressor.flush(zlib.Z_FULL_FLUSH)
    path = tmp_path / "set.packed"
    path.write_bytes(start + b"\xff" * 1000)  # no block of deflate begins so
    with pytest.raises(ValueError, match="damaged archive"):
        open_source(path)


def test_a_compressed_file_that_is_no_archive_is_no_source(tmp_path: Path) -> None:
    for method in FORMATS:
        (tmp_path / method).write_bytes(compress(b"path,label\n" * 1000, method))
        with pytest.raises(ValueError, match="not a source that can be read"):
            open_source(tmp_path / method)


@pytest.mark.parametrize("method", FORMATS)
def test_an_archive_that_unpacks_to_far_more_than_pictures_is_refused(
    tmp_path: Path, method: str, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "ALWAYS_ALLOWED_BYTES", 1 << 20)
    with tarfile.open(tmp_path / "bomb.tar", "w") as target:
        (tmp_path / "zeros").write_bytes(bytes(20 << 20))
        target.add(tmp_path / "zeros", "a/zeros.jpg")
    (tmp_path / "bomb").write_bytes(compress((tmp_path / "bomb.tar").read_bytes(), method))
    with pytest.raises(ValueError, match="may unpack to at most 200 times its size"):
        open_source(tmp_path / "bomb")
    assert list(temporary_folder.iterdir()) == []


def test_an_xz_file_cannot_ask_for_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(write_pictures(tmp_path / "set", each=2), tmp_path / "set.xz", "xz")
    monkeypatch.setattr(compression, "MAX_DICTIONARY_BYTES", 1 << 20)  # the file asks for 8 MiB
    with pytest.raises(ValueError, match=r"damaged archive.*[Mm]emory"):
        open_source(path)


def test_too_little_room_is_reported(tmp_path: Path, temporary_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(write_pictures(tmp_path / "set", each=2), tmp_path / "set.gz", "gzip")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
        with pytest.raises(
            ValueError, match=r"needs more than the 0 bytes that are free in .*; free some space, or set"
        ):
            open_source(path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "utime", fail)
    with pytest.raises(OSError, match="the disk is full; free some space") as caught:
        open_source(path)
    assert str(temporary_folder) in str(caught.value)


def test_unpacking_that_takes_long_is_said_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pack(write_pictures(tmp_path / "set", each=2), tmp_path / "set.gz", "gzip")
    monkeypatch.setattr(compression, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(os, "utime", lambda *_, **__: pytest.fail(capsys.readouterr().err))
    with pytest.raises(pytest.fail.Exception, match="a compressed archive, unpacked into a temporary file in"):
        open_source(path)


def test_a_killed_process_leaves_no_temporary_file(tmp_path: Path, temporary_folder: Path) -> None:
    path = pack(write_pictures(tmp_path / "set", each=3), tmp_path / "set.zst", "zstd")
    code = (
        "import sys\nfrom alexnet.data.sources.kinds import open_source\n"
        "source = open_source(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        env=os.environ | {"TMPDIR": str(temporary_folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        process.send_signal(signal.SIGKILL)
    assert list(temporary_folder.iterdir()) == []

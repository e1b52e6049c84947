"""Downloads from a local server that breaks connections, sends complete files only, or sends something else."""

import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from alexnet.data.sources import download as download_module
from alexnet.data.sources.download import CIFAR10_MD5, download, download_cifar10

CONTENTS = bytes(range(256)) * 5000  # more than one chunk
MD5 = hashlib.md5(CONTENTS).hexdigest()


class Server(ThreadingHTTPServer):
    """A server that sends CONTENTS and records the Range header of each request.

    Args:
        ranges: Whether it supports the Range header.
        breaks: Bytes after which it closes the connection, one number for each of the first connections.
    """

    def __init__(self, *, ranges: bool = True, breaks: tuple[int, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.breaks = ranges, list(breaks)
        self.requests: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers["Range"]
        self.server.requests.append(requested)
        if not self.path.endswith("file.bin"):
            self.send_error(404)
            return
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and self.server.ranges else 0
        if start >= len(CONTENTS):
            self.send_error(416)
            return
        body = CONTENTS[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(**options: object) -> Server:
        server = Server(**options)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_file_is_downloaded_once(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    path = download(server.url, tmp_path / "new" / "file.bin", md5=MD5)
    assert path.read_bytes() == CONTENTS
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    assert download(server.url, path, md5=MD5) == path
    assert server.requests == [None]  # the second call made no request


def test_a_broken_connection_is_resumed(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(breaks=(700_001, 3))
    assert download(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.requests == [None, "bytes=700001-", "bytes=700004-"]


def test_a_later_call_continues_an_earlier_one(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENTS[:1000])
    server = serve()
    assert download(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.requests == ["bytes=1000-"]


def test_a_part_that_is_complete_becomes_the_file(serve: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENTS)
    assert download(serve().url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS


def test_a_server_without_ranges_sends_the_file_again(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(ranges=False, breaks=(5000,))
    assert download(server.url, tmp_path / "file.bin", md5=MD5).read_bytes() == CONTENTS
    assert server.requests == [None, "bytes=5000-"]


def test_a_download_with_a_wrong_checksum_is_deleted(serve: Callable[..., Server], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"MD5 checksum {CIFAR10_MD5}; got {MD5}: the download is deleted; try again"):
        download(serve().url, tmp_path / "file.bin", md5=CIFAR10_MD5)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_verified_and_kept(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz must have the MD5 checksum .*: remove it"):
        download_cifar10(tmp_path)
    assert (tmp_path / "cifar-10-binary.tar.gz").exists()


def test_a_server_that_breaks_every_connection_is_given_up(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(breaks=(2_000, *[0] * 10))
    with pytest.raises(
        OSError, match=r"could not be reached .*2\.0 kB were received: check the network and run the same"
    ):
        download(server.url, tmp_path / "file.bin", md5=MD5)
    assert len(server.requests) == 1 + download_module.MAX_EMPTY_CONNECTIONS
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENTS[:2_000]


def test_without_a_network_the_error_is_one_line(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match=r"could not be reached .*refused") as error:
        download(url, tmp_path / "file.bin", md5=MD5)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "file.bin") in str(error.value)


def test_a_missing_file_is_reported_with_the_server_s_answer(serve: Callable[..., Server], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the server says HTTP Error 404"):
        download(serve().url.replace("file", "other") + "x", tmp_path / "file.bin", md5=MD5)


def test_a_full_disk_is_not_mistaken_for_a_network_error(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    real = Path.open

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(self: Path, *args: str, **options: object) -> object:
        return Full() if self.name.endswith(".part") else real(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        OSError, match=r"file\.bin\.part could not be written \(No space left .*: free some space"
    ) as caught:
        download(server.url, tmp_path / "file.bin", md5=MD5)
    assert caught.value.errno == errno.ENOSPC
    assert len(server.requests) == 1  # it is not tried again


def test_a_folder_that_cannot_be_created_is_reported_before_any_request(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"could not be written .*choose another folder"):
        download(server.url, tmp_path / "file" / "inside" / "file.bin", md5=MD5)
    assert server.requests == []

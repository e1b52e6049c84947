"""Files at http addresses, from a local server that redirects, refuses, sends too much, too slowly or too little."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alexnet.data.sources.web_file import is_web_address, read_web_file

CONTENTS = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    """Answers by the address's path."""

    def do_GET(self) -> None:
        action, _, rest = self.path.lstrip("/").partition("/")
        if action == "slow-headers":
            self._drip(b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 1000)
        elif action == "slow-body":
            self._drip(b"HTTP/1.0 200 OK\r\n\r\n", CONTENTS)
        elif action == "redirect":
            number = int(rest)
            self._answer(302, {"Location": f"/redirect/{number - 1}" if number else "/picture"})
        elif action == "file":
            self._answer(302, {"Location": "file:///etc/hostname"})
        elif action == "no-length":
            self._answer(200, {}, CONTENTS)
        elif action == "cut":
            self._answer(200, {"Content-Length": str(len(CONTENTS) + 1)}, CONTENTS)
        elif action in ("picture", "two%20words%C3%A9"):
            assert self.headers["User-Agent"] == "alexnet"
            self._answer(200, {"Content-Length": str(len(CONTENTS))}, CONTENTS)
        else:
            self.send_error(404)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, start: bytes, rest: bytes = b"") -> None:
        """Send a byte at a time, so that no single read times out."""
        self.wfile.write(start[:20])
        try:
            for byte in start[20:] + rest:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["picture", "redirect/4", "no-length", "two wordsé", "two%20words%C3%A9"])
def test_contents(address: str, path: str) -> None:
    assert read_web_file(f"{address}/{path}", max_bytes=len(CONTENTS)) == CONTENTS


@pytest.mark.parametrize("path", ["picture", "no-length"])
def test_too_many_bytes(address: str, path: str) -> None:
    with pytest.raises(ValueError, match=f"{path}: a picture file may have at most 255,999 bytes; this one has more"):
        read_web_file(f"{address}/{path}", max_bytes=len(CONTENTS) - 1)


def test_too_many_redirects(address: str) -> None:
    with pytest.raises(ValueError, match="redirect/6: an address may lead to another http address at most 5 times"):
        read_web_file(f"{address}/redirect/6")


def test_a_redirect_to_a_file_is_not_followed(address: str) -> None:
    with pytest.raises(ValueError, match="may lead to another http address"):
        read_web_file(f"{address}/file")


@pytest.mark.parametrize("path", ["slow-headers", "slow-body"])
def test_too_slow(address: str, path: str) -> None:
    start = time.monotonic()
    with pytest.raises(OSError, match=rf"{path} cannot be downloaded \(it takes longer than 0.3 s\): try again"):
        read_web_file(f"{address}/{path}", max_seconds=0.3)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("path", "reason"),
    [("none", "the server says 404 Not Found: check the address"), ("cut", r"\(IncompleteRead.*\): try again")],
)
def test_what_the_server_refuses_or_cuts_off(address: str, path: str, reason: str) -> None:
    with pytest.raises(OSError, match=f"{path} cannot be downloaded.*{reason}"):
        read_web_file(f"{address}/{path}")


@pytest.mark.parametrize("text", ["http://127.0.0.1:1/a.png", "https://127.0.0.1:1/a.png", "http://", "http://[/a"])
def test_what_no_server_answers(text: str) -> None:
    with pytest.raises((OSError, ValueError)):
        read_web_file(text)


def test_addresses_are_recognised() -> None:
    assert is_web_address("HTTPS://example.org/a.png")
    assert not is_web_address("httpfolder/a.png")
    assert not is_web_address("file:///a.png")

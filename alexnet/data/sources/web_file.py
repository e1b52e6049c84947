"""A picture file at an http or https address, read with limits on its bytes, its time and its redirects."""

import functools
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_MAX_BYTES = 1 << 26  # 64 MiB: more than photographs on web pages have
_MAX_SECONDS = 30.0  # for everything from the connection to the last byte
_MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 16
_ALLOWED = "%/:=&?~#+!$,;'@()*[]"  # in an address; other characters are quoted, as a browser does
_HEADERS = {"User-Agent": "alexnet", "Accept": "image/*,*/*;q=0.5"}  # some servers refuse urllib's own name


def is_web_address(text: str) -> bool:
    """Return whether a text is an http or https address."""
    return text.lower().startswith(("http://", "https://"))


def read_web_file(address: str, *, max_bytes: int = _MAX_BYTES, max_seconds: float = _MAX_SECONDS) -> bytes:
    """Return the contents of the file at an address. Proxies are those of the environment, as in urllib.

    Args:
        address: An http or https address.
        max_bytes: The most bytes that the file may have.
        max_seconds: The longest time that the download may take.

    Raises:
        ValueError: The file is too large, or there are more than five redirects.
        OSError: The server cannot be reached, refuses, breaks off, or takes too long.
    """
    with _TimeLimit(max_seconds) as limit:
        try:
            request = urllib.request.Request(urllib.parse.quote(address, safe=_ALLOWED), headers=_HEADERS)
            with _new_opener(limit).open(request, timeout=max_seconds) as response:
                data = _read_response(response, address, max_bytes)
            if limit.is_over:  # a connection that was shut down can look like the end of the file
                raise TimeoutError
            return data
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (301, 302, 303, 307, 308):
                raise ValueError(
                    f"{address}: an address may lead to another http address at most {_MAX_REDIRECTS} times: give the "
                    "address of the picture itself"
                ) from error
            raise OSError(
                f"{address} cannot be downloaded; the server says {error.code} {error.reason}: check the address"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if limit.is_over or isinstance(error, TimeoutError):
                reason = f"it takes longer than {max_seconds:g} s"
            raise OSError(f"{address} cannot be downloaded ({reason}): try again, or save the file yourself") from error


def _read_response(response: http.client.HTTPResponse, address: str, max_bytes: int) -> bytes:
    """Return the contents of a response."""
    length = response.headers.get("Content-Length")
    data = bytearray()
    while len(data) <= max_bytes and not (length and length.isdecimal() and int(length) > max_bytes):
        chunk = response.read1(_CHUNK_BYTES)
        if not chunk:
            if length and length.isdecimal() and len(data) < int(length):  # read1 does not report it
                raise http.client.IncompleteRead(bytes(data), int(length) - len(data))
            return bytes(data)
        data += chunk
    raise ValueError(
        f"{address}: a picture file may have at most {max_bytes:,} bytes; this one has more: save it smaller"
    )


class _TimeLimit:
    """A time after which all connections of a download are shut down.

    A socket's timeout is not enough: it begins again with each byte that a slow server sends.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._sockets: list[Any] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    def watch(self, connection: http.client.HTTPConnection) -> None:
        """Shut a connection down when the time is over."""
        with self._lock:
            # A duplicate, because TLS takes the descriptor away from the socket; shutting it down ends both.
            self._sockets.append(connection.sock.dup())
        if self.is_over:
            self._shut_down()

    def _shut_down(self) -> None:
        with self._lock:
            for sock in self._sockets:
                try:
                    sock.shutdown(2)  # both directions
                except OSError:
                    continue  # it is closed already

    def __enter__(self) -> "_TimeLimit":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()


class _Connection(http.client.HTTPConnection):
    """A connection that a time limit watches."""

    limit: _TimeLimit

    def connect(self) -> None:
        super().connect()
        self.limit.watch(self)


class _SecureConnection(http.client.HTTPSConnection, _Connection):
    """The same with TLS, whose `connect` calls that of `_Connection` before the handshake."""


class _Handler(urllib.request.AbstractHTTPHandler):
    """Open http and https addresses over connections that a time limit watches."""

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def __init__(self, limit: _TimeLimit) -> None:
        super().__init__()
        self._limit = limit

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request, kind=_Connection)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request, kind=_SecureConnection, context=_tls_context())  # type: ignore[arg-type]

    def _connection(self, host: str, *, kind: type[_Connection], **options: Any) -> _Connection:
        connection = kind(host, **options)
        connection.limit = self._limit
        return connection


class _RedirectHandler(urllib.request.HTTPRedirectHandler):
    max_redirections = max_repeats = _MAX_REDIRECTS


def _new_opener(limit: _TimeLimit) -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone: a redirect to file:// or ftp:// is an error."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Handler(limit),
        _RedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()

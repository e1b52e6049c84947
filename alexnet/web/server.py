"""The server: its address, its token, and how it ends."""

import asyncio
import os
import secrets
import socket
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from alexnet.checked import require
from alexnet.training.signals import StopRequest, stop_on_signal
from alexnet.web.app import build_app
from alexnet.web.connection import TimedConnection
from alexnet.web.guard import LOOPBACK_NAMES, AccessRules
from alexnet.web.limits import MAX_CONNECTIONS
from alexnet.web.served_run import ServedRun
from alexnet.web.service import Service

_GRACE_SECONDS = 60  # for what is in hand when the server is told to end


def serve(
    run: Path,
    *,
    host: str | None = None,
    port: int = 8000,
    allowed_hosts: Collection[str] = (),
    device: str | None = None,
    announce: Callable[[str], None] = print,
) -> int:
    """Serve a run until a signal ends the server; it finishes the requests in hand first.

    Args:
        run: The folder of the run; it may be in the middle of its training.
        host: The address to listen at, which other machines may reach; requests then need a token, which is printed.
            By default the loopback address, without a token.
        port: The port; 0 for a free one.
        allowed_hosts: Further names of this machine, as browsers may have them in the header Host.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        announce: Called with the lines to print, once the server listens.

    Returns:
        The number of the signal.

    Raises:
        FileNotFoundError: `run` is no run.
        ValueError: Its net cannot be used, or there is no such port.
        OSError: The address is not this machine's, or the port is used.
    """
    token = None if host is None else secrets.token_urlsafe(24)
    names = {name.lower() for name in (*allowed_hosts, *([host, socket.gethostname()] if host else []))}
    with _listen(host or "127.0.0.1", port) as listener:
        service = Service(ServedRun(run, device))
        service.warm_up()
        app = build_app(service, AccessRules(LOOPBACK_NAMES | names, token))
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, proxy_headers=False, ws="none",
            http=TimedConnection,
            limit_concurrency=MAX_CONNECTIONS, timeout_graceful_shutdown=_GRACE_SECONDS,
        )  # fmt: skip
        with stop_on_signal() as stop, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # about oddities of files; errors are answered
            for line in _describe(run, listener.getsockname()[:2], token):
                announce(line)
            sys.stdout.flush()
            asyncio.run(_Server(config, stop).serve(sockets=[listener]))
    assert stop.signal is not None
    return stop.signal


class _Server(uvicorn.Server):
    """A server that ends when a stop is requested; the signal is the caller's to report.

    Args:
        config: What it serves, and how.
        stop: The request.
    """

    def __init__(self, config: uvicorn.Config, stop: StopRequest) -> None:
        super().__init__(config)
        self._stop = stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `stop_on_signal`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end."""
        return await super().on_tick(counter) or self._stop.signal is not None


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ValueError: There is no such port.
        OSError: The address is not this machine's, or the port is used.
    """
    require(0 <= port <= 65_535, "port", "from 0 to 65535", port)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        # What Python adds to the system's reason is the address once more. An unknown name has a negative number.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise OSError(
            f"cannot listen at {host}, port {port} ({reason}): choose another `port`, or a `host` that is an "
            "address of this machine"
        ) from error


def _describe(run: Path, address: tuple[str, int], token: str | None) -> list[str]:
    """Return what to print at the start: where the page is, and how to end."""
    host, port = address
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    if token is None:
        return [f"serving {run} at {url} (Ctrl-C ends it)"]
    return [
        f"serving {run} at {url}#token={token} (Ctrl-C ends it)",
        "note: the address with its token opens the page to whoever has it; the connection is not encrypted",
    ]

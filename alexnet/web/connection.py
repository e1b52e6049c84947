"""A connection that is closed where no request comes; uvicorn itself waits for the rest of a head for ever."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0  # for the head of a request


class TimedConnection(H11Protocol):
    """A connection of HTTP/1.1 that is closed when it has had no request in hand for so many seconds."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait_for_request(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _wait_for_request(self, last: Any) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look, last)

    def _look(self, last: Any) -> None:
        """Close the connection if there was no request since the last look, and none is in hand."""
        if self.cycle is last and (last is None or last.response_complete):
            self.transport.close()
        else:
            self._wait_for_request(self.cycle)

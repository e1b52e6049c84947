"""The limits of the server: bytes, time, and requests per client."""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from alexnet.web.errors import RequestError

MAX_UPLOAD_BYTES = 32 << 20  # more than photographs have
_MAX_BYTES_IN_HAND = 256 << 20  # of all uploads that are not decoded yet
_UPLOAD_SECONDS = 30.0  # for the body of a request
ANSWER_SECONDS = 60.0  # for an answer, after the upload
MAX_CONNECTIONS = 512
MAX_WAITING = 128  # requests that wait for the net
_MAX_CLIENTS = 4096  # whose rates are remembered


class RateLimiter:
    """Limits the requests of each client: a burst at once, then so many in a second (token bucket).

    Args:
        rate: The requests in a second.
        burst: The requests at once.
        clock: Returns the time in seconds.
    """

    def __init__(self, rate: float = 20, burst: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and when

    def allow(self, client: str, cost: float = 1) -> bool:
        """Count a request of a client and return whether it is within the limit.

        Args:
            client: The client's address.
            cost: As how many requests it counts.
        """
        key, now = _network(client), self._clock()
        left, then = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= cost
        self._buckets[key] = (left - cost if allowed else left, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return allowed


def _network(client: str) -> str:
    """Return the address of a client; of IPv6 the network of 64 bits, which one machine may have whole."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    return client if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


class UploadReader:
    """Reads the bodies of requests, which together may take so many bytes of memory.

    Args:
        max_bytes: The bytes that one body may have.
        max_bytes_in_hand: The bytes that all may have that are read and not released yet.
        seconds: The time in which a body must come.
    """

    def __init__(
        self,
        max_bytes: int = MAX_UPLOAD_BYTES,
        max_bytes_in_hand: int = _MAX_BYTES_IN_HAND,
        seconds: float = _UPLOAD_SECONDS,
    ) -> None:
        self._max_bytes, self._max_bytes_in_hand, self._seconds = max_bytes, max_bytes_in_hand, seconds
        self._bytes_in_hand = 0

    async def read(self, chunks: AsyncIterator[bytes], announced: int) -> bytes:
        """Return a body; `release` must be called with its length when it is no longer used.

        Args:
            chunks: The parts of the body.
            announced: Its length by its header, or 0.

        Raises:
            RequestError: It is empty, too large or too slow, or the server has too many in hand.
        """
        data = bytearray()
        try:
            self._check_size(announced)
            async with asyncio.timeout(self._seconds):
                async for chunk in chunks:
                    self._check_size(len(data) + len(chunk))
                    if self._bytes_in_hand + len(chunk) > self._max_bytes_in_hand:
                        raise RequestError(503, "the server has too many pictures in hand: send it again in a moment")
                    data += chunk
                    self._bytes_in_hand += len(chunk)
            if not data:
                raise RequestError(400, "the body must be a picture file; it is empty: send one")
        except TimeoutError as error:
            self.release(len(data))
            message = f"the picture must come within {self._seconds:g} seconds; it did not: save it smaller"
            raise RequestError(408, message) from error
        except BaseException:
            self.release(len(data))
            raise
        return bytes(data)

    def release(self, count: int) -> None:
        """Say that this many bytes are no longer in hand."""
        self._bytes_in_hand -= count

    def _check_size(self, count: int) -> None:
        if count > self._max_bytes:
            limit = f"{self._max_bytes / 2**20:g} MiB"
            raise RequestError(413, f"a picture file must have at most {limit}; it has more: save it smaller")

"""The pictures that were uploaded last, so that a page can ask more about one without sending it again."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from alexnet.web.errors import RequestError

_MAX_PICTURES = 256  # of 196 kB each, if they are 256 x 256
_MAX_SECONDS = 900.0


class PictureCache:
    """The squares of the last uploads, by names that nobody can guess; the oldest are forgotten.

    Args:
        max_pictures: The number that is remembered.
        max_seconds: How long one is remembered.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        max_pictures: int = _MAX_PICTURES,
        max_seconds: float = _MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_pictures, self._max_seconds, self._clock = max_pictures, max_seconds, clock
        self._squares: OrderedDict[str, tuple[np.ndarray, float]] = OrderedDict()  # with the time of the upload
        self._lock = threading.Lock()

    def add(self, square: np.ndarray) -> str:
        """Remember a picture and return its name."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._squares[name] = (square, self._clock())
            self._forget()
        return name

    def get(self, name: str) -> np.ndarray:
        """Return a picture.

        Raises:
            RequestError: There is none of this name, or no longer.
        """
        with self._lock:
            self._forget()
            if name in self._squares:
                return self._squares[name][0]
        raise RequestError(404, "the picture is no longer in the server's memory: send it again")

    def _forget(self) -> None:
        """Remove what is too old or too much."""
        oldest = self._clock() - self._max_seconds
        while self._squares and (
            len(self._squares) > self._max_pictures or next(iter(self._squares.values()))[1] < oldest
        ):
            self._squares.popitem(last=False)

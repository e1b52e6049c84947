"""What the endpoints share: the run, the thread that computes, the pictures in memory, and the limits."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from fastapi import Request

from alexnet.data.prepare.decode import read_image
from alexnet.utils.console import format_error
from alexnet.utils.cores import available_cores
from alexnet.web.errors import RequestError
from alexnet.web.limits import ANSWER_SECONDS, MAX_WAITING, UploadReader
from alexnet.web.picture_cache import PictureCache
from alexnet.web.served_run import LoadedNet, ServedRun
from alexnet.web.worker import BatchWorker, QueueFullError

_MAX_NAME = 255  # characters of a file's name that a message repeats


class Service:
    """The run that is served, and what computes its answers.

    Args:
        run: The run.
        max_waiting: The number of requests that may wait for the net.
        answer_seconds: The time in which the net must answer one.
    """

    def __init__(self, run: ServedRun, *, max_waiting: int = MAX_WAITING, answer_seconds: float = ANSWER_SECONDS):
        self.run = run
        self.pictures = PictureCache()
        self.uploads = UploadReader()
        self._answer_seconds = answer_seconds
        self._worker = BatchWorker(max_waiting)
        self._decoders = ThreadPoolExecutor(available_cores(), thread_name_prefix="alexnet-decode")

    def warm_up(self) -> None:
        """Predict a grey picture, if there is a net: the first request would otherwise wait for what is loaded then."""
        with suppress(RequestError):
            classifier = self.run.net().classifier
            side = classifier.recipe.store_size
            self._worker.submit(self.run.predict, (np.full((side, side, 3), 128, np.uint8), classifier.default_views))

    async def net(self) -> LoadedNet:
        """Return the net; another thread reads it if there is a newer one.

        Raises:
            RequestError: There is none yet.
        """
        return await asyncio.to_thread(self.run.net)

    async def compute(
        self,
        function: Callable[[list[Any]], Sequence[Any]],
        item: Any,
        batch_size: int = 1,
        *,
        is_slow: bool = False,
    ) -> Any:
        """Return what a function of the run returns for an item; see `BatchWorker.submit`.

        Raises:
            RequestError: Too many requests wait, or it took too long.
        """
        try:
            result = self._worker.submit(function, item, batch_size, is_slow=is_slow)
        except QueueFullError:
            raise RequestError(503, "too many requests wait for the net: send it again in a moment") from None
        return await self._wait_for(asyncio.wrap_future(result))

    async def read_picture(self, request: Request, name: str) -> np.ndarray:
        """Return the square of the picture that is the body of a request.

        Args:
            request: The request.
            name: The file's name, for the message.

        Raises:
            RequestError: It is not a picture, too large, or too slow.
        """
        kind = request.headers.get("content-type", "")
        if kind.startswith("multipart/"):
            raise RequestError(415, "the body must be the picture file itself: curl --data-binary @FILE")
        size = (await self.net()).classifier.recipe.store_size
        data = await self.uploads.read(request.stream(), int(request.headers.get("content-length", 0)))
        decoded = self._decoders.submit(_decode, data, size, " ".join(name.split())[:_MAX_NAME])
        decoded.add_done_callback(partial(self._release, asyncio.get_running_loop(), len(data)))
        del data
        square: np.ndarray = await self._wait_for(asyncio.wrap_future(decoded))
        return square

    def close(self) -> None:
        """Finish what is in hand."""
        self._decoders.shutdown()
        self._worker.close()

    def _release(self, loop: asyncio.AbstractEventLoop, count: int, _: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self.uploads.release, count)

    async def _wait_for(self, result: asyncio.Future[Any]) -> Any:
        try:
            return await asyncio.wait_for(result, self._answer_seconds)
        except TimeoutError:
            raise RequestError(503, "the answer took too long: send it again in a moment") from None


def _decode(data: bytes, size: int, name: str) -> np.ndarray:
    """Return the square of a picture file.

    Raises:
        RequestError: It is not a readable picture; the line is that of `alexnet predict`.
    """
    try:
        return read_image(data, size)
    except (ValueError, OSError) as error:
        text = f"not a readable picture: {format_error(error, with_type=False, limit=None)}"
        raise RequestError(422, f"{name}: {text}" if name else text) from error

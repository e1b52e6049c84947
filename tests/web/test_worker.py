"""The thread that computes, the uploads in hand, and the pictures in memory."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest

from alexnet.web.errors import RequestError
from alexnet.web.limits import UploadReader
from alexnet.web.picture_cache import PictureCache
from alexnet.web.worker import BatchWorker, QueueFullError


@pytest.fixture
def blocked() -> Iterator[tuple[BatchWorker, Callable[[], None]]]:
    """A worker for three waiting items that is busy with another, and what ends that one."""
    worker, busy, end = BatchWorker(3), threading.Event(), threading.Event()

    def wait(items: list[int]) -> list[int]:
        busy.set()
        end.wait(10)
        return items

    worker.submit(wait, 0)
    busy.wait(10)
    yield worker, end.set
    end.set()
    worker.close()


def test_waiting_items_of_a_function_are_computed_together(blocked: tuple[BatchWorker, Callable[[], None]]) -> None:
    worker, end = blocked
    batches = []

    def double(items: list[int]) -> list[int]:
        batches.append(items)
        return [2 * item for item in items]

    def negative(items: list[int]) -> list[int]:
        batches.append(items)
        return [-item for item in items]

    results = [worker.submit(double, 1, 8), worker.submit(negative, 2, 8), worker.submit(double, 3, 8)]
    with pytest.raises(QueueFullError):
        worker.submit(double, 4, 8)
    end()
    assert [result.result(10) for result in results] == [2, -2, 6]
    assert batches == [[1, 3], [2]]


def test_batches_are_limited_errors_are_passed_on_and_cancelled_items_left_out(
    blocked: tuple[BatchWorker, Callable[[], None]],
) -> None:
    worker, end = blocked
    batches = []

    def fail(items: list[int]) -> list[int]:
        batches.append(items)
        raise KeyError(items[0])

    results = [worker.submit(fail, number, 2) for number in range(3)]
    results[0].cancel()
    end()
    for result in results[1:]:
        with pytest.raises(KeyError):
            result.result(10)
    assert batches == [[1], [2]]  # 0 and 1 were a batch
    assert worker.submit(lambda items: items, 5).result(10) == 5  # the thread goes on


def test_slow_work_lets_others_go_first(blocked: tuple[BatchWorker, Callable[[], None]]) -> None:
    worker, end = blocked
    order = []

    def note(items: list[str]) -> list[str]:
        order.extend(items)
        return items

    results = [worker.submit(note, "slow", is_slow=True), worker.submit(note, "a"), worker.submit(note, "b")]
    end()
    assert [result.result(10) for result in results] == ["slow", "a", "b"]
    assert order == ["a", "b", "slow"]


def test_closing_finishes_what_waits(blocked: tuple[BatchWorker, Callable[[], None]]) -> None:
    worker, end = blocked
    results = [worker.submit(lambda items: items, number) for number in range(3)]
    end()
    worker.close()
    assert [result.result(0) for result in results] == [0, 1, 2]


async def chunks(*parts: bytes, wait: float = 0) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(wait)


def test_uploads_are_counted_until_they_are_released() -> None:
    async def check() -> None:
        reader = UploadReader(max_bytes=10, max_bytes_in_hand=12, seconds=0.05)
        assert await reader.read(chunks(b"1234", b"5678"), 8) == b"12345678"
        with pytest.raises(RequestError, match="too many pictures in hand"):
            await reader.read(chunks(b"1234", b"5"), 0)
        reader.release(8)
        for problem, parts, announced, wait in [
            ("must have at most", (b"12345", b"678901"), 0, 0),
            ("must have at most", (), 11, 0),
            ("must come within 0.05 seconds", (b"1", b"2"), 2, 1),
            ("it is empty", (), 0, 0),
        ]:
            with pytest.raises(RequestError, match=problem):
                await reader.read(chunks(*parts, wait=wait), announced)
        assert await reader.read(chunks(b"123456789"), 9) == b"123456789"  # nothing of these is in hand

    asyncio.run(check())


def test_old_pictures_are_forgotten() -> None:
    now = 0.0
    cache = PictureCache(max_pictures=2, max_seconds=10, clock=lambda: now)
    names = [cache.add(np.full((2, 2, 3), number, np.uint8)) for number in range(3)]
    assert len(set(names)) == 3
    with pytest.raises(RequestError, match="no longer in the server's memory"):
        cache.get(names[0])
    assert cache.get(names[2]).max() == 2
    now = 11
    with pytest.raises(RequestError, match="send it again"):
        cache.get(names[2])

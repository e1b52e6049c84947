"""One thread that computes, with a bounded queue; requests that wait for the same function are computed together."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


class QueueFullError(Exception):
    """As many requests wait as may wait."""


@dataclass(frozen=True, eq=False)
class _Job:
    """An item that a function is to be applied to.

    Args:
        function: Return the results for several items.
        item: The item.
        batch_size: The number of items that the function takes at a time.
        is_slow: Whether it lets all others go first.
        result: The item's result, later.
    """

    function: Callable[[list[Any]], Sequence[Any]]
    item: Any
    batch_size: int
    is_slow: bool
    result: Future[Any]


class BatchWorker:
    """A thread that applies functions to items, in the order in which they came; slow work only if nothing else waits.

    A function gets all items that wait for it at once, up to its batch size.

    Args:
        capacity: The number of items that may wait.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="alexnet-net", daemon=True)
        self._thread.start()

    def submit(
        self,
        function: Callable[[list[Any]], Sequence[Any]],
        item: Any,
        batch_size: int = 1,
        *,
        is_slow: bool = False,
    ) -> Future[Any]:
        """Let the thread apply a function to an item.

        Args:
            function: Takes a list of items and returns their results; the same function for items to be computed
                together.
            item: The item.
            batch_size: The number of items that the function takes at a time.
            is_slow: Whether it lets all others go first.

        Returns:
            The result, later. An item whose result is cancelled before its turn is left out.

        Raises:
            QueueFullError: As many items wait as may wait.
        """
        job = _Job(function, item, batch_size, is_slow, Future())
        with self._changed:
            assert not self._closed
            if len(self._jobs) >= self._capacity:
                raise QueueFullError
            self._jobs.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Compute what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._jobs:
                    if self._closed:
                        return
                    self._changed.wait()
                batch = self._take_batch()
            batch = [job for job in batch if job.result.set_running_or_notify_cancel()]
            if batch:
                _compute(batch)
            del batch  # the pictures in it should not stay in memory until the next request

    def _take_batch(self) -> list[_Job]:
        """Remove and return the first job and those that can be computed with it."""
        first = next((job for job in self._jobs if not job.is_slow), self._jobs[0])
        self._jobs.remove(first)
        batch = [first]
        others: list[_Job] = []
        for job in self._jobs:
            fits = job.function == first.function and len(batch) < first.batch_size
            (batch if fits else others).append(job)
        self._jobs = deque(others)
        return batch


def _compute(batch: Sequence[_Job]) -> None:
    """Compute and set the results of jobs with the same function."""
    try:
        results = batch[0].function([job.item for job in batch])
    except BaseException as error:
        for job in batch:
            job.result.set_exception(error)
    else:
        for job, result in zip(batch, results, strict=True):
            job.result.set_result(result)

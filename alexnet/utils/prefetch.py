"""Items prepared ahead of time by worker threads."""

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def _thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads; after the block they end, and work that has not begun is dropped."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="alexnet-prefetch")
    is_finalizing = sys.is_finalizing
    try:
        yield pool
    finally:
        # When a process ends, a generator that was not read to its end is closed after the threads have ended and the
        # modules that `shutdown` uses are gone.
        if not is_finalizing():
            pool.shutdown(wait=True, cancel_futures=True)


def prefetch(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int, buffer_size: int
) -> Generator[_Result, None, None]:
    """Yield `function(item)` for each item, in order, computed ahead of time by threads.

    An exception in a thread is raised here. Closing the generator ends the threads.

    Args:
        function: The work of the threads. They save time only where it runs without Python's global lock.
        items: The items; each is taken only when its work can begin.
        workers: The number of threads; 0 computes each result when it is asked for, without threads.
        buffer_size: The number of items whose work may begin before their turn.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pending: deque[Future[_Result]] = deque()
    with _thread_pool(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > buffer_size:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def prefetch_batches(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int, batch_size: int, patience: float = 1
) -> Generator[list[_Result], None, None]:
    """Yield lists of `function(item)`, in order, computed ahead of time by threads; the items may come slowly.

    An exception in a thread is raised here. Closing the generator ends the threads; one that waits for the next item
    ends when the item comes, or with the process.

    Args:
        function: The work of the threads.
        items: The items. Another thread takes them, so that the caller does not wait for them while it has work.
        workers: The number of threads that call the function.
        batch_size: The number of results in a list. As many and one for each worker are computed ahead.
        patience: The seconds after which a shorter list is yielded, because the next result is not there.
    """
    pending: Queue[Future[_Result] | None] = Queue(batch_size + workers)  # None is the end
    closed = threading.Event()
    batch: list[_Result] = []
    with _thread_pool(workers) as pool:
        submitter = threading.Thread(target=_submit_all, args=(pool, function, items, pending, closed), daemon=True)
        try:
            submitter.start()
            while True:
                try:
                    future = pending.get(timeout=patience if batch else None)
                except Empty:
                    yield batch
                    batch = []
                    continue
                if future is None:
                    break
                if batch and not wait([future], patience).done:
                    yield batch
                    batch = []
                batch.append(future.result())
                if len(batch) == batch_size:
                    yield batch
                    batch = []
            if batch:
                yield batch
        finally:
            closed.set()


def _submit_all(
    pool: ThreadPoolExecutor,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    pending: "Queue[Future[_Result] | None]",
    closed: threading.Event,
) -> None:
    """Submit the work for all items and put its futures into a queue, then None, until the event is set."""

    def put(future: Future[_Result] | None) -> None:
        while not closed.is_set():
            try:
                pending.put(future, timeout=0.1)
                return
            except Full:
                pass

    try:
        for item in items:
            if closed.is_set():
                return
            put(pool.submit(function, item))
        put(None)
    except BaseException as error:
        failed: Future[_Result] = Future()
        failed.set_exception(error)
        put(failed)

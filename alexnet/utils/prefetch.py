"""Items prepared ahead of time by worker threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
    pool = ThreadPoolExecutor(workers, thread_name_prefix="alexnet-prefetch")
    pending: deque[Future[_Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > buffer_size:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

"""Work made ahead by threads, and handed over in order."""

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Made = TypeVar("Made")


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def prefetch(
    make: Callable[[Job], Made], jobs: Iterable[Job], *, workers: int, buffer_size: int
) -> Generator[Made, None, None]:
    """make(job) for each job, in order; an exception in a thread is raised here, and closing this ends the threads.

    Args:
        make: What the threads do; they are of use where it runs without Python's lock.
        jobs: What for; taken one by one as they are needed.
        workers: Threads; 0 makes each where it is asked for.
        buffer_size: Jobs begun before their turn, at most.
    """
    if workers == 0:
        yield from map(make, jobs)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="alexnet-prefetch")
    pending: deque[Future[Made]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(make, job))
            if len(pending) > buffer_size:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

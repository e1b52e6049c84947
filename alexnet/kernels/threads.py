"""Loops on several threads: torch's own where they can be used, else a pool of Python's."""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

_CHUNKS_PER_THREAD = 4  # so that a thread that is delayed leaves work to the others
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pool: ThreadPoolExecutor | None = None
_forked = False


def _after_fork() -> None:
    """Use no threads of the parent: a forked process has none of them, and OpenMP would wait for them forever."""
    global _pool, _forked
    _pool, _forked = None, True


os.register_at_fork(after_in_child=_after_fork)


@cache
def find_openmp() -> Any:
    """Return the function that runs another on torch's threads and the caller's; None where torch has no OpenMP.

    Compilers turn `#pragma omp parallel` into a call of it. It is looked up in the libraries that torch's own loads: of
    several OpenMPs in a process only one has torch's threads.
    """
    import torch

    try:
        function = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


def _run_on_torch_threads(work: Callable[[], None], threads: int) -> None:
    """Call `work` on several of torch's threads, the caller's among them, and raise one of their exceptions."""
    errors: list[BaseException] = []
    finished: list[int] = []  # the threads that have reached the end of `call`

    def call(_argument: Any) -> None:
        try:
            work()
        except BaseException as error:  # it must not leave through OpenMP
            errors.append(error)
        finished.append(threading.get_ident())

    # What a signal handler raises, such as KeyboardInterrupt, reaches the main thread between any two of its steps,
    # also before `call` can catch it. Then Python would only print it.
    uncaught: list[sys.UnraisableHookArgs] = []
    hook, sys.unraisablehook = sys.unraisablehook, uncaught.append
    try:
        find_openmp()(_CALLBACK(call), None, threads, 0)
    finally:
        sys.unraisablehook = hook
    if threading.get_ident() not in finished:
        errors.append((uncaught.pop().exc_value if uncaught else None) or KeyboardInterrupt())
    for other in uncaught:
        hook(other)
    try:
        if errors:
            raise errors.pop()
    finally:
        errors.clear()  # it would keep alive all that the frames of the exceptions refer to


def _run_on_pool(work: Callable[[], None], threads: int) -> None:
    """Call `work` on this thread and on others of a pool, and raise one of their exceptions."""
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(8, os.cpu_count() or 1), thread_name_prefix="alexnet-kernel")
    futures = []
    with contextlib.suppress(RuntimeError):  # Python is exiting and starts no more threads: this one does all the work
        futures = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for future in futures:
        if not future.cancel():
            future.result()


def parallel_for(kernel: Callable[[int, int], None], count: int) -> None:
    """Call `kernel(start, stop)` on chunks of range(count), on as many threads as torch uses.

    The calling thread works too. Any thread may call, at any time.

    The main thread uses torch's threads: these spin for milliseconds after each operation of torch, waiting for the
    next, and would take the cores from other threads. (Numba's own threading layers either abort the process when two
    threads call at once, or load a second OpenMP beside torch's.) Another thread would get OpenMP threads of its own,
    which would spin too: it uses a pool of Python's.

    Args:
        kernel: The loop. It must run without the interpreter lock, and give the same result however the range is
            divided.
        count: End of the range.
    """
    import torch  # not at the top: preparing pictures need not wait for it

    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count)
        return
    chunks = threads * _CHUNKS_PER_THREAD
    bounds = [count * n // chunks for n in range(chunks + 1)]
    remaining = iter(list(pairwise(bounds)))  # shared: each chunk goes to one thread

    def work() -> None:
        for start, stop in remaining:
            kernel(start, stop)

    if threading.current_thread() is threading.main_thread() and not _forked and find_openmp():
        _run_on_torch_threads(work, threads)
    else:
        _run_on_pool(work, threads)

"""A loop's range on several threads: torch's own where they can be had, threads of ours elsewhere."""

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

_PARTS_PER_THREAD = 4  # so that a thread that is held up leaves work to the others
_CALLED = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pool: ThreadPoolExecutor | None = None
_forked = False


def _after_fork() -> None:
    """A forked process has none of its parent's threads, and OpenMP waits for them for ever."""
    global _pool, _forked
    _pool, _forked = None, True


os.register_at_fork(after_in_child=_after_fork)


@cache
def find_openmp() -> Any:
    """What calls a function on a team of torch's threads, the caller among them; None where torch has no OpenMP.

    It is what compilers make of `#pragma omp parallel`. It is looked up in the libraries that torch's own needs: of
    several OpenMPs in a process only one has torch's threads.
    """
    import torch

    try:
        function = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (_CALLED, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return function


def _on_torchs_threads(work: Callable[[], None], threads: int) -> None:
    errors: list[BaseException] = []
    ended: list[int] = []  # the threads that have come to the end of `call`

    def call(_nothing: Any) -> None:
        try:
            work()
        except BaseException as error:  # which may not leave through OpenMP
            errors.append(error)
        ended.append(threading.get_ident())

    # What a signal's handler raises, such as KeyboardInterrupt, comes to the main thread between any two of its steps,
    # also before `call` is ready to catch it; then Python would only print it.
    missed: list[sys.UnraisableHookArgs] = []
    hook, sys.unraisablehook = sys.unraisablehook, missed.append
    try:
        find_openmp()(_CALLED(call), None, threads, 0)
    finally:
        sys.unraisablehook = hook
    if threading.get_ident() not in ended:
        errors.append((missed.pop().exc_value if missed else None) or KeyboardInterrupt())
    for other in missed:
        hook(other)
    try:
        if errors:
            raise errors.pop()
    finally:
        errors.clear()  # which would keep alive all that the exceptions' frames hold


def _on_our_threads(work: Callable[[], None], threads: int) -> None:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(max(8, os.cpu_count() or 1), thread_name_prefix="alexnet-kernel")
    helpers = []
    with contextlib.suppress(RuntimeError):  # Python is ending and starts no more threads: this one does it alone
        helpers = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def parallel_for(kernel: Callable[[int, int], None], count: int) -> None:
    """Call `kernel(start, stop)` on parts of range(count), on as many threads as torch uses.

    The caller works too and any thread may call, at any time. The kernel must run without Python's lock, and give the
    same result however the range is divided.

    The main thread shares torch's threads: these spin for milliseconds after each of torch's operations, waiting for
    the next, and would take the cores from any others. (Numba's own threading layers either abort the process when two
    threads call at once, or bring a second OpenMP beside torch's.) Another thread would get a team for itself, which
    would spin too.
    """
    import torch  # here, so that preparing pictures need not wait for it

    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count)
        return
    parts = threads * _PARTS_PER_THREAD
    bounds = [count * n // parts for n in range(parts + 1)]
    remaining = iter(list(pairwise(bounds)))  # shared: each part goes to one thread

    def work() -> None:
        for start, stop in remaining:
            kernel(start, stop)

    if threading.current_thread() is threading.main_thread() and not _forked and find_openmp():
        _on_torchs_threads(work, threads)
    else:
        _on_our_threads(work, threads)

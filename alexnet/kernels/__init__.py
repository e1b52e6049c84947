"""The operations that decide the speed, each beside its plain reference."""

import importlib.util
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function` compiled by Numba at its first call, to run without Python's lock.

    Arithmetic keeps its order, so that results are the same everywhere; vectors are used where that allows it. The
    machine code is kept beside the source (or in the user's cache folder), so that a second process starts at once;
    where neither can be written each process compiles anew.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the machine code in
        result = numba.njit(**options)(function)
    return result


_PARTS_PER_THREAD = 4  # so that a thread that is held up leaves work to the others
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)  # a forked process has none of its parent's threads


def in_parallel(kernel: Callable[[int, int], None], count: int) -> None:
    """Call `kernel(start, stop)` on parts of range(count), on as many threads as torch uses.

    The caller works too and any thread may call, at any time. (Numba's own threading layers either abort the process
    when two threads call at once, or bring a second OpenMP beside torch's.) The kernel must run without Python's lock,
    and give the same result however the range is divided.
    """
    global _pool
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

    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="alexnet-kernel")
    helpers = [_pool.submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@cache
def has_triton() -> bool:
    """Whether Triton is installed, in which the kernels for a GPU are written."""
    return importlib.util.find_spec("triton") is not None


@cache
def note(text: str) -> None:
    """Say on standard error, once per process, that a slower path is taken and why."""
    print(f"note: {text}", file=sys.stderr)

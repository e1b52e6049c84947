"""Just-in-time compilation: Numba for the CPU; whether Triton is there for a GPU."""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numba

from alexnet.utils.console import note_once

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """`function` compiled by Numba at its first call, to run without Python's lock.

    Arithmetic keeps its order, so that results are the same everywhere (but for subnormal numbers in bfloat16, see
    vectors.py); vectors are used where that allows it. The machine code is kept beside the source (or in the user's
    cache folder), so that a second process starts at once; where neither can be written each process compiles anew.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the machine code in
        note_once(
            "kernels are compiled anew in each process, some seconds each: their folder and the cache's are read-only"
        )
        result = numba.njit(**options)(function)
    return result


@cache
def has_triton() -> bool:
    """Whether Triton is installed, in which the kernels for a GPU are written."""
    return importlib.util.find_spec("triton") is not None

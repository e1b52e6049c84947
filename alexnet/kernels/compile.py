"""Just-in-time compilation: Numba for the CPU; whether Triton is installed for a GPU."""

import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numba

from alexnet.utils.console import note_once

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Return `function` compiled by Numba at its first call, to run without the interpreter lock.

    Arithmetic keeps its order, so that results are the same everywhere (except subnormal numbers in bfloat16, see
    vectors.py). Vector instructions are used where that allows it. The machine code is cached beside the source, or in
    the user's cache folder, so that a second process starts at once. Where neither is writable, each process compiles
    again.
    """
    return _compile_lazily(function)


def jit_without_wrapper(function: Function) -> Function:
    """Return `function` compiled as by `jit`, for compiled functions to call: Python must not call it.

    It gets no wrapper that converts Python's objects. That saves about a third of the time to compile the loops.
    """
    return _compile_lazily(function, no_cpython_wrapper=True)


def _compile_lazily(function: Function, **options: Any) -> Function:
    options |= {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}  # nothing takes its address
    try:
        result: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to cache the machine code in
        note_once(
            "kernels are compiled again in each process, some seconds each: "
            "their folder and the cache folder are read-only"
        )
        result = numba.njit(**options)(function)
    return result


def constexpr(number: int) -> tuple[int, ...]:
    """Return a number as a constant of functions compiled by `jit`: a tuple of that length.

    Numba compiles a function for each length. (Closures would do it too, but Numba does not find cached functions
    again that are closures and call each other.)
    """
    return (0,) * number


@cache
def has_triton() -> bool:
    """Return whether Triton is installed; the kernels for a GPU are written in it."""
    return importlib.util.find_spec("triton") is not None

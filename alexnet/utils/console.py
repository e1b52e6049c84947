"""Notes on standard error, and errors on one line."""

import sys
from functools import cache


@cache
def note_once(text: str) -> None:
    """Say on standard error, once per process, that a slower path is taken and why."""
    print(f"note: {text}", file=sys.stderr)


def format_error(error: BaseException) -> str:
    """An exception as one line of moderate length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__

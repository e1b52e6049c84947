"""Notes on standard error, and errors on one line."""

import sys
from functools import cache


@cache
def note_once(text: str) -> None:
    """Print a note on standard error, once per process: that a slower implementation is used, and why."""
    print(f"note: {text}", file=sys.stderr)


def format_error(error: BaseException, *, with_type: bool = True, limit: int | None = 200) -> str:
    """Return an exception's message on one line, with the file's name where the exception has one.

    Args:
        error: The exception.
        with_type: Whether the line begins with the exception's type; it is the whole line where there is no message.
        limit: The number of characters after which the message is cut; None to keep all.
    """
    message = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    message = " ".join(message.split())[:limit]
    name = type(error).__name__
    return f"{name}: {message}" if with_type and message else message or name


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, which has an s in the plural: "1 file", "1,200 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest unit of which there is one or more: "12.3 kB", "1.1 GB"."""
    if count < 1000:
        return count_of(round(count), "byte")
    value, unit = count / 1000, "kB"
    for larger_unit in ("MB", "GB", "TB"):
        if value >= 999.95:  # which would be printed as 1000.0
            value, unit = value / 1000, larger_unit
    return f"{value:,.1f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{int(minutes)} min {int(seconds % 60)} s"
    return f"{int(hours)} h {int(minutes % 60)} min" if hours < 48 else f"{int(hours / 24)} d {int(hours % 24)} h"

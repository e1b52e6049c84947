"""Messages of the commands on standard error."""

import argparse
import sys
from collections.abc import Mapping

from alexnet.utils.console import format_error


def print_error(text: str) -> None:
    """Print a line that begins with the program's name on standard error."""
    print(f"alexnet: {text}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """Return an exception's full message on one line."""
    return format_error(error, with_type=False, limit=None)


def typed_options(options: argparse.Namespace) -> Mapping[str, str]:
    """Return the options that are on the command line, by the names of their values."""
    typed: Mapping[str, str] = vars(options).get("typed", {})
    return typed


def advise(error: Exception) -> str:
    """Return what to do about an error, to be added to its message; "" for those whose message says so itself."""
    if isinstance(error, NotADirectoryError) and error.errno:  # the system's own
        return ": a part of this path is a file: choose another path"
    if type(error).__name__ != "OtherRecipeError":  # not imported, as it needs torch
        return ""
    run = getattr(error, "run", "RUN")
    return f"; to train its net longer, use `alexnet train STORE NEW_RUN --from {run} --recipe {run} --epochs N`"

"""Messages of the commands on standard error."""

import sys

from alexnet.utils.console import format_error


def print_error(text: str) -> None:
    """Print a line that begins with the program's name on standard error."""
    print(f"alexnet: {text}", file=sys.stderr)


def one_line(error: Exception) -> str:
    """Return an exception's full message on one line."""
    return format_error(error, with_type=False, limit=None)

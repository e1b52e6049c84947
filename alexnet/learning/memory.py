"""Memory that is kept rather than given back between steps."""

import ctypes
import sys

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep large freed blocks for the next step.

    By default it maps blocks of a few megabytes anew from the system for each allocation and unmaps them when they are
    freed; every step then pays for the first touch of every page of every activity. Keeping them made a step of
    `cifar10-18pct` a fifth faster. torch has an allocator of its own on a GPU, and this does nothing to that.

    Returns:
        Whether malloc took it; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    largest = 2**30
    options = {M_MMAP_THRESHOLD: largest, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    taken = [mallopt(option, value) == 1 for option, value in options.items()]
    return all(taken)

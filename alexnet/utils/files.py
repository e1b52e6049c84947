"""Files that are there whole or not at all, and folders that one process at a time works in."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import lock_descriptor


def write_atomic(path: Path, contents: bytes) -> None:
    """Write a file beside its place and rename it, so that it is there whole or not at all."""
    beside = path.with_name(path.name + ".part")
    try:
        with beside.open("wb") as file:
            file.write(contents)
            fsync_file(file)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def fsync_file(file: IO[bytes]) -> None:
    """Put a file's contents on the disk, so that a later rename cannot survive a power cut that they do not."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Keep a second process out of a store or a run, and turn a full disk into a line that says what to do.

    On a network file system only processes on the same machine are kept out.

    Raises:
        ValueError: Another process works in the folder.
        OSError: The disk is full.
    """
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no file is left in it
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise ValueError(f"{folder}: another process is at work in it; wait for it or stop it")
            yield
        finally:
            os.close(descriptor)


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn a full disk into a line that says what to do.

    Raises:
        OSError: The disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = OSError(f"{folder}: the disk is full; free some space and run the same again: it goes on")
        full.errno = errno.ENOSPC
        raise full from error

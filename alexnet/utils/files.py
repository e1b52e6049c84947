"""Atomic writes, and locks on folders."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import lock_descriptor


def write_atomic(path: Path, contents: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is complete or not there."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            fsync_file(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fsync_file(file: IO[bytes]) -> None:
    """Write a file's contents to the disk, so that after a power cut no renamed file is without its contents."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a store or a run for this process. A full disk is reported as by `explain_full_disk`.

    On a network file system, the lock works only between processes of the same machine.

    Raises:
        ValueError: Another process has locked the folder.
        OSError: The disk is full.
    """
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is locked, so no lock file remains in it
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise ValueError(f"{folder}: another process is using it; wait for that process or stop it")
            yield
        finally:
            os.close(descriptor)


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Raise an error that says what to do if the disk of the folder becomes full.

    Raises:
        OSError: The disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = OSError(f"{folder}: the disk is full; free some space, then run the same command again to continue")
        full.errno = errno.ENOSPC
        raise full from error

"""Atomic writes, and locks on folders."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor


@contextmanager
def atomic_replacement(path: Path, temporary: Path) -> Iterator[Path]:
    """Yield the temporary file to write; then write it to the disk and rename it, so that `path` is never half written.

    Args:
        path: The file to write or replace.
        temporary: A path in the same folder; the file is removed if the block or the renaming fails.
    """
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave a renamed file without its contents
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, contents: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is complete or not there."""
    with atomic_replacement(path, path.with_name(path.name + ".part")) as temporary:
        temporary.write_bytes(contents)


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

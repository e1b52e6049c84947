"""Atomic writes, output files that replace nothing of the user's, and locks on folders."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor

SOFTWARE = "alexnet"  # what files say that they were written by
# Path has shortened s3://bucket to s3:/bucket already; a drive of Windows has one letter.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: str | Path) -> Path:
    """Return the path of a folder or a file to write.

    Raises:
        ValueError: It is an address such as s3://bucket/folder, which would become a folder "s3:" on this machine.
    """
    if _ADDRESS.match(str(path)):
        raise ValueError(
            f"{path} must be a path on this machine, not an address: name a local one, and copy it there once it is "
            "complete"
        )
    return Path(path)


@contextmanager
def atomic_replacement(path: Path, temporary: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield the temporary file to write; then write it to the disk and rename it, so that `path` is never half written.

    Args:
        path: The file to write or replace. Who may read it follows from the umask.
        temporary: A path in the same folder; the file is removed if the block or the renaming fails.
        flush: Whether to wait until the disk has the contents; without it, a power cut may leave `path` empty.
    """
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors writes files that only their owner may read
        if flush:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_readable(path: Path) -> None:
    """Raise the OSError that says why a file cannot be read; safetensors says of each that there is no such file."""
    path.open("rb").close()


def unfinished_file(path: Path) -> Path:
    """Return the temporary path that `write_atomic` writes a file at; a process that is killed may leave it."""
    return path.with_name(f"{path.name}.part")


def write_atomic(path: Path, contents: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is complete or not there.

    Raises:
        OSError: It cannot be written; a full disk is reported as by `explain_full_disk`.
    """
    with (
        explain_full_disk(path),
        atomic_replacement(path, unfinished_file(path)) as temporary,
    ):
        temporary.write_bytes(contents)


def replace_folder(new: Path, folder: Path) -> None:
    """Write the files of a new folder to the disk, and put it in the place of an older one, which is removed.

    After a kill, the folder is the old one, the new one, or it is not there. The old one may then be left beside it.
    """
    for path in new.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)  # left by a process that was killed
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class FileKind:
    """A kind of file that a command writes where the user says.

    Args:
        name: What messages call it: "a file of predictions".
        suffixes: The endings that its name may have; any if empty.
        is_ours: Whether an existing regular file is of this kind.
    """

    name: str
    suffixes: tuple[str, ...]
    is_ours: Callable[[Path], bool]


def check_output(path: Path, kind: FileKind, *, force: bool) -> None:
    """Check that a file may be written: a file of another kind is never replaced, one of this kind if `force` says so.

    Args:
        path: The file to write.
        kind: What is to be written.
        force: Whether the user allows it to replace a file of the same kind.

    Raises:
        FileExistsError: A file of another kind exists, or one of this kind and `force` is not set.
        IsADirectoryError: It is a folder.
        FileNotFoundError: The folder does not exist.
        ValueError: It is an address, or the ending of its name is not one of the kind's.
    """
    local_path(path)
    if kind.suffixes and path.suffix.lower() not in kind.suffixes:
        raise ValueError(f"{path} must end in {' or '.join(kind.suffixes)}, as {kind.name}; got {path.suffix!r}")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: no such folder {parent}: create it first")
    if not (path.exists() or path.is_symlink()):
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file to write; it is a folder: name a file in it")
    # Only a regular file is read to see whether it is ours: reading a pipe would wait for its writer.
    if not path.is_file() or not kind.is_ours(path):
        raise FileExistsError(f"{path} exists and is not {kind.name}: it is not replaced; name another file")
    if not force:
        raise FileExistsError(f"{path} exists: replace it with `force=True`, or name another file")


def write_output(path: Path, contents: bytes, kind: FileKind, *, force: bool) -> None:
    """Write a file that the user has named, if `check_output` allows it.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: As `check_output`.
        OSError: It cannot be written; nothing of it is left.
    """
    check_output(path, kind, force=force)
    with explain_full_disk(path):
        write_atomic(path, contents)


class FolderInUseError(ValueError):
    """Another process has locked a folder."""


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Lock a store or a run for this process. A full disk is reported as by `explain_full_disk`.

    On a network file system, the lock works only between processes of the same machine.

    Raises:
        FolderInUseError: Another process has locked the folder.
        OSError: The disk is full.
    """
    with explain_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is locked, so no lock file remains in it
        try:
            if not lock_descriptor(descriptor, blocking=False):
                raise FolderInUseError(f"{folder}: another process is using it; wait for that process or stop it")
            yield
        finally:
            os.close(descriptor)


_SPACE = "free some space"
_DISK_ERRORS = {
    errno.ENOSPC: f"the disk is full; {_SPACE}",
    errno.EDQUOT: f"the quota is used up; {_SPACE}",
    errno.EFBIG: f"file too large; {_SPACE}",
    errno.EROFS: "the disk is read-only; make it writable",
    errno.EIO: "the disk has failed; check it",
}


class _DiskError(OSError):
    """A disk is full, over quota, read-only or fails, as the message explains."""


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Raise an error that says what to do if the disk of the folder is full, over quota, read-only or fails.

    Raises:
        OSError: One of these.
    """
    try:
        yield
    except _DiskError:
        raise  # it names a file, which says more than the folder
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        explained = _DiskError(f"{folder}: {_DISK_ERRORS[error.errno]}, then run the same command again to continue")
        explained.errno = error.errno
        raise explained from error

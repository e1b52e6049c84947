"""Output files: nothing of the user's is replaced, and nothing half-made is left."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from alexnet.models.weight_files import best_checkpoint
from alexnet.utils.files import FileKind, atomic_replacement, check_output, check_readable, write_atomic, write_output

KIND = FileKind("a list of fruits", (".txt",), lambda path: path.read_bytes().startswith(b"fruits\n"))


def test_a_new_file_is_written(tmp_path: Path) -> None:
    write_output(tmp_path / "new.TXT", b"fruits\nplum\n", KIND, force=False)
    assert (tmp_path / "new.TXT").read_bytes() == b"fruits\nplum\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new.TXT"]


def test_a_file_of_the_same_kind_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"fruits\napple\n")
    with pytest.raises(FileExistsError, match=r"list\.txt exists: replace it with `force=True`, or name another file"):
        write_output(path, b"fruits\n", KIND, force=False)
    assert path.read_bytes() == b"fruits\napple\n"
    write_output(path, b"fruits\n", KIND, force=True)
    assert path.read_bytes() == b"fruits\n"


@pytest.mark.parametrize("force", [False, True])
def test_anything_else_is_never_replaced(tmp_path: Path, force: bool) -> None:
    photograph, folder, pipe, link = (tmp_path / f"{name}.txt" for name in ("photograph", "folder", "pipe", "link"))
    photograph.write_bytes(b"\xff\xd8\xff\xe0")
    folder.mkdir()
    os.mkfifo(pipe)  # reading it would wait for ever
    link.symlink_to(tmp_path / "nowhere")
    for path in (photograph, pipe, link):
        with pytest.raises(FileExistsError, match="exists and is not a list of fruits: it is not replaced; name"):
            write_output(path, b"fruits\n", KIND, force=force)
    with pytest.raises(IsADirectoryError, match="must be a file to write; it is a folder: name a file in it"):
        write_output(folder, b"fruits\n", KIND, force=force)
    assert photograph.read_bytes() == b"\xff\xd8\xff\xe0"
    assert link.is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_a_wrong_ending_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.txt, as a list of fruits; got '\.jpg'"):
        check_output(tmp_path / "list.jpg", KIND, force=True)
    with pytest.raises(FileNotFoundError, match=r"no such folder .*nowhere: create it first"):
        check_output(tmp_path / "nowhere" / "list.txt", KIND, force=True)


def test_a_full_disk_leaves_the_old_file_and_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"fruits\napple\n")

    def fail(self: Path, contents: bytes) -> int:
        with self.open("wb") as file:
            file.write(contents[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"list\.txt: the disk is full; free some space"):
        write_output(path, b"fruits\n", KIND, force=True)
    assert path.read_bytes() == b"fruits\napple\n"
    assert [file.name for file in tmp_path.iterdir()] == ["list.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_a_file_follows_from_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "plain", b"text")
        with atomic_replacement(tmp_path / "tensors", tmp_path / ".tensors.writing") as temporary:
            save_file({"a": np.zeros(3)}, temporary)
    finally:
        os.umask(before)
    for name in ("plain", "tensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Be a user who is not root and owns none of the test's files, if this user is root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_file_of_another_user_is_no_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "private"
    save_file({"a": np.zeros(3)}, path)
    path.chmod(0)
    with another_user(), pytest.raises(PermissionError, match="private"):
        check_readable(path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for folder, mode in ((run, 0o755), (tmp_path, 0o755), (run / "checkpoints", 0)):
        folder.chmod(mode)
    with another_user(), pytest.raises(PermissionError, match="checkpoints"):
        best_checkpoint(run)
    (run / "checkpoints").chmod(0o755)

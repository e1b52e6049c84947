"""Commands on a disk that fails, and commands that are killed: a quick part of what kills.py does."""

from collections.abc import Iterator

import pytest
from harness import FaultyDisk, find_compiler

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="needs Linux and a C compiler")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDisk]:
    """The process in which commands run on a disk that fails."""
    with FaultyDisk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_a_command_that_was_killed_twice_ends_the_same(command: str, disk: FaultyDisk) -> None:
    operations = disk.operations(command, "kill")
    disk.check_kill(command, [operations // 3, operations // 2])


@pytest.mark.parametrize("command", ["index", "import", "export", "evaluate"])
def test_a_command_that_was_killed_ends_the_same(command: str, disk: FaultyDisk) -> None:
    disk.check_kill(command, [disk.operations(command, "kill") * 2 // 3])


def test_a_command_that_was_killed_within_a_write_ends_the_same(disk: FaultyDisk) -> None:
    kills = disk.kills
    for n in range(1, disk.operations("import", "tear") + 1, 4):  # not all are writes: some of these are no kill
        disk.check_kill("import", [n], "tear")
    assert disk.kills > kills


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("index", "ENOSPC"),
        ("import", "EDQUOT"),
        ("export", "EROFS"),
        ("evaluate", "EIO"),
        ("predict", "EDQUOT"),
        ("train", "EROFS"),
    ],
)
def test_a_disk_that_fails_stops_a_command_with_a_line(command: str, error: str, disk: FaultyDisk) -> None:
    disk.check_failure(command, disk.operations(command, error) // 2, error, lasts=error != "EIO")

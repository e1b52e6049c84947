"""Folders that all worker processes of pytest-xdist share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def build_once(request: pytest.FixtureRequest, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that is filled by the first process that needs it.

    Args:
        request: The request of the fixture.
        name: A name that no other fixture uses.
        build: Fills the folder, which is empty.
    """
    root: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if hasattr(request.config, "workerinput"):  # a process of pytest-xdist, whose own folder is in a common one
        root = root.parent
    folder = root / f"shared-{name}"
    complete = folder / "complete"
    with FileLock(root / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # an incomplete one
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder

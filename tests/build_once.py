"""Folders that all worker processes of pytest-xdist share, and some that later runs use again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def build_once(
    request: pytest.FixtureRequest, name: str, build: Callable[[Path], object], *, in_cache: bool = False
) -> Path:
    """Return a folder that is filled by the first process that needs it.

    Args:
        request: The request of the fixture.
        name: A name that no other fixture uses.
        build: Fills the folder, which is empty.
        in_cache: Whether the folder is in pytest's cache, for later runs: the name must differ if the contents do.
    """
    root: Path = request.getfixturevalue("tmp_path_factory").getbasetemp()
    if in_cache:
        assert request.config.cache is not None
        root = request.config.cache.mkdir("build_once")
    elif hasattr(request.config, "workerinput"):  # a process of pytest-xdist, whose own folder is in a common one
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

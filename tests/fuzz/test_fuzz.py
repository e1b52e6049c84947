"""Some mutated inputs for each reader, and the inputs that once were faults."""

import pkgutil
import random
import sys
from importlib import import_module
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher
from run import NAMES, compiled_modules, mutate
from targets import TARGETS, new_folder

import alexnet

FAULTS = sorted((Path(__file__).parent / "faults").iterdir())
INPUTS = 8  # of each reader


@pytest.fixture
def _temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)  # `new_folder` sets it


@pytest.mark.usefixtures("_temporary_folder")
@pytest.mark.parametrize("name", NAMES)
def test_a_reader_returns_or_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    target, folder, chooser = TARGETS[name], new_folder(tmp_path), random.Random(0)
    seeds = target.seeds(folder)
    for seed in seeds:
        target.read(seed, folder)  # is true
    faults = [path.read_bytes() for path in FAULTS if path.name.partition("-")[0] == name]
    for data in [*faults, *(mutate(chooser.choice(seeds), chooser) for _ in range(INPUTS))]:
        try:
            target.read(data, folder)
        except (ValueError, OSError):
            continue


def test_no_function_for_numba_is_instrumented() -> None:
    for package in ("kernels", "data", "models", "training", "results"):
        for module in pkgutil.walk_packages([f"{alexnet.__path__[0]}/{package}"], f"alexnet.{package}."):
            if not module.name.endswith("_triton"):
                import_module(module.name)
    names = {
        value.py_func.__module__
        for module in list(sys.modules.values())
        if module.__name__.startswith("alexnet.")
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    }
    assert {"alexnet.kernels.pool_cpu", "alexnet.data.prepare.resize"} <= names <= compiled_modules()

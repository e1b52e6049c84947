"""Fixtures and helpers of several test files: drawn pictures, a small store, a recipe that trains in about a second."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
import torch
from build_once import build_once
from PIL import Image
from triton_interpreter import patch_interpreter
from warm_python import is_supported, start_server

from alexnet.architecture import Conv, Full, Net
from alexnet.data.store.format import STATISTICS_FILE, shard_name, shard_schema
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


_MEMORY, _MEMORY_NEEDED = Path("/dev/shm"), 8 << 30  # the tests write about 1.2 GB
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED:
    # The tests write thousands of files that the program flushes to the disk: in memory nothing waits for it.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_configure(config: pytest.Config) -> None:
    """Hide the machine's GPUs, so that tests run alike on every machine, except under `pytest -m gpu`."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Without a GPU Triton's kernels run in its interpreter. Triton reads this variable when the kernels are imported.
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    if os.environ.get("TRITON_INTERPRET") == "1":
        patch_interpreter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first: at the end, one process would run them while the others have nothing to do."""
    items.sort(key=lambda item: item.path.name != "test_simulated_gpu.py")


# No deadline: the first example of a test may import and compile for seconds. The same examples in every run: a test
# that fails then fails for everyone.
hypothesis.settings.register_profile("alexnet", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("alexnet")

CLASSES = ("blue stripes", "green square", "red disc")


def draw_pictures(count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw labelled pictures that a small net learns in a few steps.

    They are the same on every machine, since the golden losses depend on them: drawn with integers only, and with
    RandomState, whose stream NumPy guarantees never to change.

    Args:
        count: The number of pictures.
        size: Their side, in pixels.
        seed: The seed of the drawing.

    Returns:
        Pictures (count, size, size, 3) uint8, and labels (count,) into CLASSES.
    """
    random = np.random.RandomState(seed)
    labels = np.arange(count) % len(CLASSES)
    pictures = random.randint(60, 120, (count, size, size, 3))
    y, x = np.mgrid[:size, :size]
    for picture, label in zip(pictures, labels, strict=True):
        cy, cx = random.randint(size // 4, size - size // 4, 2)
        radius = random.randint(size // 6, size // 3)
        masks = (
            (x + cx) % (2 + radius) < radius // 2,
            (abs(y - cy) < radius) & (abs(x - cx) < radius),
            (y - cy) ** 2 + (x - cx) ** 2 < radius**2,
        )
        picture[masks[label], 2 - label] += random.randint(70, 130)
    return pictures.astype(np.uint8), labels


def write_store(path: Path, size: int = 32, seed: int = 0, classes: tuple[str, ...] = CLASSES, **counts: int) -> Path:
    """Write a raw store of drawn pictures, in the format of alexnet/data/store/format.py.

    Args:
        path: The folder of the store, which must not exist.
        size: The side of the pictures, in pixels.
        seed: The seed of the drawing.
        classes: The names of the three classes.
        counts: The number of pictures of each split: train=48, val=20.

    Returns:
        The path.
    """
    path.mkdir()
    for number, (split, count) in enumerate(counts.items()):
        pictures, labels = draw_pictures(count, size, seed + number)
        schema = shard_schema(size, "raw", classes, split, "drawn", "none")
        columns = [
            pa.array([picture.tobytes() for picture in pictures], schema.field("image").type),
            pa.array(labels, pa.int32()),
            pa.array([f"{split}/{i}.png" for i in range(count)]),
        ]
        with pa.OSFile(str(path / shard_name(split, 0)), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        if number == 0:  # "train" if there is one
            values = pictures.astype(np.int64)
            pixels = values.reshape(-1, 3)
            statistics = Statistics.from_sums(values.sum(0), pixels.T @ pixels, count)
    statistics.save(path / STATISTICS_FILE, {"counts": counts})
    Store(path).validation()  # fails if Store cannot read what was written
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Run torch on one thread: beside other programs, small nets take several times as long on two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def warm_python(request: pytest.FixtureRequest) -> str:
    """A Python whose processes have imported torch when they start, and those of its torchrun too."""
    if not is_supported():
        return sys.executable
    owner = os.getppid() if hasattr(request.config, "workerinput") else os.getpid()  # outlives the workers of xdist
    first = ["simulated_gpu.activate"] if "simulated_gpu.activate" in sys.modules else []
    return str(build_once(request, "python", lambda folder: start_server(folder, owner, *first)) / "python")


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder per class, of PNG and JPEG files of several sizes; tests must not write to it."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (side, suffix) in enumerate([(40, "png"), (33, "jpg"), (64, "png"), (50, "jpg")]):
        for i, (picture, label) in enumerate(zip(*draw_pictures(6, side, seed=number), strict=True)):
            class_folder = folder / CLASSES[label]
            class_folder.mkdir(exist_ok=True)
            Image.fromarray(picture[: side - 2 * i]).save(class_folder / f"{number}-{i}.{suffix}")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw store of 48 training and 20 validation pictures of 32 x 32 in three classes; tests must not write to it."""
    return write_store(tmp_path_factory.mktemp("stores") / "drawn", train=48, val=20)


def small_net() -> Net:
    """Return the two-tower net with few feature maps, for pictures of 24 x 24."""
    return Net(
        image_size=24,
        conv1=Conv(maps=8, kernel=5, stride=2, padding=0, then=("activate", "normalise", "pool")),
        conv2=Conv(maps=8, kernel=3, padding=1, then=("activate", "normalise", "pool")),
        conv3=Conv(maps=12, all_towers=True),
        conv4=Conv(maps=8),
        conv5=Conv(maps=8, then=("activate", "pool")),
        fc6=Full(units=16, dropout=0.5),
        fc7=Full(units=16, dropout=0.5),
        start="he",
        pixel_scale=1 / 64,
    )


def small_recipe() -> Recipe:
    """Return a recipe of a small net with all the paper's randomness: 3 epochs of 5 steps, the fifth of 8 pictures."""
    return Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=3)


@pytest.fixture
def recipe() -> Recipe:
    """The recipe of `small_recipe`."""
    return small_recipe()


@pytest.fixture
def frequent_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in metrics.jsonl for every second step."""
    monkeypatch.setattr("alexnet.training.train.STEPS_PER_LINE", 2)


@pytest.fixture(scope="module")
def uninterrupted(store: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A finished run of `small_recipe` on `store` that was never stopped, with `frequent_metrics`."""
    from alexnet.training.train import train

    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert torch.get_num_threads() == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet.training.train.STEPS_PER_LINE", 2)
        outcome = train(store, run, small_recipe(), progress=False)
    assert (outcome.finished, outcome.epoch, outcome.step, outcome.signal) == (True, 3, 15, None)
    return run


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """A function that sets what is called after each step of the optimiser, with the step's number from 1."""
    from alexnet.training.sgd import SGD

    def set_action(action: Callable[[int], None]) -> None:
        original, count = SGD.step, 0

        def step(self: SGD) -> None:
            nonlocal count
            original(self)
            count += 1
            action(count)

        monkeypatch.setattr(SGD, "step", step)

    return set_action


@pytest.fixture(scope="session")
def served_run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes for the web page; tests must not write to it."""
    from web_runs import write_served_run

    return write_served_run(tmp_path_factory.mktemp("served") / "birds", store)


@pytest.fixture(scope="session")
def client(served_run: Path) -> Iterator["TestClient"]:
    """A client, on this machine, of a server of `served_run`."""
    from web_runs import new_client

    with new_client(served_run) as opened:
        yield opened

"""A run with random weights, clients of a server that serves it, and a picture that no server should decode."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import torch
from conftest import small_recipe
from fastapi.testclient import TestClient
from metrics_lines import START, epoch, step, write_run
from PIL import Image

from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.training.checkpoint import TrainState, checkpoint_name, save_checkpoint
from alexnet.web.app import build_app
from alexnet.web.guard import AccessRules
from alexnet.web.limits import RateLimiter
from alexnet.web.served_run import ServedRun
from alexnet.web.service import Service

MARKUP = "<img src=x onerror=alert(1)>"
CLASS_NAMES = (MARKUP, "green square", "red disc")


def write_served_run(path: Path, store: Path) -> Path:
    """Write a run of three classes, one of which has markup as its name, and return its folder."""
    write_run(path, START, step(5), epoch(1), step(10), epoch(2), epoch(3))
    write_checkpoint(path, store)
    return path


def write_checkpoint(run: Path, store: Path, *, steps: int = 15, seed: int = 0) -> None:
    """Write a checkpoint of a small net with random weights."""
    recipe = replace(small_recipe(), precision="float32")
    torch.manual_seed(seed)
    weights = AlexNet(len(CLASS_NAMES), recipe.net).state_dict()
    # The last layer's weights are made larger, so that the probabilities differ.
    tensors = {f"net.{name}": 100 * value if name.startswith("fc8.") else value for name, value in weights.items()}
    (run / "checkpoints").mkdir(exist_ok=True)
    save_checkpoint(
        run / "checkpoints" / checkpoint_name(steps),
        tensors,
        recipe=recipe,
        classes=CLASS_NAMES,
        statistics=Store(store).statistics,
        state=TrainState(step=steps, epoch=steps // 5, finished=True),
    )


def new_client(run: Path, rules: AccessRules | None = None) -> TestClient:
    """Return a client of a new server, to be used in a `with` statement; by default tests do not reach its rates."""
    rules = rules or AccessRules(limiter=RateLimiter(1e6, 1e6))
    return TestClient(build_app(Service(ServedRun(run, "cpu")), rules), base_url="http://localhost")


def huge_png() -> bytes:
    """Return a small PNG file that claims 65,535 x 65,535 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, format="png")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", 65_535, 65_535)  # width and height, in the chunk IHDR
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)

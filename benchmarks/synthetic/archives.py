"""Small archives in the formats of real datasets, for rehearsals of `gpu_session.py`."""

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from alexnet.demo.drawing import draw_pictures

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_cifar10(path: Path, pictures: int = 32) -> None:
    """Write an archive like CIFAR-10's binary one, with `pictures` random pictures in each of its six files."""
    random = np.random.default_rng(0)
    files = {"batches.meta.txt": ("\n".join(_CIFAR10_CLASSES) + "\n").encode()}
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = random.integers(0, 256, (pictures, 1 + 3072), dtype=np.uint8)
        records[:, 0] = np.arange(pictures) % 10
        files[name] = records.tobytes()
    with tarfile.open(path, "w:xz") as archive:
        for name, contents in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))


def write_pictures(path: Path, per_class: int = 8) -> None:
    """Write a tar file with a folder per class of drawn pictures."""
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder) / "pictures", per_class=per_class, seed=0)
        with tarfile.open(path, "w") as archive:
            archive.add(Path(folder) / "pictures", "pictures")

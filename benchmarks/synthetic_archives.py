"""Small data sets in the true formats, to rehearse with."""

import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from alexnet.demo.drawing import draw_pictures


def write_cifar10(path: Path, pictures: int = 32) -> None:
    """CIFAR-10's binary archive, with so many random pictures in each of its six files."""
    random = np.random.default_rng(0)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files = {"batches.meta.txt": ("\n".join(names) + "\n").encode()}
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
    """A tar of a folder per class, of drawn pictures."""
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder) / "pictures", per_class=per_class, seed=0)
        with tarfile.open(path, "w") as archive:
            archive.add(Path(folder) / "pictures", "pictures")

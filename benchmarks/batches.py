"""Training batches from a store, beside a plain PIL + torch DataLoader pipeline over the original photographs.

    python benchmarks/batches.py --pictures FOLDER [--store STORE ...] [--count 512] [--repeats 5]

FOLDER has a folder of photographs per class; without a store, a raw and a JPEG one are made of it in a temporary
folder. All make the same thing, one thread each, turn by turn in one process: batches of 128 random 224 x 224 crops,
reflected at random, less the mean, colours shifted. The rates are pictures per second of processor time, so that other
programs on the machine disturb them little; the table gives the median of the repeats.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexnet.data.loader import Loader
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.learning.memory import keep_freed_memory
from alexnet.recipe import Recipe

RECIPE = Recipe()
AREAS = replace(RECIPE, crop_area=(0.3, 1.0))


class Photographs(Dataset):
    """What a user of PIL and torch would write: file -> prepared crop."""

    def __init__(self, files: list[Path], store: Store) -> None:
        self.files = files
        start = (store.size - RECIPE.net.image_size) // 2
        end = start + RECIPE.net.image_size
        self.mean = torch.from_numpy(store.statistics.mean[:, start:end, start:end].copy())
        self.components = torch.from_numpy(store.statistics.components).float()
        self.deviations = torch.from_numpy(store.statistics.colour_deviations()).float()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.open(self.files[index]).convert("RGB")
        scale = 256 / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (int(torch.randint(side - 224 + 1, ())) for side in (width, height))
        picture = picture.crop((left, top, left + 224, top + 224))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float()
        shift = (0.1 * torch.randn(3) * self.deviations) @ self.components
        return pixels - self.mean + shift[:, None, None], index


def from_files(files: list[Path], store: Store, wanted: int) -> Callable[[], None]:
    """A function that makes `wanted` pictures' batches by PIL and DataLoader."""
    loader = DataLoader(Photographs(files, store), batch_size=RECIPE.batch_size, shuffle=True, num_workers=0)
    batches = (images for _ in count() for images, _ in loader if len(images) == RECIPE.batch_size)
    return lambda: use(images for images in islice(batches, wanted // RECIPE.batch_size))


def from_store(store: Store, recipe: Recipe, wanted: int) -> Callable[[], None]:
    """A function that makes `wanted` pictures' batches from a store."""
    loader = Loader(store.split("train"), store.statistics, recipe, workers=0)
    whole = (b.images for epoch in count() for b in loader.batches(epoch) if len(b.labels) == recipe.batch_size)
    return lambda: use(images for images in islice(whole, wanted // recipe.batch_size))


def use(batches) -> None:  # type: ignore[no-untyped-def]
    for images in batches:
        assert images.shape == (RECIPE.batch_size, 3, 224, 224)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder with a folder of photographs per class")
    parser.add_argument(
        "--store", type=Path, action="append", default=[], help="a prepared store of them; again for more"
    )
    parser.add_argument("--count", type=int, default=512, help="pictures per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as training does
    with tempfile.TemporaryDirectory() as folder:
        paths = options.store or [Path(folder) / encoding for encoding in ("raw", "jpeg")]
        for path in () if options.store else paths:
            prepare(options.pictures, path, encoding=path.name, progress=False)
        measure(sorted(options.pictures.rglob("*.jpg")), [Store(path) for path in paths], options)


def measure(files: list[Path], stores: list[Store], options: argparse.Namespace) -> None:
    """Time every way in turn, `repeats` times, and print the table."""
    if not files:
        raise SystemExit(f"--pictures must hold .jpg files; {options.pictures} holds none")
    ways = {"PIL + DataLoader, original files": from_files(files, stores[0], options.count)}
    for store in stores:
        ways[f"alexnet, {store.encoding} store"] = from_store(store, RECIPE, options.count)
        ways[f"alexnet, {store.encoding} store, crops of 30 to 100 % of the area"] = from_store(
            store, AREAS, options.count
        )
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():
            began = time.process_time()
            way()
            if repeat:  # the first time compiles and warms up
                rates[name].append(options.count / (time.process_time() - began))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    plain = next(iter(medians.values()))
    print(
        f"{platform.processor() or platform.machine()}, one thread; {len(files):,} photographs, {options.count} a time"
    )
    print(f"{'':58} pictures/s a core   ratio   (lowest to highest)")
    for name, rate in medians.items():
        low, high = min(rates[name]), max(rates[name])
        print(f"{name:58} {rate:17,.0f} {rate / plain:7.1f}   ({low:,.0f} to {high:,.0f})")


if __name__ == "__main__":
    main()

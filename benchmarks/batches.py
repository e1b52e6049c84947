"""Training batches from a store, beside PIL + torch's DataLoader, and DALI and FFCV where they are installed.

    python benchmarks/batches.py [--pictures FOLDER] [--store STORE ...] [--count 512] [--repeats 5] [--json FILE]
    python benchmarks/batches.py --rows 1000 30000 1000000

FOLDER has a folder of photographs per class; without one, photographs of 500 x 375 are drawn. Without a store, a raw
and a JPEG one are made of them in a temporary folder. All make the same thing, one thread each, turn by turn in one
process: batches of 128 random 224 x 224 crops, reflected at random, less the mean, colours shifted. The rates are
pictures per second of processor time, so that other programs on the machine disturb them little; the table gives the
median of the repeats. "for a GPU" is what the computer does where a GPU makes the floats. A second table has what
several workers make of the last store, by the clock.

--rows: instead, what opening a store of so many pictures takes. They are tiny, but cut into files and record batches as
pictures of 256 x 256 are, which is what decides the time.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pipelines
import pyarrow as pa
import torch
from environment import environment_info
from output import markdown_table, write_json
from pipelines import BATCH, Way, use
from synthetic_photographs import describe, draw_folder

from alexnet.data.loading.loader import Loader
from alexnet.data.loading.sampler import epoch_order
from alexnet.data.loading.transfer import HostBatch
from alexnet.data.prepare.plan import CHUNK_BYTES, SHARD_BYTES
from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.format import STATISTICS_FILE, shard_name, shard_schema
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.utils.memory import keep_freed_memory

RECIPE = Recipe()
AREAS = replace(RECIPE, crop_area=(0.3, 1.0))
PIL = "PIL + DataLoader, original files"


def from_store(store: Store, recipe: Recipe, wanted: int, *, for_gpu: bool = False) -> Way:
    """A function that makes `wanted` pictures' batches from a store; or only the bytes that go to a GPU."""
    loader = Loader(store.split("train"), store.statistics, recipe, workers=0)
    if not for_gpu:
        whole = (b for epoch in count() for b in loader.batches(epoch) if len(b.labels) == recipe.batch_size)
        return lambda: use(whole, wanted)
    orders = (epoch_order(len(loader.split), seed=0, epoch=epoch) for epoch in count())
    parts = (part for indices in orders for part in np.split(indices, range(BATCH, len(indices), BATCH)))
    indices = (part for part in parts if len(part) == BATCH)
    filled = (loader.fill_host_batch(HostBatch.empty(part, pipelines.CROP, pinned=False), 0) for part in indices)
    return lambda: use(filled, wanted)


def ways(files: list[Path], stores: list[Store], folder: Path, wanted: int) -> dict[str, Way]:
    """Everything that is compared, by name."""
    split = stores[0].split("train")
    found = {PIL: pipelines.pillow(files, stores[0], wanted)}
    if pipelines.has_dali():
        squares = pipelines.jpeg_files(split, folder / "squares", wanted)
        found["DALI, original files"] = pipelines.dali(files, wanted, resize=True)
        found["DALI, JPEG files of 256 x 256"] = pipelines.dali(squares, wanted, resize=False)
    if pipelines.has_ffcv():
        found["FFCV, JPEG of 256 x 256"] = pipelines.ffcv(split, folder / "pictures.beton", wanted)
    for store in stores:
        name = f"alexnet, {store.encoding} store"
        found[name] = from_store(store, RECIPE, wanted)
        found[f"{name}, crops of 30 to 100 % of the area"] = from_store(store, AREAS, wanted)
        found[f"{name}, for a GPU"] = from_store(store, RECIPE, wanted, for_gpu=True)
    return found


def rates(named: dict[str, Way], wanted: int, repeats: int) -> dict[str, list[float]]:
    """Pictures per second of processor time, `repeats` times each, in turn."""
    found: dict[str, list[float]] = {name: [] for name in named}
    for repeat in range(repeats + 1):
        for name, way in named.items():
            began = time.process_time()
            way()
            if repeat:  # the first time compiles and warms up
                found[name].append(wanted / (time.process_time() - began))
    return found


def with_workers(store: Store, workers: int, wanted: int) -> float:
    """Pictures per second by the clock."""
    loader = Loader(store.split("train"), store.statistics, RECIPE, workers=workers)
    made = (batch for epoch in count() for batch in loader.batches(epoch) if len(batch.labels) == RECIPE.batch_size)
    with closing(made):
        use(made, RECIPE.batch_size)
        began = time.perf_counter()
        use(made, wanted)
        return wanted / (time.perf_counter() - began)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Print both tables."""
    pictures = options.pictures or draw_folder(folder / "drawn", max(options.count, 512), "web")
    files = sorted(pictures.rglob("*.jpg"))
    if not files:
        raise SystemExit(f"--pictures must hold .jpg files; {pictures} holds none")
    paths = options.store or [folder / encoding for encoding in ("raw", "jpeg")]
    for path in () if options.store else paths:
        prepare(pictures, path, encoding=path.name, progress=False)
    stores = [Store(path) for path in paths]
    print(f"{describe(files)}; one thread, {options.count} pictures a time")
    found = rates(ways(files, stores, folder, options.count), options.count, options.repeats)
    medians = {name: statistics.median(each) for name, each in found.items()}
    rows = [
        [name, f"{rate:,.0f}", f"{rate / medians[PIL]:.1f}", f"{min(found[name]):,.0f} to {max(found[name]):,.0f}"]
        for name, rate in medians.items()
    ]
    print(markdown_table(rows, ["way", "pictures/s a core", "ratio", "lowest to highest"]), flush=True)
    numbers = sorted({1, 2, 4, 8, 16, os.cpu_count() or 1} & set(range(1, (os.cpu_count() or 1) + 1)))
    clock = {n: [with_workers(stores[-1], n, 4 * options.count) for _ in range(3)] for n in numbers}
    speeds = {n: statistics.median(each) for n, each in clock.items()}
    rows = [[n, f"{speed:,.0f}", f"{speed / speeds[1]:.2f}"] for n, speed in speeds.items()]
    print(f"\n{stores[-1].encoding} store")
    print(markdown_table(rows, ["workers", "pictures/s", "of one"]))
    return {"pictures": describe(files), "rates": found, "workers": clock}


def write_rows(path: Path, rows: int, size: int = 8) -> Path:
    """A raw store of tiny pictures in files and record batches of as many as `prepare` makes of 256 x 256 pixels."""
    path.mkdir()
    random, classes = np.random.default_rng(0), tuple(f"class{n}" for n in range(1000))
    schema = shard_schema(size, "raw", classes, "train", "made up", "none")
    shard, chunk = (limit // (256 * 256 * 3) for limit in (SHARD_BYTES, CHUNK_BYTES))
    bounds = [*range(0, rows, shard), rows]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        with pa.OSFile(str(path / shard_name("train", number)), "wb") as file, pa.ipc.new_file(file, schema) as out:
            for first, last in pairwise([*range(start, stop, chunk), stop]):
                pixels = random.integers(0, 256, (last - first, size * size * 3), np.uint8)
                labels = pa.array(random.integers(0, 1000, last - first), pa.int32())
                names = pa.array([f"n00000000/{n:08d}.JPEG" for n in range(first, last)])
                columns = [pa.array(list(map(bytes, pixels)), schema.field("image").type), labels, names]
                out.write_batch(pa.record_batch(columns, schema=schema))
    mean = np.zeros((3, size, size), np.float32)
    Statistics.from_covariance(mean, np.eye(3), rows).save(path / STATISTICS_FILE, {"counts": {"train": rows}})
    return path


def own_memory() -> float:
    """The memory of this process that is no file's, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("--rows needs Linux, whose kernel tells how much memory is the process's own")


def opening(path: Path) -> dict[str, float]:
    """What it takes to open a store, and to give an epoch its order and its first numbers."""
    before, began = own_memory(), time.perf_counter()
    store = Store(path)
    split = store.split("train")
    opened, memory = time.perf_counter(), own_memory()
    recipe = replace(RECIPE, net=replace(RECIPE.net, image_size=8, conv1=None, conv2=None), store_size=8)
    next(Loader(split, store.statistics, recipe, workers=0).batches(0))
    first = time.perf_counter()
    return {"open ms": 1000 * (opened - began), "MB": memory - before, "first batch ms": 1000 * (first - opened)}


def grow(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Print what opening takes."""
    opening(write_rows(folder / "first", 100))  # compiles
    found = {rows: opening(write_rows(folder / f"{rows}", rows)) for rows in options.rows}
    rows = [[f"{rows:,}", *(f"{value:,.1f}" for value in row.values())] for rows, row in found.items()]
    print(markdown_table(rows, ["pictures", *next(iter(found.values()))]))
    return {"opening": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder with a folder of photographs per class")
    parser.add_argument(
        "--store", type=Path, action="append", default=[], help="a prepared store of them; again for more"
    )
    parser.add_argument("--count", type=int, default=512, help="pictures per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", help="measure opening stores of so many pictures instead")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as training does
    print(environment_info())
    with tempfile.TemporaryDirectory() as folder:
        found = (grow if options.rows else compare)(options, Path(folder))
    write_json(options.json, {"machine": environment_info()} | found)


if __name__ == "__main__":
    main()

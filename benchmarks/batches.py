"""Training batches from a store, beside PIL with torch's DataLoader, and DALI and FFCV where they are installed.

    python benchmarks/batches.py [--pictures FOLDER] [--store STORE ...] [--count 512] [--repeats 5] [--json FILE]
    python benchmarks/batches.py --rows 1000 30000 1000000

FOLDER has a folder of photographs per class; the default are synthetic photographs of 500 x 375. Without --store, a raw
and a JPEG store of them are written to a temporary folder. All pipelines make the same batches, in one thread each and
in turn in one process: 128 random crops of 224 x 224, flipped at random, with the mean subtracted and shifted colours.
The first table gives the median pictures per second of processor time, which other programs on the machine hardly
affect. "for a GPU" is the CPU's part when a GPU makes the floats. The second table gives pictures per second of real
time for several workers on the last store. Takes about a minute on two cores.

With --rows it measures instead how long it takes to open stores of these numbers of pictures. The pictures are tiny,
but there are as many files and record batches as for pictures of 256 x 256, which determine the time.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.training import endless_batches
from peers import pipelines as peer_pipelines
from peers.pipelines import BATCH_SIZE, consume
from store_opening import measure_opening
from synthetic.photographs import describe_files, draw_folder

from alexnet.data.loading.loader import Loader
from alexnet.data.loading.sampler import epoch_order
from alexnet.data.loading.transfer import HostBatch
from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.utils.memory import keep_freed_memory

_RECIPE = Recipe()
_CROP_AREA_RECIPE = replace(_RECIPE, crop_area=(0.3, 1.0))
_BASELINE = "PIL + DataLoader, original files"


def _store_pipeline(store: Store, recipe: Recipe, pictures: int) -> Callable[[], None]:
    """Return a function that makes a store's batches for `pictures` pictures."""
    batches = endless_batches(Loader(store.split("train"), store.statistics, recipe, workers=0))
    return lambda: consume(batches, pictures)


def _store_pipeline_for_gpu(store: Store, recipe: Recipe, pictures: int) -> Callable[[], None]:
    """Return a function that only makes the bytes which go to a GPU."""
    loader = Loader(store.split("train"), store.statistics, recipe, workers=0)
    orders = (epoch_order(len(loader.split), seed=0, epoch=epoch) for epoch in count())
    parts = (part for order in orders for part in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)))
    crop = recipe.net.image_size
    batches = (
        loader.fill_host_batch(HostBatch.empty(indices, crop, pinned=False), 0)
        for indices in parts
        if len(indices) == BATCH_SIZE
    )
    return lambda: consume(batches, pictures)


def _pipelines(files: list[Path], stores: list[Store], folder: Path, pictures: int) -> dict[str, Callable[[], None]]:
    """Return all pipelines by name; each makes the batches for `pictures` pictures."""
    split = stores[0].split("train")
    pipelines = {_BASELINE: peer_pipelines.pillow_pipeline(files, stores[0], pictures)}
    if peer_pipelines.has_dali():
        squares = peer_pipelines.write_jpeg_files(split, folder / "squares", pictures)
        pipelines["DALI, original files"] = peer_pipelines.dali_pipeline(files, pictures, resize=True)
        pipelines["DALI, JPEG files of 256 x 256"] = peer_pipelines.dali_pipeline(squares, pictures, resize=False)
    if peer_pipelines.has_ffcv():
        path = folder / "pictures.beton"
        pipelines["FFCV, JPEG of 256 x 256"] = peer_pipelines.ffcv_pipeline(split, path, pictures)
    for store in stores:
        name = f"alexnet, {store.encoding} store"
        pipelines[name] = _store_pipeline(store, _RECIPE, pictures)
        pipelines[f"{name}, crops of 30 to 100 % of the area"] = _store_pipeline(store, _CROP_AREA_RECIPE, pictures)
        pipelines[f"{name}, for a GPU"] = _store_pipeline_for_gpu(store, _RECIPE, pictures)
    return pipelines


def _interleaved_rates(pipelines: dict[str, Callable[[], None]], pictures: int, repeats: int) -> dict[str, list[float]]:
    """Return the pictures per second of processor time of each pipeline, `repeats` times, measured in turn."""
    rates: dict[str, list[float]] = {name: [] for name in pipelines}
    for make_batches in pipelines.values():  # the first call compiles and warms up
        make_batches()
    for _ in range(repeats):
        for name, make_batches in pipelines.items():
            start = time.process_time()
            make_batches()
            rates[name].append(pictures / (time.process_time() - start))
    return rates


def _rate_with_workers(store: Store, workers: int, pictures: int) -> float:
    """Return the pictures per second of real time that a loader with several workers makes."""
    loader = Loader(store.split("train"), store.statistics, _RECIPE, workers=workers)
    with closing(endless_batches(loader)) as batches:  # type: ignore[type-var]
        consume(batches, BATCH_SIZE)
        start = time.perf_counter()
        consume(batches, pictures)
        return pictures / (time.perf_counter() - start)


def _rates_by_workers(store: Store, pictures: int) -> dict[int, list[float]]:
    """Print and return the rates of a store's loader for several numbers of workers, up to the number of cores."""
    cores = os.cpu_count() or 1
    numbers = sorted(number for number in {1, 2, 4, 8, 16, cores} if number <= cores)
    rates = {workers: [_rate_with_workers(store, workers, pictures) for _ in range(3)] for workers in numbers}
    medians = {workers: statistics.median(values) for workers, values in rates.items()}
    rows = [[workers, f"{rate:,.0f}", f"{rate / medians[1]:.2f}"] for workers, rate in medians.items()]
    print(f"\n{store.encoding} store")
    print(markdown_table(rows, ["workers", "pictures/s", "against 1"]))
    return rates


def _compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Print both tables; return their numbers."""
    pictures = options.pictures or draw_folder(folder / "drawn", max(options.count, 512), "web")
    files = sorted(pictures.rglob("*.jpg"))
    if not files:
        raise SystemExit(f"--pictures must hold .jpg files; {pictures} holds none")
    paths = options.store
    if not paths:
        paths = [folder / encoding for encoding in ("raw", "jpeg")]
        for path in paths:
            prepare(pictures, path, encoding=path.name, progress=False)
    stores = [Store(path) for path in paths]
    print(f"{describe_files(files)}; one thread, {options.count} pictures a time")
    pipelines = _pipelines(files, stores, folder, options.count)
    rates = _interleaved_rates(pipelines, options.count, options.repeats)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = [
        [name, f"{rate:,.0f}", f"{rate / medians[_BASELINE]:.1f}", f"{min(values):,.0f} to {max(values):,.0f}"]
        for (name, rate), values in zip(medians.items(), rates.values(), strict=True)
    ]
    print(markdown_table(rows, ["pipeline", "pictures/s a core", "against PIL", "lowest to highest"]), flush=True)
    return {
        "pictures": describe_files(files),
        "rates": rates,
        "workers": _rates_by_workers(stores[-1], 4 * options.count),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder with a folder of photographs per class")
    parser.add_argument(
        "--store", type=Path, action="append", default=[], help="a prepared store of them; may be repeated"
    )
    parser.add_argument("--count", type=int, default=512, help="pictures per measurement; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each pipeline; default: %(default)s")
    parser.add_argument("--rows", type=int, nargs="+", metavar="N", help="measure opening stores of N pictures instead")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as training does
    print(environment_info())
    with tempfile.TemporaryDirectory() as folder:
        results = measure_opening(options.rows, Path(folder)) if options.rows else _compare(options, Path(folder))
    write_json(options.json, {"machine": environment_info()} | results)


if __name__ == "__main__":
    main()

"""Time and memory as the work grows: with the batch, the classes, the pictures of the store and the threads.

    python benchmarks/growth.py [--only batch classes stores threads] [--seconds 6] [--quick] [--json FILE]

- "batch": training steps of the paper's net with 1000 classes, by the batch size;
- "classes": the same with a batch of 32, by the number of classes;
- "threads": the same with a batch of 32 and 1000 classes, by the number of threads;
- "stores": the time before a training's first step and the rate of its batches, by the number of pictures in the store.
  The pictures are tiny (raw, 16 x 16, crops of 12), so the cost depends on their number and not on their bytes.

Each row is measured in a process of its own, so that its peak memory is its own, and a row that is too large for the
machine fails alone. The device is the GPU if there is one. Each row takes --seconds at least, or one step after a
warm-up. All rows take about five minutes on two cores; the batch of 1024 alone takes a minute and a half and about
11 GB. --quick leaves out the largest rows.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.timing import time_call
from common.training import random_batch
from synthetic.stores import write_store

from alexnet.architecture import Conv, Net
from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.sgd import SGD, parameter_groups
from alexnet.training.step import Step
from alexnet.utils.memory import keep_freed_memory

_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_WITHOUT_OTHER_LAYERS = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "normalise"))
_SMALL_NET = Net(image_size=12, towers=1, conv1=Conv(maps=4), **_WITHOUT_OTHER_LAYERS)
_SIZES = {
    "batch": [32, 64, 128, 256, 512, 1024],
    "classes": [2, 100, 1_000, 22_000],
    "stores": [1_000, 10_000, 100_000, 1_000_000],
    "threads": [1, 2, 4, 8, 16, 32, 64],
}
_LARGEST_QUICK_SIZES = {"batch": 128, "classes": 22_000, "stores": 100_000, "threads": 64}


def _peak_memory() -> float:
    """Return the peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _measure_steps(batch_size: int, classes: int, threads: int | None, min_seconds: float) -> dict[str, float]:
    """Return the time and memory of training steps of the paper's net on a random batch."""
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    device = torch.device(_DEVICE)
    recipe = Recipe(batch_size=batch_size, learning_rate=1e-6)
    net = AlexNet(classes).to_channels_last(device)
    step = Step(net, SGD(parameter_groups(net, recipe), rate=1e-6, momentum=0.9, decay=5e-4), recipe)
    images, labels = random_batch(batch_size, classes, device)
    for _ in range(5 if _DEVICE == "cuda" else 1):
        step(images, labels)
    start, seconds = time.perf_counter(), []
    while not seconds or time.perf_counter() - start < min_seconds:
        seconds.append(time_call(lambda: step(images, labels), device))
    median = statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated() / 1e6 if _DEVICE == "cuda" else _peak_memory()
    return {"ms a step": 1000 * median, "pictures/s": batch_size / median, "peak MB": peak}


def _measure_loading(path: Path, min_seconds: float) -> dict[str, float]:
    """Return the time of opening a store and of its first batch, the rate of batches of 128, and the memory."""
    keep_freed_memory()
    recipe = Recipe(net=_SMALL_NET, store_size=16)
    memory_before = _peak_memory()
    start = time.perf_counter()
    store = Store(path)
    split = store.split("train")
    loader = Loader(split, store.statistics, recipe)
    opening = time.perf_counter() - start
    with closing(loader.batches(0)) as batches:
        next(batches)
    first_batch = time.perf_counter() - start
    rate = _loading_rate(loader, min_seconds)
    return {"open ms": 1000 * opening, "first batch ms": 1000 * first_batch, "pictures/s": rate,
            "memory MB": _peak_memory() - memory_before}  # fmt: skip


def _loading_rate(loader: Loader, min_seconds: float) -> float:
    """Return the pictures/s of a loader, over epochs that take at least `min_seconds`."""
    pictures, epoch, start = 0, 1, time.perf_counter()
    while True:
        with closing(loader.batches(epoch)) as batches:
            for batch in batches:
                pictures += len(batch.labels)
                if time.perf_counter() - start > min_seconds:
                    return pictures / (time.perf_counter() - start)
        epoch += 1


def _measure_row(section: str, size: int, min_seconds: float) -> dict[str, float]:
    """Measure a row of a section in a process of its own."""
    if section == "batch":
        return _run_in_process(_measure_steps, size, 1000, None, min_seconds)
    if section == "classes":
        return _run_in_process(_measure_steps, 32, size, None, min_seconds)
    if section == "threads":
        return _run_in_process(_measure_steps, 32, 1000, size, min_seconds)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = write_store(Path(folder) / "store", 16, 1000, train=size)
        writing = time.perf_counter() - start
        return _run_in_process(_measure_loading, path, min_seconds) | {"(writing it s)": writing}


def _run_in_process(function: Any, *arguments: Any) -> dict[str, float]:
    """Call a function in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        result: dict[str, float] = pool.submit(function, *arguments).result()
    return result


def _measure_section(section: str, *, quick: bool, min_seconds: float) -> list[dict[str, Any]]:
    """Measure a section; return its rows, each with the row's size under the section's name."""
    sizes = [size for size in _SIZES[section] if not quick or size <= _LARGEST_QUICK_SIZES[section]]
    if section == "threads":
        sizes = [size for size in sizes if size <= (os.cpu_count() or 1)]
    rows: list[dict[str, Any]] = []
    for size in sizes:
        try:
            row: dict[str, Any] = _measure_row(section, size, min_seconds)
        except (BrokenProcessPool, RuntimeError) as error:  # out of memory: of the machine, or of the GPU
            row = {"failed": str(error).splitlines()[0]}
        rows.append({section: size} | row)
    return rows


def _format_value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(_SIZES), default=list(_SIZES), help="default: all")
    parser.add_argument("--seconds", type=float, default=6, help="least time of a row's timings; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="leave out the largest rows")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    min_seconds = min(options.seconds, 2) if options.quick else options.seconds
    info = environment_info(_DEVICE)
    print(info)
    results: dict[str, Any] = {"machine": info}
    for section in options.only:
        rows = results[section] = _measure_section(section, quick=options.quick, min_seconds=min_seconds)
        headings = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_format_value(row.get(name, "")) for name in headings] for row in rows]
        print(f"\n{markdown_table(cells, headings)}", flush=True)
    write_json(options.json, results)


if __name__ == "__main__":
    main()

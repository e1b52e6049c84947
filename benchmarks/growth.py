"""Cost as work grows: batch, classes, pictures of the store, cores.

    python benchmarks/growth.py [--only batch classes stores threads] [--seconds 6] [--quick] [--json FILE]

Every row is measured in a process of its own, so that its peak memory is its own and a row too large for the machine
fails alone. "batch": steps of the full net with 1000 classes. "classes": the same at batch 32. "threads": the same at
batch 32 and 1000 classes, on 1, 2 ... threads. "stores": what a training needs before its first step, and how fast its
batches are made, from stores of tiny raw pictures (16 x 16, crops of 12), where what costs is the number of pictures
and not their bytes. The device is the GPU where there is one. Each row takes --seconds at least, or one step after a
first that warms up; all of them about five minutes on two cores, where the batch of 1024 alone takes a minute and a
half and about 11 GB. --quick leaves out what takes longest.
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
from itertools import count
from pathlib import Path
from typing import Any

import torch
from environment import environment_info
from output import markdown_table, write_json
from synthetic_stores import write_store
from timing import time_call

from alexnet.architecture import Conv, Net
from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.sgd import SGD, parameter_groups
from alexnet.training.step import Step
from alexnet.utils.memory import keep_freed_memory

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ONLY_CONV1 = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "normalise"))
SMALL_NET = Net(image_size=12, towers=1, conv1=Conv(maps=4), **ONLY_CONV1)
SECTIONS = {
    "batch": [32, 64, 128, 256, 512, 1024],
    "classes": [2, 100, 1_000, 22_000],
    "stores": [1_000, 10_000, 100_000, 1_000_000],
    "threads": [1, 2, 4, 8, 16, 32, 64],
}
LARGEST_QUICK = {"batch": 128, "classes": 22_000, "stores": 100_000, "threads": 64}


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def steps(batch: int, classes: int, threads: int | None, least: float) -> dict[str, float]:
    """Training steps of the full net on made-up tensors."""
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    device = torch.device(DEVICE)
    recipe = Recipe(batch_size=batch, learning_rate=1e-6)
    net = AlexNet(classes).to_channels_last(device)
    step = Step(net, SGD(parameter_groups(net, recipe), rate=1e-6, momentum=0.9, decay=5e-4), recipe)
    images = torch.randn(batch, 3, 224, 224, device=device).mul_(50).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), device=device)
    for _ in range(5 if DEVICE == "cuda" else 1):
        step(images, labels)
    began, spent = time.perf_counter(), []
    while not spent or time.perf_counter() - began < least:
        spent.append(time_call(lambda: step(images, labels), device))
    typical = statistics.median(spent)
    peak = torch.cuda.max_memory_allocated() / 1e6 if DEVICE == "cuda" else peak_mb()
    return {"ms a step": 1000 * typical, "pictures/s": batch / typical, "peak MB": peak}


def store(path: Path, least: float) -> dict[str, float]:
    """Opening a store, its first batch, and batches of 128 one after another."""
    keep_freed_memory()
    recipe = Recipe(net=SMALL_NET, store_size=16)
    before = peak_mb()
    began = time.perf_counter()
    opened = Store(path)
    split = opened.split("train")
    loader = Loader(split, opened.statistics, recipe)
    opening = time.perf_counter() - began
    with closing(loader.batches(0)) as batches:
        next(batches)
    first = time.perf_counter() - began
    made, began = 0, time.perf_counter()
    for epoch in count(1):
        with closing(loader.batches(epoch)) as batches:
            for batch in batches:
                made += len(batch.labels)
                if time.perf_counter() - began > least:
                    speed = made / (time.perf_counter() - began)
                    return {"open ms": 1000 * opening, "first batch ms": 1000 * first, "pictures/s": speed,
                            "memory MB": peak_mb() - before}  # fmt: skip
    raise AssertionError("epochs do not end")


def measure(section: str, size: int, least: float) -> dict[str, float]:
    """A row, in the process that it is called in."""
    if section == "batch":
        return steps(size, 1000, None, least)
    if section == "classes":
        return steps(32, size, None, least)
    if section == "threads":
        return steps(32, 1000, size, least)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        path = write_store(Path(folder) / "store", 16, 1000, train=size)
        writing = time.perf_counter() - began
        return alone(store, path, least) | {"(writing it s)": writing}


def alone(function: Any, *given: Any) -> dict[str, float]:
    """What a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found: dict[str, float] = pool.submit(function, *given).result()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=6, help="the least time that a row's steps are timed for")
    parser.add_argument("--quick", action="store_true", help="without the largest of each")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    options = parser.parse_args()
    least = min(options.seconds, 2) if options.quick else options.seconds
    print(environment_info(DEVICE))
    found: dict[str, Any] = {"machine": environment_info(DEVICE)}
    for section in options.only:
        cores = os.cpu_count() or 1
        sizes = [size for size in SECTIONS[section] if not options.quick or size <= LARGEST_QUICK[section]]
        if section == "threads":
            sizes = [size for size in sizes if size <= cores]
        rows: list[dict[str, Any]] = []
        for size in sizes:
            try:
                row = measure(section, size, least) if section == "stores" else alone(measure, section, size, least)
            except (BrokenProcessPool, RuntimeError) as error:  # killed for want of memory, or the GPU's is full
                row = {"failed": str(error).splitlines()[0]}
            rows.append({section: size} | row)
        found[section] = rows
        heads = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[form(row.get(name, "")) for name in heads] for row in rows]
        print(f"\n{markdown_table(cells, heads)}", flush=True)
    write_json(options.json, found)


def form(value: object) -> str:
    """A number as people read it."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()

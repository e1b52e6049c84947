"""Time and memory of opening a store, by its number of pictures: the part of `batches.py` behind `--rows`."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.output import markdown_table
from synthetic.stores import write_tiny_pictures_store

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe


def measure_opening(counts: Sequence[int], folder: Path) -> dict[str, Any]:
    """Print and return what it takes to open stores of these numbers of pictures, written to a folder."""
    _open_store(write_tiny_pictures_store(folder / "first", 100))  # compiles
    results = {count: _open_store(write_tiny_pictures_store(folder / f"{count}", count)) for count in counts}
    rows = [[f"{count:,}", *(f"{value:,.1f}" for value in result.values())] for count, result in results.items()]
    print(markdown_table(rows, ["pictures", *next(iter(results.values()))]))
    return {"opening": results}


def _open_store(path: Path) -> dict[str, float]:
    """Return the time and memory of opening a store, and the time until its first batch is made."""
    memory, start = _anonymous_memory(), time.perf_counter()
    store = Store(path)
    split = store.split("train")
    opened, memory_after = time.perf_counter(), _anonymous_memory()
    recipe = Recipe()
    recipe = replace(recipe, net=replace(recipe.net, image_size=8, conv1=None, conv2=None), store_size=8)
    next(Loader(split, store.statistics, recipe, workers=0).batches(0))
    first_batch = time.perf_counter()
    return {
        "open ms": 1000 * (opened - start),
        "MB": memory_after - memory,
        "first batch ms": 1000 * (first_batch - opened),
    }


def _anonymous_memory() -> float:
    """Return the memory of this process, in MB, without the files mapped into it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit("--rows needs Linux, whose /proc/self/status gives the anonymous memory of a process")

"""Speed and memory of preparing photographs, beside a loop that only reads, decodes and resizes them.

    python benchmarks/prepare.py [--pictures FOLDER] [--kind small|web|large|camera] [--count 1000] [--store FOLDER]

The loops read each file, decode it with simplejpeg (the fastest peer in benchmarks/decoders.py, with the division in
the DCT) and resize its central square with OpenCV, with the same number of threads; they keep nothing. "area" is the
filter that this project uses, "linear" OpenCV's fastest, which aliases when it shrinks a picture. All are timed in
turn; the table gives the best of each. The CPU time is that of all threads, which other programs affect less. A second
table gives the peak memory of preparing 1,000 and 4,000 pictures. Takes about a minute on two cores.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
from peers.decoders import decode_with_simplejpeg
from synthetic.photographs import SIZES, describe_files, draw_folder

from alexnet.data.prepare.prepare import prepare

_SIDE = 256


def _decode_all(paths: list[Path], interpolation: int, workers: int) -> None:
    """Read, decode and resize every file, in threads."""
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda path: decode_with_simplejpeg(path.read_bytes(), _SIDE, interpolation), paths):
            pass


def _time_call(function: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call, and its CPU seconds."""
    cpu_start, start = os.times(), time.perf_counter()
    function()
    seconds, cpu_end = time.perf_counter() - start, os.times()
    return seconds, cpu_end.user + cpu_end.system - cpu_start.user - cpu_start.system


def _measure_rates(folder: Path, paths: list[Path], store: Path, workers: int, repeats: int) -> None:
    """Print the table of rates.

    Args:
        folder: The folder of the photographs.
        paths: Their files.
        store: The folder for a temporary store.
        workers: The number of threads.
        repeats: The number of timings of each.
    """

    def prepare_store(encoding: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        prepare(folder, store, size=_SIDE, encoding=encoding, workers=workers, progress=False)

    functions: dict[str, Callable[[], object]] = {
        "bare loop, area": partial(_decode_all, paths, cv2.INTER_AREA, workers),
        "bare loop, linear": partial(_decode_all, paths, cv2.INTER_LINEAR, workers),
        "prepare, raw": partial(prepare_store, "raw"),
        "prepare, jpeg": partial(prepare_store, "jpeg"),
    }
    prepare_store("raw")  # the first call compiles, and fills the file cache
    best = {name: (float("inf"), float("inf")) for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            best[name] = tuple(map(min, best[name], _time_call(function)))  # type: ignore[assignment]
    shutil.rmtree(store, ignore_errors=True)
    print(f"\n{'':20} {'pictures/s':>11} {'of area':>8} {'of linear':>9} {'CPU ms a picture':>17}")
    for name, (seconds, cpu_seconds) in best.items():
        of_area, of_linear = (best[f"bare loop, {filter_name}"][0] / seconds for filter_name in ("area", "linear"))
        rate, cpu_ms = len(paths) / seconds, cpu_seconds / len(paths) * 1000
        print(f"{name:20} {rate:11.0f} {of_area:8.2f} {of_linear:9.2f} {cpu_ms:17.2f}")


def _peak_memory(paths: list[Path], temporary: Path, count: int, encoding: str, workers: int) -> float:
    """Return the peak resident memory, in MB, of a process that prepares `count` files, links to the given ones."""
    source, store = temporary / f"links{count}", temporary / "store"
    for number in range(count):
        path = source / f"class{number % 4}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(paths[number % len(paths)].resolve())
    command = [sys.executable, __file__, "--child", str(source), str(store), encoding, str(workers)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(source)
    shutil.rmtree(store)
    return float(result.stdout)


def _run_child(source: str, store: str, encoding: str, workers: str) -> None:
    """Prepare, and print this process's peak memory in MB."""
    prepare(source, store, size=_SIDE, encoding=encoding, workers=int(workers), progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        _run_child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder with a folder of JPEG files per class")
    parser.add_argument("--kind", choices=SIZES, default="web", help="size of synthetic pictures; default: %(default)s")
    parser.add_argument("--count", type=int, default=1000, help="number of synthetic pictures; default: %(default)s")
    parser.add_argument("--store", type=Path, help="a new folder for the temporary store")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads; default: all cores")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each; default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        folder = options.pictures or draw_folder(temporary / "drawn", options.count, options.kind)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        print(f"{describe_files(paths)}; {options.workers} threads")
        _measure_rates(folder, paths, options.store or temporary / "store", options.workers, options.repeats)
        print(f"\n{'peak memory, MB':20} {'1,000 pictures':>15} {'4,000 pictures':>15}")
        for encoding in ("raw", "jpeg"):
            small, large = (_peak_memory(paths, temporary, count, encoding, options.workers) for count in (1000, 4000))
            print(f"prepare, {encoding:11} {small:15.0f} {large:15.0f}")


if __name__ == "__main__":
    main()

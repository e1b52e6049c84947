"""How fast photographs are prepared, beside a bare loop that only decodes and resizes them; and in how much memory.

    python benchmarks/prepare.py [--pictures FOLDER] [--kind small|web|large|camera] [--count 1000] [--store FOLDER]

The bare loops read each file, decode it with simplejpeg (the fastest decoder of benchmarks/decoders.py; divided in the
DCT as far as the size allows) and resize the central square with OpenCV, in as many threads; they keep nothing.
"area" is this project's filter; "linear" is OpenCV's fastest, which aliases when it shrinks. All turns are interleaved
and each one's best is printed. CPU time a picture is that of all threads, and feels other programs less.
"""

from __future__ import annotations

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
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from synthetic_photographs import SIZES, describe_files, draw_folder

from alexnet.data.prepare.prepare import prepare

SIDE = 256


def bare_loop(paths: list[Path], interpolation: int, workers: int) -> None:
    """Reads, decodes and resizes every file, in threads."""

    def one(path: Path) -> np.ndarray:
        data = path.read_bytes()
        picture = simplejpeg.decode_jpeg(data, "RGB", min_height=SIDE, min_width=SIDE, strict=False)
        height, width = picture.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = picture[top : top + side, left : left + side]
        return cv2.resize(square, (SIDE, SIDE), interpolation=interpolation)

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(one, paths):
            pass


def measure(turn: Callable[[], object]) -> tuple[float, float]:
    """Returns the seconds a turn takes, and its CPU seconds."""
    before, began = os.times(), time.perf_counter()
    turn()
    seconds, after = time.perf_counter() - began, os.times()
    return seconds, after.user + after.system - before.user - before.system


def rates(folder: Path, paths: list[Path], store: Path, workers: int, repeats: int) -> None:
    """Prints the table of rates."""

    def prepared(encoding: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        prepare(folder, store, size=SIDE, encoding=encoding, workers=workers, progress=False)

    turns: dict[str, Callable[[], object]] = {
        "bare loop, area": lambda: bare_loop(paths, cv2.INTER_AREA, workers),
        "bare loop, linear": lambda: bare_loop(paths, cv2.INTER_LINEAR, workers),
        "prepare, raw": lambda: prepared("raw"),
        "prepare, jpeg": lambda: prepared("jpeg"),
    }
    prepared("raw")  # the first time compiles, and fills the file cache
    best = {name: (float("inf"), float("inf")) for name in turns}
    for _ in range(repeats):
        for name, turn in turns.items():
            best[name] = tuple(map(min, best[name], measure(turn)))  # type: ignore[assignment]
    shutil.rmtree(store, ignore_errors=True)
    print(f"\n{'':20} {'pictures/s':>11} {'of area':>8} {'of linear':>9} {'CPU ms a picture':>17}")
    for name, (seconds, cpu) in best.items():
        of = [best[f"bare loop, {kind}"][0] / seconds for kind in ("area", "linear")]
        print(f"{name:20} {len(paths) / seconds:11.0f} {of[0]:8.2f} {of[1]:9.2f} {cpu / len(paths) * 1000:17.2f}")


def peak_memory(paths: list[Path], scratch: Path, count: int, encoding: str, workers: int) -> float:
    """Returns the peak resident memory, in MB, of a process that prepares `count` files, the same ones over again."""
    source = scratch / f"links{count}"
    for number in range(count):
        path = source / f"class{number % 4}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(paths[number % len(paths)].resolve())
    command = [sys.executable, __file__, "--child", str(source), str(scratch / "store"), encoding, str(workers)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(source)
    shutil.rmtree(scratch / "store")
    return float(result.stdout)


def child(source: str, store: str, encoding: str, workers: str) -> None:
    """Prepares, and prints this process's peak memory in MB."""
    prepare(source, store, size=SIDE, encoding=encoding, workers=int(workers), progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Prints the tables."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder with a folder of JPEG files for each class")
    parser.add_argument("--kind", choices=SIZES, default="web", help="what is drawn where there is none")
    parser.add_argument("--count", type=int, default=1000, help="how many are drawn")
    parser.add_argument("--store", type=Path, help="where the store is written for a while (a new folder)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = arguments.pictures or draw_folder(scratch / "drawn", arguments.count, arguments.kind)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        print(f"{describe_files(paths)}; {arguments.workers} threads")
        rates(folder, paths, arguments.store or scratch / "store", arguments.workers, arguments.repeats)
        print(f"\n{'peak memory, MB':20} {'1,000 pictures':>15} {'4,000 pictures':>15}")
        for encoding in ("raw", "jpeg"):
            peaks = [peak_memory(paths, scratch, count, encoding, arguments.workers) for count in (1000, 4000)]
            print(f"prepare, {encoding:11} {peaks[0]:15.0f} {peaks[1]:15.0f}")


if __name__ == "__main__":
    main()

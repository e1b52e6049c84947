"""Decoders from a JPEG file in memory to a square of 256 x 256 pixels, of every library that is installed.

    python benchmarks/decoders.py [--pictures FOLDER] [--kind small|web|large|camera] [--count 200]

The table gives the pictures/s of each with one and with two threads, the best of three. "off" is the mean difference,
in grey levels, from the exact area average of the picture's central square: what a decoder's speed costs. Libraries
that are not installed are left out and named (pip install pyvips pyvips-binary kornia-rs imagecodecs torchvision).
Takes less than a minute with pictures of the kinds "small" and "web".
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
from peers.decoders import Decoder, iter_decoders
from synthetic.photographs import SIZES, describe_files, draw_folder

from alexnet.data.prepare.central_square import resize_central_square
from alexnet.data.prepare.decode import read_image

_SIDE = 256


def _rate(decode: Decoder, files: list[bytes], threads: int) -> float:
    """Return the pictures/s of a decoder, the best of three."""
    fastest = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            start = time.perf_counter()
            for _ in pool.map(decode, files):
                pass
            fastest = min(fastest, time.perf_counter() - start)
    return len(files) / fastest


def _mean_difference(decode: Decoder, files: list[bytes], expected: list[np.ndarray]) -> float:
    """Return the mean absolute difference of a decoder's squares from the expected ones, in grey levels."""
    return float(np.mean([np.abs(decode(data) - square).mean() for data, square in zip(files, expected, strict=True)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder with JPEG files; default: synthetic ones")
    parser.add_argument("--kind", choices=SIZES, default="web", help="size of the synthetic ones; default: %(default)s")
    parser.add_argument("--count", type=int, default=200, help="number of pictures; default: %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.pictures or draw_folder(Path(temporary), options.count, options.kind)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        paths = paths[:: max(1, len(paths) // options.count)][: options.count]
        print(describe_files(paths))
        files = [path.read_bytes() for path in paths]
    decoders: dict[str, Decoder] = {"this project's read_image": lambda data: read_image(data, _SIDE)}
    decoders |= iter_decoders(_SIDE)
    sample = files[:: max(1, len(files) // 20)]
    exact = [resize_central_square(simplejpeg.decode_jpeg(data, "RGB"), _SIDE).astype(int) for data in sample]
    print(f"\n{'pictures/s':45} {'1 thread':>9} {'2 threads':>9} {'off':>6}")
    for name, decode in decoders.items():
        try:
            difference = _mean_difference(decode, sample, exact)
            one_thread, two_threads = (_rate(decode, files, threads) for threads in (1, 2))
            print(f"{name:45} {one_thread:9.0f} {two_threads:9.0f} {difference:6.2f}", flush=True)
        except Exception as error:  # that a library fails is a result
            print(f"{name:45} failed: {error}")


if __name__ == "__main__":
    main()

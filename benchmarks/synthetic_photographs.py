"""JPEG files that cost a decoder what photographs cost, for benchmarks that are given none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"small": (300, 200), "web": (500, 375), "large": (1600, 1200), "camera": (4000, 3000)}


def photograph(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Returns a drawn picture whose detail falls off as in photographs: half the contrast in each octave."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 10):
        cells = Image.fromarray(rng.integers(0, 256, (2**octave, 2**octave, 3), np.uint8))
        wide = cells.resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(wide, np.float32) - 128) * 0.72**octave * 2
    total += rng.normal(0, 4, (height, width, 1)).astype(np.float32)
    return Image.fromarray((total + rng.integers(90, 160)).clip(0, 255).astype(np.uint8))


def draw_folder(folder: Path, count: int, kind: str) -> Path:
    """Writes `count` JPEG files (quality 90) of one of `SIZES` in four class folders, unless they are there."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 4}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            width, height = SIZES[kind] if number % 4 else SIZES[kind][::-1]
            photograph(width, height, rng).save(path, quality=90)
    return folder


def describe(paths: list[Path]) -> str:
    """Returns a line about picture files: how many, how large."""
    sizes = []
    for path in paths[:: max(1, len(paths) // 200)]:
        with Image.open(path) as picture:
            sizes.append(picture.size)
    width, height = np.median(sizes, axis=0).astype(int)
    kilobytes = np.mean([path.stat().st_size for path in paths]) / 1000
    return f"{len(paths):,} JPEG files, median {width}x{height}, {kilobytes:.0f} kB each"

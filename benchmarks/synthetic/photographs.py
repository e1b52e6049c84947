"""Synthetic JPEG files that take a decoder as long as photographs do."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = {"small": (300, 200), "web": (500, 375), "large": (1600, 1200), "camera": (4000, 3000)}


def _draw_photograph(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Draw a picture whose detail falls off as in photographs: about half the contrast in each octave."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 10):
        noise = Image.fromarray(random.integers(0, 256, (2**octave, 2**octave, 3), np.uint8))
        smooth = noise.resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth, np.float32) - 128) * 0.72**octave * 2
    total += random.normal(0, 4, (height, width, 1)).astype(np.float32)
    return Image.fromarray((total + random.integers(90, 160)).clip(0, 255).astype(np.uint8))


def draw_folder(folder: Path, count: int, kind: str) -> Path:
    """Write `count` JPEG files (quality 90) of one of `SIZES` into four class folders; keep files that exist."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 4}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            width, height = SIZES[kind] if number % 4 else SIZES[kind][::-1]
            _draw_photograph(width, height, random).save(path, quality=90)
    return folder


def describe_files(paths: list[Path]) -> str:
    """Return a line with the number of picture files, their median size in pixels and their mean size in kB."""
    sizes = []
    for path in paths[:: max(1, len(paths) // 200)]:
        with Image.open(path) as picture:
            sizes.append(picture.size)
    width, height = np.median(sizes, axis=0).astype(int)
    kilobytes = np.mean([path.stat().st_size for path in paths]) / 1000
    return f"{len(paths):,} JPEG files, median {width}x{height}, {kilobytes:.0f} kB each"

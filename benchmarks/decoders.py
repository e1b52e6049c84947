"""Which decoder: JPEG file in memory -> 256x256 square, pictures a second, for every library found here.

    python benchmarks/decoders.py [--pictures FOLDER] [--kind small|web|large|camera] [--count 200]

Libraries that are not installed are left out and named (pip install pyvips pyvips-binary kornia-rs imagecodecs
torchvision). "off" is the mean difference from the exact area average of the whole picture's central square, in grey
levels: what a speed is paid for with.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import simplejpeg
from PIL import Image
from synthetic_photographs import SIZES, describe_files, draw_folder

from alexnet.data.prepare.decode import read_image, resize_central_square

SIDE = 256
Decoder = Callable[[bytes], np.ndarray]


def cut(picture: np.ndarray) -> np.ndarray:
    """Returns a picture's central square, not resampled."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def three(picture: np.ndarray) -> np.ndarray:
    """Returns a picture with three channels, where a library leaves grey ones with one."""
    flat = picture.reshape(*picture.shape[:2], -1)
    return flat if flat.shape[2] == 3 else np.repeat(flat[:, :, :1], 3, axis=2)


def pillow(draft: bool) -> Decoder:
    """Pillow, with or without its reduction in the DCT."""

    def decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as picture:
            if draft:
                picture.draft("RGB", (SIDE, SIDE))
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            box = (left, top, left + side, top + side)
            return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX, box))

    return decode


def simple(divide: bool, resize: Callable[[np.ndarray], np.ndarray]) -> Decoder:
    """simplejpeg, with or without division in the DCT, and some way to resize."""
    least = {"min_height": SIDE, "min_width": SIDE} if divide else {}
    return lambda data: resize(cut(simplejpeg.decode_jpeg(data, "RGB", **least)))


def found() -> dict[str, Decoder]:
    """Returns the decoders of the libraries installed here, naming those that are not."""
    decoders: dict[str, Decoder] = {
        "this project's read_image": lambda data: read_image(data, SIDE),
        "Pillow, box": pillow(draft=False),
        "Pillow, draft + box": pillow(draft=True),
    }
    modules: dict[str, ModuleType] = {}
    for name in ("cv2", "imagecodecs", "kornia_rs", "torchvision.io", "pyvips"):
        try:
            modules[name] = import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            print(f"left out: {name} ({error})")
    if cv2 := modules.get("cv2"):
        cv2.setNumThreads(1)

        def area(picture: np.ndarray) -> np.ndarray:
            return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

        def linear(picture: np.ndarray) -> np.ndarray:
            return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)

        def imdecode(data: bytes) -> np.ndarray:
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

        decoders["simplejpeg + OpenCV area"] = simple(False, area)
        decoders["simplejpeg, DCT + OpenCV area"] = simple(True, area)
        decoders["simplejpeg + OpenCV linear (aliases)"] = simple(False, linear)
        decoders["simplejpeg, DCT + OpenCV linear (aliases)"] = simple(True, linear)
        decoders["OpenCV + OpenCV area"] = lambda data: area(cut(imdecode(data)))
        if codecs := modules.get("imagecodecs"):
            decoders["imagecodecs + OpenCV area"] = lambda data: area(cut(three(codecs.jpeg8_decode(data))))
        if kornia := modules.get("kornia_rs"):
            jpeg = getattr(kornia, "decode_image_jpeg", None) or kornia.io.decode_image_jpeg
            decoders["kornia-rs + OpenCV area"] = lambda data: area(cut(three(np.asarray(jpeg(data)))))
        if vision := modules.get("torchvision.io"):
            torch = import_module("torch")
            torch.set_num_threads(1)

            def torchvision(data: bytes) -> np.ndarray:
                tensor = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
                return area(np.ascontiguousarray(cut(three(vision.decode_jpeg(tensor).permute(1, 2, 0).numpy()))))

            decoders["torchvision + OpenCV area"] = torchvision
    if vips := modules.get("pyvips"):
        decoders["libvips thumbnail"] = lambda data: three(
            vips.Image.thumbnail_buffer(data, SIDE, height=SIDE, crop="centre").numpy()
        )
    return decoders


def rate(decode: Decoder, files: list[bytes], threads: int) -> float:
    """Returns pictures a second, the best of three."""
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            began = time.perf_counter()
            for _ in pool.map(decode, files):
                pass
            best = min(best, time.perf_counter() - began)
    return len(files) / best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder with JPEG files; without it some are drawn")
    parser.add_argument("--kind", choices=SIZES, default="web", help="what is drawn")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.pictures or draw_folder(Path(scratch), arguments.count, arguments.kind)
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        paths = paths[:: max(1, len(paths) // arguments.count)][: arguments.count]
        print(describe_files(paths))
        files = [path.read_bytes() for path in paths]
    decoders = found()
    sample = files[:: max(1, len(files) // 20)]
    exact = [resize_central_square(simplejpeg.decode_jpeg(data, "RGB"), SIDE).astype(int) for data in sample]
    print(f"\n{'pictures a second':45} {'1 thread':>9} {'2 threads':>9} {'off':>6}")
    for name, decode in decoders.items():
        try:
            off = np.mean([np.abs(decode(data) - want).mean() for data, want in zip(sample, exact, strict=True)])
            print(f"{name:45} {rate(decode, files, 1):9.0f} {rate(decode, files, 2):9.0f} {off:6.2f}", flush=True)
        except Exception as error:  # a library's fault is a result here
            print(f"{name:45} failed: {error}")


if __name__ == "__main__":
    main()

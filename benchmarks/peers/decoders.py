"""Other programs' decoders from a JPEG file in memory to its central square, resized; each works in one thread."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

Decoder = Callable[[bytes], np.ndarray]

_OPTIONAL_MODULES = ("imagecodecs", "kornia_rs", "torchvision.io", "pyvips")


def decode_with_simplejpeg(data: bytes, size: int, interpolation: int, *, reduce: bool = True) -> np.ndarray:
    """Decode with simplejpeg and resize with OpenCV.

    Args:
        data: The JPEG file.
        size: The side of the square, in pixels.
        interpolation: One of OpenCV's: cv2.INTER_AREA, cv2.INTER_LINEAR.
        reduce: Whether to let the decoder's DCT divide the picture, as far as the size allows.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    least_size = {"min_height": size, "min_width": size} if reduce else {}
    return _resize_square(simplejpeg.decode_jpeg(data, "RGB", strict=False, **least_size), size, interpolation)


def iter_decoders(size: int) -> Iterator[tuple[str, Decoder]]:
    """Yield the names and the decoders of all libraries that are installed; print the names of the others.

    Args:
        size: The side of the square, in pixels.
    """
    cv2.setNumThreads(1)
    yield "Pillow, box", partial(_decode_with_pillow, size=size, draft=False)
    yield "Pillow, draft + box", partial(_decode_with_pillow, size=size, draft=True)
    for suffix, interpolation in (("area", cv2.INTER_AREA), ("linear (aliases)", cv2.INTER_LINEAR)):
        for prefix, reduce in (("simplejpeg", False), ("simplejpeg, DCT", True)):
            decode = partial(decode_with_simplejpeg, size=size, interpolation=interpolation, reduce=reduce)
            yield f"{prefix} + OpenCV {suffix}", decode
    yield "OpenCV + OpenCV area", partial(_decode_with_opencv, size=size)
    modules = _import_modules()
    if imagecodecs := modules.get("imagecodecs"):
        yield "imagecodecs + OpenCV area", lambda data: _resize_square(imagecodecs.jpeg8_decode(data), size)
    if kornia := modules.get("kornia_rs"):
        decode_jpeg = getattr(kornia, "decode_image_jpeg", None) or kornia.io.decode_image_jpeg
        yield "kornia-rs + OpenCV area", lambda data: _resize_square(np.asarray(decode_jpeg(data)), size)
    if torchvision_io := modules.get("torchvision.io"):
        yield "torchvision + OpenCV area", _torchvision_decoder(torchvision_io, size)
    if vips := modules.get("pyvips"):
        yield "libvips thumbnail", partial(_decode_with_vips, vips=vips, size=size)


def _import_modules() -> dict[str, ModuleType]:
    """Import the optional modules that are installed; print the names of the others."""
    modules = {}
    for name in _OPTIONAL_MODULES:
        try:
            modules[name] = import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            print(f"left out: {name} ({error})")
    return modules


def _decode_with_pillow(data: bytes, size: int, draft: bool) -> np.ndarray:
    """Decode and resize with Pillow; with `draft` the decoder's DCT divides the picture."""
    with Image.open(io.BytesIO(data)) as picture:
        if draft:
            picture.draft("RGB", (size, size))
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BOX, box))


def _decode_with_opencv(data: bytes, size: int) -> np.ndarray:
    return _resize_square(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB), size)


def _torchvision_decoder(torchvision_io: Any, size: int) -> Decoder:
    torch = import_module("torch")
    torch.set_num_threads(1)

    def decode(data: bytes) -> np.ndarray:
        picture = torchvision_io.decode_jpeg(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
        square = _to_rgb(_crop_central_square(picture.permute(1, 2, 0).numpy()))
        return cv2.resize(np.ascontiguousarray(square), (size, size), interpolation=cv2.INTER_AREA)

    return decode


def _decode_with_vips(data: bytes, vips: Any, size: int) -> np.ndarray:
    return _to_rgb(vips.Image.thumbnail_buffer(data, size, height=size, crop="centre").numpy())


def _resize_square(picture: np.ndarray, size: int, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    """Crop the central square of a picture and resize it with OpenCV."""
    return cv2.resize(_to_rgb(_crop_central_square(picture)), (size, size), interpolation=interpolation)


def _crop_central_square(picture: np.ndarray) -> np.ndarray:
    """Return the central square of a picture, as a view."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def _to_rgb(picture: np.ndarray) -> np.ndarray:
    """Return a picture with three channels: some libraries return grey pictures with one."""
    picture = picture.reshape(*picture.shape[:2], -1)
    return picture if picture.shape[2] == 3 else np.repeat(picture[:, :, :1], 3, axis=2)

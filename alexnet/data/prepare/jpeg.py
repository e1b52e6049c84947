"""Decode an ordinary JPEG to its central square by libjpeg-turbo (simplejpeg), which also makes it smaller."""

import re

import numpy as np
import simplejpeg

from alexnet.data.prepare.central_square import resize_central_square
from alexnet.data.prepare.jpeg_segments import END_OF_IMAGE, count_scans, read_metadata, remove_harmless_faults
from alexnet.data.prepare.orientation import apply_orientation, find_orientation

_MAX_PIXELS = 1 << 27  # 134 million: their RGB values take 400 MB
# A decoder that divides the picture by 8 keeps a few rows only, but the coefficients of all pixels if there are several
# scans. The largest camera of a telephone has 200 million pixels.
_MAX_PIXELS_IN_ONE_SCAN = 1 << 28
_MAX_DIVISOR = 8
# Of padding, libjpeg does not count what it has in its buffer of bits already: the next decoding finds that.
_MAX_DECODINGS = 4
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def check_pixel_count(width: int, height: int, most: int = _MAX_PIXELS) -> None:
    """Raise a ValueError if a picture has no pixels, or so many that decoding it would fill the memory."""
    if width < 1 or height < 1 or width * height > most:
        raise too_many_pixels(f"{width}x{height}", most)


def too_many_pixels(count: str, most: int = _MAX_PIXELS) -> ValueError:
    """Return the error for a picture of so many pixels."""
    return ValueError(
        f"a picture must have from 1 to {most:,} pixels; got {count} pixels: save it smaller, since decoding it could "
        "fill the memory"
    )


def read_jpeg(data: bytes, size: int, out: np.ndarray | None = None) -> np.ndarray | None:
    """Return the central square of a JPEG, turned upright; None for a JPEG that only Pillow may be able to read.

    Args:
        data: The file.
        size: Side of the square in pixels.
        out: (size, size, 3) uint8, contiguous, which may be used for the result.

    Returns:
        (size, size, 3) uint8; `out`, or a new array where the picture was turned.

    Raises:
        ValueError: It has too many pixels, or some are missing.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a colour space that simplejpeg has no name for
        return None
    is_large = width * height > _MAX_PIXELS
    check_pixel_count(width, height, _MAX_PIXELS if is_large and count_scans(data) > 1 else _MAX_PIXELS_IN_ONE_SCAN)
    if colours in ("CMYK", "YCCK"):
        _decode(data, "CMYK", height, width, _MAX_DIVISOR)  # Pillow, which converts them to RGB, ignores missing pixels
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    # The decoder's DCT can divide the sides by averaging areas, which saves most of the decoding time. At least twice
    # the size must be left, because an average over areas that do not coincide with those of the DCT is blurred.
    # tests/data/test_image.py measures how little the result differs.
    divisor = next((divisor for divisor in (8, 4, 2) if min(height, width) >= 2 * divisor * size), 1)
    check_pixel_count(width // divisor, height // divisor)
    picture = _decode(data, "RGB", height, width, divisor)
    square = resize_central_square(picture, size, divisor=divisor, full_size=(height, width), out=out)
    return apply_orientation(square, find_orientation(*read_metadata(data)))


def _decode(data: bytes, colours: str, height: int, width: int, divisor: int) -> np.ndarray:
    """Return the pixels of a JPEG, of which none is missing.

    libjpeg warns of many things, of which most cost no pixel. So a file that it warns of is decoded once more without
    what is harmless. If it then reads all data of each scan and no more, each pixel was decoded from its own data.

    Args:
        data: The file.
        colours: "RGB", or "CMYK" for a file with these colours.
        height, width: The size of the picture in pixels.
        divisor: By what to divide height and width: 1, 2, 4 or 8.

    Returns:
        (height / divisor, width / divisor, 3 or 4) uint8, rounded up.

    Raises:
        ValueError: Pixels are missing.
    """
    least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=True, **least))
    except ValueError:
        data = remove_harmless_faults(data)
    for _ in range(_MAX_DECODINGS):
        try:
            return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=True, **least))
        except ValueError as error:
            warning = error
        padding = _count_padding(data, str(warning))
        if not padding:
            break
        data = data[: -padding - len(END_OF_IMAGE)] + END_OF_IMAGE
    raise ValueError(f"some of its pixels are missing ({warning}): copy or download it again") from warning


def _count_padding(data: bytes, warning: str) -> int:
    """Return the number of zeros at the end of a JPEG if these are what a warning is about; else 0.

    Other bytes that are left over after the last pixel are a sign of damage: a decoder that has lost its place in the
    data reads too few of them. In 60 photographs with a damaged byte it left some as often as it read too many, and
    the median of their mean difference from the true pixels was 29 grey levels.
    """
    match = _EXTRANEOUS.search(warning)
    count = int(match[1]) if match else 0
    end = len(data) - len(END_OF_IMAGE)
    return count if count and not any(data[end - count : end]) else 0

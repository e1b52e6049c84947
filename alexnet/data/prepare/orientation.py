"""The orientation of a picture, from its EXIF or XMP: how the camera was held. One rule for all formats.

It is the orientation in EXIF if that is from 1 to 8, else the one in XMP, else 1. Damaged metadata have none.
"""

import re
from contextlib import suppress

import numpy as np
from PIL import Image

_ORIENTATION_TAG = 0x0112  # of EXIF
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])\b""")


def find_orientation(exif: Image.Exif | bytes, xmp: bytes | str) -> int:
    """Return the orientation of a picture, from 1 to 8.

    Args:
        exif: The EXIF block, read or not.
        xmp: The XMP packet; empty if there is none.
    """
    # Pillow raises exceptions of many types for a damaged block; the pixels are good all the same.
    with suppress(Exception):
        orientation = int(_read_exif(exif).get(_ORIENTATION_TAG, 0)) if exif else 0
        if 1 <= orientation <= 8:
            return orientation
    match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
    return int(match[1]) if match else 1


def _read_exif(exif: Image.Exif | bytes) -> Image.Exif:
    if isinstance(exif, Image.Exif):
        return exif
    result = Image.Exif()
    result.load(exif)
    return result


def apply_orientation(square: np.ndarray, orientation: int) -> np.ndarray:
    """Return a square turned upright, by its orientation from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        square = square.transpose(1, 0, 2)  # 5 is the transposition alone
    if orientation in (2, 3, 6, 7):
        square = square[:, ::-1]
    if orientation in (3, 4, 7, 8):
        square = square[::-1]
    return np.ascontiguousarray(square)

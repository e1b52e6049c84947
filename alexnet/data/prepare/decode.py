"""Decode a picture file to an 8-bit RGB square, the central crop at the size of the store (section 3).

Ordinary 8-bit JPEG files are decoded by libjpeg-turbo (simplejpeg), all others by Pillow. Colour profiles are not
applied: the paper trains "on the (centered) raw RGB values of the pixels".
"""

import zlib
from pathlib import Path

import numpy as np

from alexnet.data.prepare.jpeg import read_jpeg
from alexnet.data.prepare.jpeg_segments import JPEG_START
from alexnet.data.prepare.other_formats import read_with_pillow
from alexnet.data.prepare.silence import silence_libraries

# How pictures are resized; part of the key of each store.
RESAMPLING_FILTER = (
    "area average of the central square (linear interpolation where it is smaller); "
    "JPEG is first divided by 2, 4 or 8 in the decoder's DCT where twice the size is left"
)
MAX_DECOMPRESSED_BYTES = 1 << 28  # of a picture file that is compressed once more


def read_image(source: str | Path | bytes, size: int = 256, out: np.ndarray | None = None) -> np.ndarray:
    """Return the central square of a picture as 8-bit RGB (section 3: shorter side to 256, central 256 x 256 patch).

    The square is cropped first and then resized (see `RESAMPLING_FILTER`). This differs from the paper's order by less
    than a pixel of the file. Grey and palette pictures become RGB, 16 bits a channel become 8, transparent pixels are
    laid on white, CMYK is converted without a profile, the orientation in EXIF or XMP is applied, and an animation is
    its first picture. The format follows from the contents, not from the name; a file may be compressed with gzip once
    more.

    Args:
        source: The path of a picture file, or its bytes.
        size: Side of the square in pixels.
        out: (size, size, 3) uint8, contiguous, where to write the result; by default a new array. After an exception
            its values are undefined.

    Returns:
        (size, size, 3) uint8; `out` if it is given.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a picture, is damaged or cut short, cannot be decoded correctly, or has more than 134
            million pixels; 268 million for a JPEG in one scan.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}")
    silence_libraries()
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        if not data:
            raise ValueError("the file is empty; copy or download it again")
        if data[:2] == b"\x1f\x8b":
            data = _decompress(data)
        picture = read_jpeg(data, size, out) if data.startswith(JPEG_START) else None
        if picture is None:
            picture = read_with_pillow(data, size)
    except ValueError as error:
        if isinstance(source, bytes):
            raise
        raise ValueError(f"{source}: not a readable picture: {error}") from error
    if out is None or picture is out:
        return picture
    out[:] = picture
    return out


def _decompress(data: bytes) -> bytes:
    """Return the picture file in a gzip file: some of ILSVRC-2010's .JPEG files are compressed so.

    Raises:
        ValueError: The file is damaged, or too large.
    """
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with a gzip header
    try:
        contents = decompressor.decompress(data, MAX_DECOMPRESSED_BYTES)
    except zlib.error as error:
        raise ValueError(f"a damaged gzip file ({error}); copy or download it again") from error
    if not decompressor.eof:
        raise ValueError("a gzip file that is cut off or larger than a picture; copy or download it again")
    return contents

"""Decode a picture file to an 8-bit RGB square, the central crop at the size of the store (section 3).

Ordinary 8-bit JPEG files are decoded by libjpeg-turbo (simplejpeg), all others by Pillow. Colour profiles are not
applied: the paper trains "on the (centered) raw RGB values of the pixels".
"""

import io
import re
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from alexnet.data.prepare.resize import area_weights, enlarge, resample

# How pictures are resized; part of the key of each store.
RESAMPLING_FILTER = (
    "area average of the central square (linear interpolation where it is smaller); "
    "JPEG is first divided by 2, 4 or 8 in the decoder's DCT where twice the size is left"
)
BACKGROUND = (255, 255, 255)  # behind transparent pixels
_MAX_PIXELS = 1 << 26  # 67 million, more than cameras have; a small file can claim many more and fill the memory
_MAX_DECOMPRESSED_BYTES = 1 << 28  # of a picture file that is compressed once more
_ORIENTATION_TAG = 0x0112  # of EXIF
_MAX_EXIF_START = 1 << 17  # the EXIF block is near the start of a JPEG, so the rest of the file need not be searched
# Pillow reads other formats too, but some of them run other programs (EPS), and none of them is used for photographs.
_FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "GIF",
    "BMP",
    "DIB",
    "WEBP",
    "TIFF",
    "PPM",
    "TGA",
    "ICO",
    "AVIF",
    "JPEG2000",
    "PCX",
    "SGI",
)


def read_image(source: str | Path | bytes, size: int = 256) -> np.ndarray:
    """Return the central square of a picture as 8-bit RGB (section 3: shorter side to 256, central 256 x 256 patch).

    The square is cropped first and then resized (see `RESAMPLING_FILTER`). This differs from the paper's order by less
    than a pixel of the file. Grey and palette pictures become RGB, 16 bits a channel become 8, transparent pixels are
    laid on white, CMYK is converted without a profile, the EXIF orientation is applied, and an animation is its first
    picture. The format follows from the contents, not from the name; a file may be compressed with gzip once more.

    Args:
        source: The path of a picture file, or its bytes.
        size: Side of the square in pixels.

    Returns:
        (size, size, 3) uint8.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a picture, is damaged or cut short, or has more than 67 million pixels.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        if not data:
            raise ValueError("the file is empty; copy or download it again")
        if data[:2] == b"\x1f\x8b":
            data = _decompress(data)
        picture = _read_jpeg(data, size) if data[:3] == b"\xff\xd8\xff" else None
        return _read_with_pillow(data, size) if picture is None else picture
    except ValueError as error:
        if isinstance(source, bytes):
            raise
        raise ValueError(f"{source}: not a readable picture: {error}") from error


def _decompress(data: bytes) -> bytes:
    """Return the picture file in a gzip file: some of ILSVRC-2010's .JPEG files are compressed so.

    Raises:
        ValueError: The file is damaged, or too large.
    """
    decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with a gzip header
    try:
        contents = decompressor.decompress(data, _MAX_DECOMPRESSED_BYTES)
    except zlib.error as error:
        raise ValueError(f"a damaged gzip file ({error}); copy or download it again") from error
    if not decompressor.eof:
        raise ValueError("a gzip file that is cut off or larger than a picture; copy or download it again")
    return contents


def resize_central_square(
    picture: np.ndarray, size: int, *, divisor: int = 1, full_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Crop the central square of a picture and resize it.

    Args:
        picture: (height, width, 3) uint8, the picture or one that the JPEG decoder has made smaller.
        size: Side of the resized square in pixels.
        divisor: The factor by which the decoder has divided its sides.
        full_size: The height and width before this division, from which the square is cropped.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = full_size or picture.shape[:2]
    side = min(height, width)
    top, rows_before = divmod((height - side) // 2, divisor)
    left, columns_before = divmod((width - side) // 2, divisor)
    out = np.empty((size, size * 3), np.uint8)
    rows = np.ascontiguousarray(picture).reshape(picture.shape[0], picture.shape[1] * 3)
    if 1 < side < size:
        enlarge(rows, top, left, *area_weights(side, size), out)
    else:
        row_weights = area_weights(side, size, divisor, rows_before)
        column_weights = area_weights(side, size, divisor, columns_before)
        resample(rows, top, left, *row_weights, *column_weights, out)
    return out.reshape(size, size, 3)


def check_pixel_count(width: int, height: int) -> None:
    """Raise a ValueError if a picture has too many pixels, or none."""
    if width < 1 or height < 1 or width * height > _MAX_PIXELS:
        raise ValueError(
            f"a picture must have from 1 to {_MAX_PIXELS:,} pixels; got {width}x{height} pixels: save it smaller"
        )


def _read_jpeg(data: bytes, size: int) -> np.ndarray | None:
    """Return the central square of an ordinary JPEG; None for a JPEG that only Pillow may be able to read."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a colour space that simplejpeg has no name for
        return None
    check_pixel_count(width, height)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    # The decoder's DCT can divide the sides by averaging areas, which saves most of the decoding time. At least twice
    # the size must be left, because an average over areas that do not coincide with those of the DCT is blurred.
    # tests/data/test_image.py measures how little the result differs.
    divisor = next((divisor for divisor in (8, 4, 2) if min(height, width) >= 2 * divisor * size), 1)
    try:
        picture = simplejpeg.decode_jpeg(
            data, "RGB", strict=True, min_height=-(-height // divisor), min_width=-(-width // divisor)
        )
    except ValueError as error:
        # Padding between segments is common and harmless. Every other warning means that pixels are missing.
        if "extraneous bytes before marker" in str(error):
            return None
        raise
    square = resize_central_square(picture, size, divisor=divisor, full_size=(height, width))
    return _apply_orientation(square, _find_jpeg_orientation(data))


def _find_jpeg_orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG; 1 (upright) if it has none or a damaged one."""
    start = data.find(b"Exif\0\0", 0, _MAX_EXIF_START)
    if start < 4 or data[start - 4 : start - 2] != b"\xff\xe1":
        return 1
    length = int.from_bytes(data[start - 2 : start], "big")  # includes its own two bytes
    exif = Image.Exif()
    try:
        exif.load(data[start : start - 2 + length])
        return int(exif.get(_ORIENTATION_TAG, 1))
    except Exception:  # Pillow raises exceptions of many types for a damaged block; the pixels are good all the same
        return 1


def _apply_orientation(square: np.ndarray, orientation: int) -> np.ndarray:
    """Return a square turned upright, by its EXIF orientation from 1 to 8."""
    if orientation in (5, 6, 7, 8):
        square = square.transpose(1, 0, 2)  # 5 is the transposition alone
    if orientation in (2, 3, 6, 7):
        square = square[:, ::-1]
    if orientation in (3, 4, 7, 8):
        square = square[::-1]
    return np.ascontiguousarray(square)


@cache
def _available_formats() -> list[str]:
    """Return the names of the formats that this build of Pillow can read."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _read_with_pillow(data: bytes, size: int) -> np.ndarray:
    """Return the central square of a picture in any other format."""
    try:
        with Image.open(io.BytesIO(data), formats=_available_formats()) as picture:
            return read_pil_picture(picture, size)
    except UnidentifiedImageError as error:
        formats = ", ".join(_available_formats())
        raise ValueError(f"in an unknown format: save it in one of {formats}") from error


def read_pil_picture(picture: Image.Image, size: int) -> np.ndarray:
    """Return the central square of a Pillow picture of any mode, as `read_image` does of a file.

    Args:
        picture: The picture; its pixels need not be loaded yet.
        size: Side of the square in pixels.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ValueError: It is damaged, closed, or has more than 67 million pixels.
    """
    try:
        check_pixel_count(*picture.size)
        picture.load()
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        orientation = int(picture.getexif().get(_ORIENTATION_TAG, 1))
        return _apply_orientation(resize_central_square(_to_rgb(square), size), orientation)
    except MemoryError as error:
        raise ValueError("it does not fit in memory: save it smaller") from error
    except Exception as error:  # Pillow raises exceptions of many types for damaged files, such as KeyError
        reason = re.sub(r" at 0x[0-9a-f]+", "", str(error)) or type(error).__name__
        raise ValueError(reason) from error


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """Return a Pillow picture of any mode as (height, width, 3) uint8."""
    if picture.mode.startswith("I"):  # 16 bits, stored in 16 or 32
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(
                f"grey values must be from 0 to 65535; got {values.min()} to {values.max()}: save it with 16 bits"
            )
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "F":
        raise ValueError("it has floating-point grey values, whose range is unknown: save it with 8 or 16 bits")
    if picture.has_transparency_data:
        background = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        picture = Image.alpha_composite(background, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))

"""From a picture file to the 8-bit RGB square the net is given (section 3).

Ordinary 8-bit JPEG goes through libjpeg-turbo (simplejpeg), everything else through Pillow. Colour profiles are not
applied: the paper trains "on the (centered) raw RGB values of the pixels".
"""

import io
import re
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from alexnet.data.prepare.resize import area_weights, enlarge, resample

# Decoded in 85 to 90 % of the time of 90, and four fifths of its size; 39.2 dB on photographs, not 41.1. The decoder's
# short cuts are the worse bargain: with fast DCT and fast upsampling 90 has 39.6 dB and takes longer than 85 without.
JPEG_QUALITY = 85
MOST_PIXELS = 1 << 26  # 67 million: more than cameras make; a small file can claim far more and fill the memory
BACKGROUND = (255, 255, 255)  # behind transparent pixels
FILTER = (
    "area average of the central square (linear interpolation where it is smaller); "
    "JPEG is first divided by 2, 4 or 8 in the decoder's DCT where twice the size is left"
)
ORIENTATION = 0x0112  # the EXIF tag
# Pillow reads more, but some of it runs other programs (EPS), and none of it is pictures one would learn from.
FORMATS = (
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
EXIF_WITHIN = 1 << 17  # a JPEG's EXIF block stands at its start; no need to look through all of the file


def read_image(source: str | Path | bytes, size: int = 256) -> np.ndarray:
    """The central square of a picture as 8-bit RGB (section 3: shorter side to 256, central 256x256 patch).

    The square is cut out first and then resampled by `FILTER`, which differs from the paper's order by less than a
    source pixel. Grey and palette pictures become RGB, 16 bits a channel 8, transparent pixels are laid on white,
    CMYK is converted without a profile, EXIF orientation is applied, of an animation the first picture is taken.

    Args:
        source: A picture file's path, or its bytes.
        size: Side of the square, in pixels.

    Returns:
        (size, size, 3) uint8.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no picture, is damaged or cut short, or has more than 67 million pixels.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; got {size}")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        if not data:
            raise ValueError("the file is empty; copy or download it again")
        image = _read_jpeg(data, size) if data[:3] == b"\xff\xd8\xff" else None
        return _read_with_pillow(data, size) if image is None else image
    except ValueError as error:
        if isinstance(source, bytes):
            raise
        raise ValueError(f"{source}: no readable picture: {error}") from error


def encode_jpeg(image: np.ndarray) -> bytes:
    """A (size, size, 3) uint8 RGB picture as a JPEG file's bytes, quality 85, colour at half resolution."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), JPEG_QUALITY, "RGB", "420"))


def central_square(
    picture: np.ndarray, size: int, *, divisor: int = 1, whole: tuple[int, int] | None = None
) -> np.ndarray:
    """The central square of a picture, resampled.

    Args:
        picture: (height, width, 3) uint8.
        size: Side of the square wanted, in pixels.
        divisor: By how much the picture was divided already.
        whole: Its height and width before it was divided, which is what the square is cut out of.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = whole or picture.shape[:2]
    side = min(height, width)
    (top, above), (left, before) = divmod((height - side) // 2, divisor), divmod((width - side) // 2, divisor)
    out = np.empty((size, size * 3), np.uint8)
    rows = np.ascontiguousarray(picture).reshape(picture.shape[0], picture.shape[1] * 3)
    if 1 < side < size:
        enlarge(rows, top, left, *area_weights(side, size), out)
    else:
        down, across = area_weights(side, size, divisor, above), area_weights(side, size, divisor, before)
        resample(rows, top, left, *down, *across, out)
    return out.reshape(size, size, 3)


def _check_pixels(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise ValueError(
            f"a picture must have from 1 to {MOST_PIXELS:,} pixels; got {width}x{height} pixels: save it smaller"
        )


def _read_jpeg(data: bytes, size: int) -> np.ndarray | None:
    """The square of an ordinary JPEG; None where Pillow must judge it."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: colours that it has no name for
        return None
    _check_pixels(width, height)
    if colours not in ("YCbCr", "RGB", "Gray"):
        return None
    # The decoder's DCT divides by averaging areas and saves most of its time. Twice the size is left, for an average of
    # averages over areas that do not fit each other blurs; tests/data/test_image.py has how little that still is.
    divisor = next((divisor for divisor in (8, 4, 2) if min(height, width) >= 2 * divisor * size), 1)
    least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
    try:
        picture = simplejpeg.decode_jpeg(data, "RGB", strict=True, **least)
    except ValueError as error:
        # Padding between segments is common and harmless; every other warning means that pixels are missing.
        if "extraneous bytes before marker" in str(error):
            return None
        raise
    square = central_square(picture, size, divisor=divisor, whole=(height, width))
    return _upright(square, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG, 1 (upright) where it has none or a damaged one."""
    place = data.find(b"Exif\0\0", 0, EXIF_WITHIN)
    if place < 4 or data[place - 4 : place - 2] != b"\xff\xe1":
        return 1
    exif = Image.Exif()
    try:
        exif.load(data[place : place - 2 + int.from_bytes(data[place - 2 : place], "big")])
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # the pixels are good, and Pillow raises anything on a damaged block
        return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """A square turned as its EXIF orientation (1 to 8) says."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)  # 5
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


@cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _read_with_pillow(data: bytes, size: int) -> np.ndarray:
    """The square of a picture in any other format."""
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            width, height = picture.size
            _check_pixels(width, height)
            picture.load()
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = picture.crop((left, top, left + side, top + side))
            orientation = int(picture.getexif().get(ORIENTATION, 1))
            return _upright(central_square(_rgb(square), size), orientation)
    except UnidentifiedImageError as error:
        raise ValueError(
            f"in none of the formats that are read ({', '.join(_formats())}): save it in one of them"
        ) from error
    except MemoryError as error:
        raise ValueError("it does not fit in memory: save it smaller") from error
    except Exception as error:  # a damaged file makes Pillow's readers raise anything from struct.error to KeyError
        reason = re.sub(r" at 0x[0-9a-f]+", "", str(error)) or type(error).__name__
        raise ValueError(reason) from error


def _rgb(picture: Image.Image) -> np.ndarray:
    """A Pillow picture of any mode as (height, width, 3) uint8."""
    if picture.mode.startswith("I"):  # 16 bits, in whatever container
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(
                f"grey values must be from 0 to 65535; got {values.min()} to {values.max()}: save it with 16 bits"
            )
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "F":
        raise ValueError("floating-point grey values, whose range is not known: save it with 8 or 16 bits")
    if picture.has_transparency_data:
        behind = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        picture = Image.alpha_composite(behind, picture.convert("RGBA"))
    return np.asarray(picture.convert("RGB"))

"""Decode the formats that are no ordinary JPEG, by Pillow, to their central square."""

import io
import re
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image, TiffTags, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from alexnet.data.prepare.central_square import resize_central_square
from alexnet.data.prepare.jpeg import check_pixel_count, too_many_pixels
from alexnet.data.prepare.jpeg_segments import JPEG_START, read_metadata
from alexnet.data.prepare.orientation import apply_orientation, find_orientation
from alexnet.data.prepare.pixels import load_central_square
from alexnet.utils.extras import missing_extra

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
    "HEIF",
    "JPEG2000",
    "PCX",
    "SGI",
)
_START_BYTES = 16  # of a file, by which Pillow recognises a format
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))  # those on which pixels depend
_EXIF_ITEM = re.compile(rb"(infe\x02.{7})Exif", re.DOTALL)  # an entry of an AVIF's table of items
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"))


@cache
def available_formats() -> list[str]:
    """Return the names of the formats that Pillow can read with what is installed."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return [name for name in _FORMATS if name in Image.OPEN]


def read_with_pillow(data: bytes, size: int) -> np.ndarray:
    """Return the central square of a picture, turned upright.

    Args:
        data: The file.
        size: Side of the square in pixels.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ValueError: It is in another format, damaged, too large, or its pixels cannot be decoded correctly.
    """
    try:
        return _open_and_read(data, size)
    except ValueError:
        without = _remove_descriptions(data)
        if without == data:
            raise
        return _open_and_read(without, size)


def read_pil_picture(picture: Image.Image, size: int, data: bytes = b"") -> np.ndarray:
    """Return the central square of a Pillow picture of any mode, as `read_image` does of a file.

    Args:
        picture: The picture; its pixels need not be loaded yet.
        size: Side of the square in pixels.
        data: Its file, if that is known: needed for transparent colours of a PNG that has not 8 bits.

    Returns:
        (size, size, 3) uint8.

    Raises:
        ValueError: It is damaged, closed, too large, or its pixels cannot be decoded correctly.
    """
    try:
        check_pixel_count(*picture.size)
        if isinstance(picture, TiffImageFile):
            _forget_damaged_exif(picture)
        square = resize_central_square(load_central_square(picture, data), size)
        return apply_orientation(square, _find_orientation(picture, data))
    except MemoryError as error:
        raise ValueError("it does not fit in memory: save it smaller") from error
    except Exception as error:  # Pillow raises exceptions of many types for damaged files, such as KeyError
        raise ValueError(_describe(error)) from error


def _describe(error: Exception) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(error)) or type(error).__name__


def _unknown_format(data: bytes) -> ValueError:
    """Return the error for a file that Pillow cannot read."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and "HEIF" not in available_formats():
        return missing_extra("reading HEIC", "heic", ImportError("No module named 'pillow_heif'"))
    for name in available_formats():
        _, accepts = Image.OPEN[name]
        if accepts and accepts(data[:_START_BYTES]) is True:  # a text says what Pillow was built without
            return ValueError(
                f"a {name} that is damaged or of a rare kind: copy it again, or save it in another format"
            )
    return ValueError(f"in an unknown format: save it in one of {', '.join(available_formats())}")


def _open_and_read(data: bytes, size: int) -> np.ndarray:
    """Do the work of `read_with_pillow`, once."""
    try:
        with Image.open(io.BytesIO(data), formats=available_formats()) as picture:
            return read_pil_picture(picture, size, data)
    except UnidentifiedImageError as error:
        raise _unknown_format(data) from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher, when it opens a file
        count = re.search(r"\d+", str(error))
        raise too_many_pixels(f"{int(count[0]):,}" if count else "more") from error
    except MemoryError as error:
        raise ValueError("it does not fit in memory: save it smaller") from error
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(_describe(error)) from error


def _forget_damaged_exif(picture: TiffImageFile) -> None:
    """Remove the parts of the EXIF block that cannot be read: Pillow reads all of them with the pixels of a TIFF."""
    with suppress(Exception):
        picture.getexif()
    exif = picture.getexif()  # what could be read
    for tag in TiffTags.TAGS_V2_GROUPS:
        try:
            exif.get_ifd(tag)
        except Exception:
            with suppress(KeyError):  # older versions of Pillow fail where the picture has none, too
                del exif[tag]


def _find_orientation(picture: Image.Image, data: bytes) -> int:
    """Return the orientation of a picture whose pixels were loaded. Pillow has turned a TIFF upright already."""
    if data.startswith(JPEG_START):
        return find_orientation(*read_metadata(data))
    with suppress(Exception):  # for damaged EXIF; what could be read is returned by the next call
        picture.getexif()
    xmp = picture.info.get("XML:com.adobe.xmp") or picture.info.get("xmp") or b""
    return find_orientation(picture.getexif(), xmp)


def _remove_descriptions(data: bytes) -> bytes:
    """Return a PNG with only the chunks on which pixels depend, an AVIF without EXIF, and any other file as it is.

    Pillow refuses a PNG for a wrong checksum or too long a text in any of its chunks, and an AVIF for damaged EXIF.
    """
    if not data.startswith(_PNG_START):
        return _EXIF_ITEM.sub(rb"\1free", data, count=1) if data[4:8] == b"ftyp" else data
    result, position = bytearray(_PNG_START), len(_PNG_START)
    while position < len(data):
        stop = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in _PNG_CHUNKS:
            result += data[position:stop]
        position = stop
    return bytes(result)

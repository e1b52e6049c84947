"""The pixels of a picture that Pillow has opened as 8-bit RGB: of any mode, with transparent pixels laid on white."""

import cv2
import numpy as np
from PIL import Image, ImagePalette
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, COLORMAP, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION, TiffImageFile

BACKGROUND = (255, 255, 255)  # behind transparent pixels
_MAX_GREY = 65_535
BAND_PIXELS = 1 << 22  # converted at a time: the copies in between would take five times the memory of the picture
_WHITE_IS_ZERO, _SEPARATE_PLANES = 0, 2  # values of a TIFF's tags


def load_central_square(picture: Image.Image, data: bytes) -> np.ndarray:
    """Return the central square of a picture.

    Args:
        picture: The picture, whose pixels were not loaded yet.
        data: Its file; empty if it is not known.

    Returns:
        (side, side, 3) uint8.

    Raises:
        ValueError: The range of its grey values is unknown, or Pillow would decode it incorrectly.
    """
    white, white_is_zero = _MAX_GREY, False
    if isinstance(picture, TiffImageFile):
        white, white_is_zero = _check_tiff(picture)
    picture.load()
    transparent = _find_transparent_pixels(picture, data) if isinstance(picture, PngImageFile) else None
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    pixels = np.empty((side, side, 3), np.uint8)
    for start in range(0, side, rows := max(1, BAND_PIXELS // side)):
        stop = min(start + rows, side)
        band = picture.crop((left, top + start, left + side, top + stop))
        if band.mode.startswith("I"):
            pixels[start:stop] = _grey_to_rgb(np.asarray(band), white, white_is_zero=white_is_zero)
        else:
            pixels[start:stop] = _to_rgb(band)
    if transparent is not None:
        pixels[transparent[top : top + side, left : left + side]] = BACKGROUND
    return pixels


def _check_tiff(picture: TiffImageFile) -> tuple[int, bool]:
    """Correct the colour map of a TIFF, and refuse one that Pillow decodes incorrectly.

    Returns:
        The largest value of a pixel with more than 8 bits, and whether it is black and not white.
    """
    tags = picture.tag_v2
    bits = max(tags.get(BITSPERSAMPLE, (1,)))
    bands, is_raw = len(picture.getbands()), picture.info.get("compression") == "raw"
    # Of other planes Pillow makes wrong pixels, without an error.
    can_read_planes = bands >= 3 if bits == 8 else not is_raw
    if tags.get(PLANAR_CONFIGURATION) == _SEPARATE_PLANES and bands > 1 and not can_read_planes:
        raise ValueError(
            f"its {bands} channels of {bits} bits are in separate planes, which cannot be read: save it without planes"
        )
    if picture.palette and max(tags[COLORMAP]) < 256:  # should be up to 65535; some programs write 8 bits
        picture.palette = ImagePalette.raw("RGB;L", bytes(tags[COLORMAP]))
    return (4095 if bits == 12 else _MAX_GREY), tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO


def _find_transparent_pixels(picture: PngImageFile, data: bytes) -> np.ndarray | None:
    """Return which pixels of a PNG have the value that is transparent, if Pillow does not find them; else None.

    Pillow compares this value, which has as many bits as the file, with pixels that it has converted to 8 bits.

    Returns:
        (height, width) bool.
    """
    value, bits = picture.info.get("transparency"), data[24] if data else 8
    if value is None or picture.mode not in ("L", "I;16", "RGB") or bits == 8:
        return None
    del picture.info["transparency"]
    if picture.mode == "RGB":  # Pillow has dropped the lower 8 of 16 bits
        values = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))  # BGR or BGRA
        return np.asarray((values[:, :, 2::-1] == value).all(axis=2))
    if picture.mode == "L":
        value = (value & (1 << bits) - 1) * 255 // ((1 << bits) - 1)
    return np.asarray(np.asarray(picture) == value)


def _grey_to_rgb(grey: np.ndarray, white: int, *, white_is_zero: bool) -> np.ndarray:
    """Return grey values of more than 8 bits as RGB.

    Args:
        grey: (height, width) of any integers.
        white: The largest value.
        white_is_zero: Whether it is black, and 0 is white.
    """
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > white:
        raise ValueError(
            f"grey values must be from 0 to {white}; got {values.min()} to {values.max()}: save it with 16 bits"
        )
    if white_is_zero:
        values = white - values
    return np.repeat(((values * 255 + white // 2) // white).astype(np.uint8)[:, :, None], 3, axis=2)


def _to_rgb(picture: Image.Image) -> np.ndarray:
    """Return a picture with 8 bits a channel as (height, width, 3) uint8."""
    if picture.mode == "F":
        raise ValueError("it has floating-point grey values, whose range is unknown: save it with 8 or 16 bits")
    if picture.has_transparency_data:
        background = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        picture = Image.alpha_composite(background, picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))

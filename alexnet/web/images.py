"""Pictures in answers: activities and kernels as PNG, photographs as JPEG, all as data URIs."""

import base64
import io
import math

import numpy as np
from PIL import Image

from alexnet.data.prepare.encode import encode_jpeg

_BRIGHTEST = 99.5  # percentile of a layer's activities that is white


def jpeg_uri(picture: np.ndarray) -> str:
    """Return a (size, size, 3) uint8 RGB picture as the data URI of a JPEG."""
    return f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(picture)).decode()}"


def png_uri(picture: np.ndarray) -> str:
    """Return a picture as the data URI of a PNG.

    Args:
        picture: uint8: (height, width), (height, width, 2) with alpha, or (height, width, 4) RGBA.
    """
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def activity_tiles(activities: np.ndarray) -> np.ndarray:
    """Return a layer's activities as one grey picture: black is the lowest, or zero; white the highest.

    Args:
        activities: (maps, rows, columns) or (units,) float.

    Returns:
        (height, width, 2) uint8, grey and alpha: the maps row by row with a transparent pixel between them; units as a
        square, row by row.
    """
    maps = activities if activities.ndim == 3 else activities[:, None, None]
    gap = 1 if activities.ndim == 3 else 0
    low = min(0.0, float(maps.min()))
    high = float(np.percentile(maps, _BRIGHTEST))
    if high <= low:
        high = max(float(maps.max()), low + 1e-12)
    grey = np.round(255 * np.clip((maps - low) / (high - low), 0, 1)).astype(np.uint8)
    count, rows, columns = grey.shape
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    tiles = np.zeros((down * (rows + gap) - gap, across * (columns + gap) - gap, 2), np.uint8)
    for number, tile in enumerate(grey):
        top, left = (rows + gap) * (number // across), (columns + gap) * (number % across)
        tiles[top : top + rows, left : left + columns, 0] = tile
        tiles[top : top + rows, left : left + columns, 1] = 255
    return tiles

"""Draw a small labelled dataset: ten classes of shapes and textures that vary in everything but their class."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from alexnet.utils.files import atomic_replacement, explain_full_disk

_SHAPES = ("cross", "disc", "ring", "square", "star", "triangle")
_TEXTURES = ("checks", "dots", "stripes", "waves")
CLASSES = tuple(sorted(_SHAPES + _TEXTURES))

PICTURES_PER_CLASS = 150
MIN_SIDE, MAX_SIDE = 80, 160  # of a picture, in pixels
_OVERSAMPLING = 2  # masks are drawn larger by this factor and averaged, so that edges are smooth
_MIN_CONTRAST = 60  # between the colours of an object and its background, in grey levels from 0 to 255

_Points = np.ndarray  # (N, 2) x and y; a shape fills about the square from -1 to 1 before its transform


def _circle(radius: float = 1.0) -> _Points:
    """Return the points of a circle."""
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _star(points: int, inner: float) -> _Points:
    """Return the corners of a star; with inner = cos(pi / points) those of a regular polygon."""
    angles = math.pi * np.arange(2 * points) / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


def _cross(half_width: float) -> _Points:
    """Return the corners of a cross."""
    w = half_width
    corners = [
        (-w, -1),
        (w, -1),
        (w, -w),
        (1, -w),
        (1, w),
        (w, w),
        (w, 1),
        (-w, 1),
        (-w, w),
        (-1, w),
        (-1, -w),
        (-w, -w),
    ]
    return np.array(corners, float)


def _outline(class_name: str, rng: np.random.Generator) -> list[_Points]:
    """Return the polygons of a shape: the first is filled, the others are holes in it."""
    if class_name == "disc":
        return [_circle()]
    if class_name == "ring":
        return [_circle(), _circle(rng.uniform(0.4, 0.75))]
    if class_name == "square":
        return [_star(4, math.cos(math.pi / 4))]
    if class_name == "triangle":
        return [_star(3, math.cos(math.pi / 3))]
    if class_name == "star":
        return [_star(int(rng.integers(5, 8)), rng.uniform(0.4, 0.55))]
    return [_cross(rng.uniform(0.2, 0.36))]


def _pattern(class_name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return where a texture has ink, as bool, for coordinates in units of its period."""
    ink = rng.uniform(0.35, 0.65)  # share of a period
    if class_name == "stripes":
        return np.asarray(x % 1 < ink)
    if class_name == "waves":
        return np.asarray((x + rng.uniform(0.35, 0.5) * np.sin(math.tau * y / rng.uniform(1.8, 2.6))) % 1 < ink)
    if class_name == "checks":
        return np.asarray((x % 1 < 0.5) ^ (y % 1 < 0.5))
    shift = rng.choice([0.0, 0.5]) * (np.floor(y) % 2)  # dots in a square lattice, or with every other row shifted
    return np.asarray(np.hypot((x + shift) % 1 - 0.5, y % 1 - 0.5) < rng.uniform(0.2, 0.33))


def _random_transform(rng: np.random.Generator) -> np.ndarray:
    """Return a (2, 2) matrix that compresses by up to 30 % in a random direction and then rotates by a random angle."""
    angle, direction = rng.uniform(0, math.tau, 2)
    compression = np.diag([1.0, rng.uniform(0.7, 1.0)])

    def rotation(angle: float) -> np.ndarray:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    return np.asarray(rotation(angle) @ rotation(-direction) @ compression @ rotation(direction))


def _shape_mask(class_name: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw a shape at a random position, size and angle, almost within the central square that `prepare` crops."""
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    radius = min(width, height) * rng.uniform(0.3, 0.46)
    max_shift = min(width, height) / 2 - 0.9 * radius
    centre = np.array([width, height]) / 2 + rng.uniform(-max_shift, max_shift, 2)
    transform = radius * _random_transform(rng)
    for number, polygon in enumerate(_outline(class_name, rng)):
        draw.polygon([tuple(point) for point in polygon @ transform.T + centre], fill=0 if number else 255)
    return mask


def _texture_mask(class_name: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Cover the picture, or a large ellipse in it, with a texture."""
    periods = rng.uniform(2.6, 5.0)
    x, y = width * _coordinates(width), height * _coordinates(height)[:, None]
    to_u, to_v = (np.linalg.inv(_random_transform(rng)) * periods / min(width, height)).astype(np.float32)
    shift = rng.uniform(0, 1, 2).astype(np.float32)
    ink = _pattern(class_name, to_u[0] * x + to_u[1] * y + shift[0], to_v[0] * x + to_v[1] * y + shift[1], rng)
    if rng.random() < 0.5:
        axes = rng.uniform(0.36, 0.5, 2) * (width, height)
        ink &= (x / axes[0]) ** 2 + (y / axes[1]) ** 2 < 1
    return Image.fromarray(ink.astype(np.uint8) * 255)


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two (3,) RGB colours that differ clearly in brightness or hue."""
    while True:
        colours = rng.uniform(20, 235, (2, 3))
        greys = colours.mean(1, keepdims=True)
        first, second = greys + rng.uniform(0.2, 1, (2, 1)) * (colours - greys)
        if np.abs(first - second) @ (0.3, 0.5, 0.2) > _MIN_CONTRAST:
            return first, second


def _surface(colour: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return a (height, width, 3) float32 picture of one colour with a gradient and faint blotches."""
    x, y = _coordinates(width), _coordinates(height)[:, None]
    angle = rng.uniform(0, math.tau)
    distance = math.cos(angle) * x + math.sin(angle) * y
    gradient = rng.uniform(-45, 45, 3).astype(np.float32)
    blotches = Image.fromarray(rng.normal(0, 9, (5, 5)).astype(np.float32))
    blotches = blotches.resize((width, height), Image.Resampling.BICUBIC)
    surface: np.ndarray = colour.astype(np.float32) + distance[..., None] * gradient + np.asarray(blotches)[..., None]
    return surface


def _coordinates(side: int) -> np.ndarray:
    """Return the coordinates along a side, (side,) float32 from -0.5 to 0.5."""
    return np.linspace(-0.5, 0.5, side, dtype=np.float32)


def _clutter(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return the opacity of random thin lines and dots in the background, (height, width, 1) from 0 to 1."""
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    for _ in range(rng.integers(0, 4)):
        ends = rng.uniform((0, 0), (width, height), (2, 2))
        draw.line([tuple(end) for end in ends], fill=int(rng.integers(60, 200)), width=int(rng.integers(1, 3)))
    for _ in range(rng.integers(0, 5)):
        (x, y), r = rng.uniform((0, 0), (width, height)), rng.uniform(1, 4)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=int(rng.integers(60, 200)))
    return np.asarray(layer.filter(ImageFilter.BoxBlur(1)), np.float32)[..., None] / 255


def draw_picture(class_name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one picture of a class.

    Args:
        class_name: One of CLASSES.
        rng: Random generator of position, size, colours, light, background and noise.

    Returns:
        (height, width, 3) uint8 RGB, each side from MIN_SIDE to MAX_SIDE.
    """
    width, height = (int(side) for side in rng.integers(MIN_SIDE, MAX_SIDE + 1, 2))
    draw_mask = _shape_mask if class_name in _SHAPES else _texture_mask
    mask = draw_mask(class_name, _OVERSAMPLING * width, _OVERSAMPLING * height, rng).reduce(_OVERSAMPLING)
    opacity = np.asarray(mask, np.float32)[..., None] / 255
    object_colour, background_colour = _two_colours(rng)
    background = _surface(background_colour, width, height, rng)
    clutter = _clutter(width, height, rng)
    background += clutter * (rng.uniform(0, 255, 3).astype(np.float32) - background)
    if class_name in _SHAPES:
        shadow = _shadow(mask, rng)
        background *= 1 - rng.uniform(0, 0.45) * shadow
    picture: np.ndarray = background + opacity * (_surface(object_colour, width, height, rng) - background)
    lamp = rng.uniform(-0.5, 0.5, 2)
    distance = np.hypot(_coordinates(width) - lamp[0], _coordinates(height)[:, None] - lamp[1]).astype(np.float32)
    picture *= rng.uniform(0.75, 1.2) * (1 - rng.uniform(0, 0.4) * distance[..., None])
    picture += rng.uniform(2, 12) * rng.standard_normal(picture.shape, np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def _shadow(mask: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Return the soft shadow of a shape at a small random offset, (height, width, 1) float32 from 0 to 1."""
    blurred = mask.filter(ImageFilter.GaussianBlur(3))
    dx, dy = (int(offset) for offset in rng.integers(-4, 5, 2))
    shadow: np.ndarray = np.roll(np.asarray(blurred, np.float32), (dy, dx), (0, 1))[..., None] / 255
    return shadow


def draw_pictures(
    folder: str | Path, *, per_class: int = PICTURES_PER_CLASS, seed: int = 0, progress: bool = True
) -> Path:
    """Draw the dataset: a folder for each class; every third picture a PNG file, the others JPEG of varying quality.

    Each picture has its own random generator, so an interrupted call is resumed to the same pictures.

    Args:
        folder: The folder to write. It is created if there is none. Pictures in it are not drawn again.
        per_class: Number of pictures of each class.
        seed: Seed of all random choices.
        progress: Whether to show a progress bar if standard error is a terminal.

    Returns:
        The folder.

    Raises:
        OSError: The disk is full, over quota, read-only or fails.
    """
    folder = Path(folder)
    with explain_full_disk(folder):
        for class_name in CLASSES:
            (folder / class_name).mkdir(parents=True, exist_ok=True)
    pictures = [(class_name, number) for class_name in CLASSES for number in range(per_class)]
    for class_name, number in tqdm(pictures, "drawing", unit="picture", disable=None if progress else True):
        path = folder / class_name / f"{class_name}-{number:04d}.{'png' if number % 3 == 2 else 'jpg'}"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, CLASSES.index(class_name), number])
        picture = Image.fromarray(draw_picture(class_name, rng))
        file = io.BytesIO()
        if path.suffix == ".png":
            picture.save(file, "PNG")
        else:
            picture.save(file, "JPEG", quality=int(rng.integers(60, 96)))
        # `prepare` ignores hidden files. To flush 1,500 small files to the disk would take seconds.
        temporary = path.with_name(f".{path.name}.writing")
        with explain_full_disk(folder), atomic_replacement(path, temporary, flush=False):
            temporary.write_bytes(file.getvalue())
    return folder

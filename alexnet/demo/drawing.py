"""A small labelled picture set, drawn: ten classes of shapes and textures that vary in everything but their class."""

import io
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

SHAPES = ("cross", "disc", "ring", "square", "star", "triangle")
TEXTURES = ("checks", "dots", "stripes", "waves")
KINDS = tuple(sorted(SHAPES + TEXTURES))

PER_CLASS = 150
LEAST_SIDE, GREATEST_SIDE = 80, 160  # of a picture, in pixels
OVERSAMPLING = 2  # masks are drawn this much larger and averaged, so that edges are smooth
LEAST_CONTRAST = 60  # between the colours of a thing and of what is behind it, in grey levels of 0..255

Points = np.ndarray  # (N, 2) x and y; a shape fills about the square from -1 to 1 before it is posed


def _circle(radius: float = 1.0) -> Points:
    angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _star(points: int, inner: float) -> Points:
    """A star's corners; with inner = cos(pi / points) a regular polygon's."""
    angles = math.pi * np.arange(2 * points) / points
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


def _cross(half_width: float) -> Points:
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


def _outline(kind: str, rng: np.random.Generator) -> list[Points]:
    """A shape's polygons: the first is filled, the others are holes in it."""
    if kind == "disc":
        return [_circle()]
    if kind == "ring":
        return [_circle(), _circle(rng.uniform(0.4, 0.75))]
    if kind == "square":
        return [_star(4, math.cos(math.pi / 4))]
    if kind == "triangle":
        return [_star(3, math.cos(math.pi / 3))]
    if kind == "star":
        return [_star(int(rng.integers(5, 8)), rng.uniform(0.4, 0.55))]
    return [_cross(rng.uniform(0.2, 0.36))]


def _pattern(kind: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where a texture is inked: bool, for coordinates in periods."""
    ink = rng.uniform(0.35, 0.65)
    if kind == "stripes":
        return np.asarray(x % 1 < ink)
    if kind == "waves":
        return np.asarray((x + rng.uniform(0.35, 0.5) * np.sin(math.tau * y / rng.uniform(1.8, 2.6))) % 1 < ink)
    if kind == "checks":
        return np.asarray((x % 1 < 0.5) ^ (y % 1 < 0.5))
    shift = rng.choice([0.0, 0.5]) * (np.floor(y) % 2)  # dots: in a square lattice, or every other row shifted
    return np.asarray(np.hypot((x + shift) % 1 - 0.5, y % 1 - 0.5) < rng.uniform(0.2, 0.33))


def _pose(rng: np.random.Generator) -> np.ndarray:
    """A (2, 2) turn by any angle, after a squeeze by up to 30 % along another."""
    turn, along = rng.uniform(0, math.tau, 2)
    squeeze = np.diag([1.0, rng.uniform(0.7, 1.0)])

    def rotation(angle: float) -> np.ndarray:
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])

    return np.asarray(rotation(turn) @ rotation(-along) @ squeeze @ rotation(along))


def _shape_mask(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw a shape at a random place, size and turn, within the centre square that `prepare` keeps, or nearly."""
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    radius = min(width, height) * rng.uniform(0.3, 0.46)
    room = min(width, height) / 2 - 0.9 * radius
    centre = np.array([width, height]) / 2 + rng.uniform(-room, room, 2)
    pose = radius * _pose(rng)
    for number, polygon in enumerate(_outline(kind, rng)):
        pen.polygon([tuple(point) for point in polygon @ pose.T + centre], fill=0 if number else 255)
    return mask


def _texture_mask(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Cover the picture, or a large ellipse in it, with a texture."""
    periods = rng.uniform(2.6, 5.0)
    x, y = width * _across(width), height * _across(height)[:, None]
    along, down = (np.linalg.inv(_pose(rng)) * periods / min(width, height)).astype(np.float32)
    shift = rng.uniform(0, 1, 2).astype(np.float32)
    inked = _pattern(kind, along[0] * x + along[1] * y + shift[0], down[0] * x + down[1] * y + shift[1], rng)
    if rng.random() < 0.5:
        axes = rng.uniform(0.36, 0.5, 2) * (width, height)
        inked &= (x / axes[0]) ** 2 + (y / axes[1]) ** 2 < 1
    return Image.fromarray(inked.astype(np.uint8) * 255)


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB colours that differ enough in brightness or in hue to be told apart."""
    while True:
        colours = rng.uniform(20, 235, (2, 3))
        greys = colours.mean(1, keepdims=True)
        one, other = greys + rng.uniform(0.2, 1, (2, 1)) * (colours - greys)
        if np.abs(one - other) @ (0.3, 0.5, 0.2) > LEAST_CONTRAST:
            return one, other


def _surface(colour: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A (height, width, 3) float picture of one colour that drifts from side to side and is a little blotchy."""
    x, y = _across(width), _across(height)[:, None]
    angle = rng.uniform(0, math.tau)
    along = math.cos(angle) * x + math.sin(angle) * y
    drift = rng.uniform(-45, 45, 3).astype(np.float32)
    blotches = Image.fromarray(rng.normal(0, 9, (5, 5)).astype(np.float32))
    blotches = blotches.resize((width, height), Image.Resampling.BICUBIC)
    surface: np.ndarray = colour.astype(np.float32) + along[..., None] * drift + np.asarray(blotches)[..., None]
    return surface


def _across(side: int) -> np.ndarray:
    """Places along a side, (side,) float32 from -0.5 to 0.5."""
    return np.linspace(-0.5, 0.5, side, dtype=np.float32)


def _clutter(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A (height, width, 1) share, 0..1, of the background that thin strokes and specks cover."""
    layer = Image.new("L", (width, height))
    pen = ImageDraw.Draw(layer)
    for _ in range(rng.integers(0, 4)):
        ends = rng.uniform((0, 0), (width, height), (2, 2))
        pen.line([tuple(end) for end in ends], fill=int(rng.integers(60, 200)), width=int(rng.integers(1, 3)))
    for _ in range(rng.integers(0, 5)):
        (x, y), r = rng.uniform((0, 0), (width, height)), rng.uniform(1, 4)
        pen.ellipse([x - r, y - r, x + r, y + r], fill=int(rng.integers(60, 200)))
    return np.asarray(layer.filter(ImageFilter.BoxBlur(1)), np.float32)[..., None] / 255


def draw_picture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one picture of a class.

    Args:
        kind: One of KINDS.
        rng: Source of pose, size, colours, light, background and noise.

    Returns:
        (height, width, 3) uint8 RGB, either side from LEAST_SIDE to GREATEST_SIDE.
    """
    width, height = (int(side) for side in rng.integers(LEAST_SIDE, GREATEST_SIDE + 1, 2))
    make = _shape_mask if kind in SHAPES else _texture_mask
    mask = make(kind, OVERSAMPLING * width, OVERSAMPLING * height, rng).reduce(OVERSAMPLING)
    share = np.asarray(mask, np.float32)[..., None] / 255
    thing_colour, ground_colour = _two_colours(rng)
    ground = _surface(ground_colour, width, height, rng)
    clutter = _clutter(width, height, rng)
    ground += clutter * (rng.uniform(0, 255, 3).astype(np.float32) - ground)
    if kind in SHAPES:  # a soft shadow, to one side
        soft = mask.filter(ImageFilter.GaussianBlur(3))
        dx, dy = (int(step) for step in rng.integers(-4, 5, 2))
        shade = np.roll(np.asarray(soft, np.float32), (dy, dx), (0, 1))[..., None] / 255
        ground *= 1 - rng.uniform(0, 0.45) * shade
    picture: np.ndarray = ground + share * (_surface(thing_colour, width, height, rng) - ground)
    lamp = rng.uniform(-0.5, 0.5, 2)
    distance = np.hypot(_across(width) - lamp[0], _across(height)[:, None] - lamp[1]).astype(np.float32)
    picture *= rng.uniform(0.75, 1.2) * (1 - rng.uniform(0, 0.4) * distance[..., None])
    picture += rng.uniform(2, 12) * rng.standard_normal(picture.shape, np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def draw_pictures(folder: str | Path, *, per_class: int = PER_CLASS, seed: int = 0, progress: bool = True) -> Path:
    """Draw the set: a folder per class; every third picture a PNG file, the others JPEG of varied quality.

    Each picture has a random generator of its own, so that a set begun and stopped goes on to the same pictures.

    Args:
        folder: Where; made if it is not there. Pictures that are there already are left as they are.
        per_class: Pictures of each class.
        seed: Of all that varies.
        progress: Whether to show a bar on standard error when that is a terminal.

    Returns:
        The folder.
    """
    folder = Path(folder)
    jobs = [(kind, number) for kind in KINDS for number in range(per_class)]
    for kind, number in tqdm(jobs, "drawing", unit="picture", disable=not progress or not sys.stderr.isatty()):
        path = folder / kind / f"{kind}-{number:04d}.{'png' if number % 3 == 2 else 'jpg'}"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, KINDS.index(kind), number])
        picture = Image.fromarray(draw_picture(kind, rng))
        file = io.BytesIO()
        if path.suffix == ".png":
            picture.save(file, "PNG")
        else:
            picture.save(file, "JPEG", quality=int(rng.integers(60, 96)))
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.writing")
        beside.write_bytes(file.getvalue())
        beside.replace(path)
    return folder

"""Decode and resize a picture: the filter against a plain area average, and all unusual formats (section 3)."""

import gzip
import importlib.util
import io
import struct
import threading
import zlib
from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from alexnet.data.prepare import colour_sums as sums_module
from alexnet.data.prepare import resize as resize_module
from alexnet.data.prepare.central_square import resize_central_square
from alexnet.data.prepare.colour_sums import colour_sums
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.encode import JPEG_QUALITY, encode_jpeg
from alexnet.data.prepare.pixels import BACKGROUND
from alexnet.data.prepare.resize import area_weights


def area_average(picture: np.ndarray, size: int) -> np.ndarray:
    """Average by a plain method: with every pixel repeated `size` times, an output pixel is a mean of full blocks."""
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = picture[top : top + side, left : left + side].astype(np.float64)
    rows = square.repeat(size, axis=0).reshape(size, side, side, -1).mean(axis=1)
    return rows.repeat(size, axis=1).reshape(size, size, side, -1).mean(axis=2)


def draw_photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a picture like a photograph: smooth, with edges and a little noise; (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(9, 40) + rng.uniform(0, 6)) + np.cos(y / rng.uniform(9, 40)) for _ in range(3)]
    picture = 128 + 45 * np.stack(waves, axis=2) + rng.normal(0, 3, (height, width, 3))
    picture[height // 3 : height // 2, width // 4 : width // 2] = rng.integers(0, 256, 3)
    return picture.clip(0, 255).astype(np.uint8)


def encode_file(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """Return a picture as the bytes of a file."""
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, kind, **options)
    return file.getvalue()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(0, 9))
def test_shrinking_is_the_area_average(height: int, width: int, size: int, seed: int) -> None:
    size = min(size, height, width)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert np.abs(read_image(encode_file(picture), size) - area_average(picture, size)).max() <= 0.501


def test_enlarging_is_linear_between_pixel_centres() -> None:
    picture = draw_photograph(11, 15)
    expected = np.asarray(Image.fromarray(picture[:, 2:13]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(read_image(encode_file(picture), 32).astype(int) - expected).max() <= 1
    assert (read_image(encode_file(picture[:1, :1]), 5) == picture[0, 0]).all()


@given(st.integers(1, 700), st.integers(1, 300))
def test_weights_sum_to_one_within_the_picture(side: int, size: int) -> None:
    first, weights = area_weights(side, size)
    assert np.allclose(weights.sum(axis=1), 1)
    assert first.min() >= 0
    assert first.max() + weights.shape[1] <= side


def test_a_square_of_the_same_size_keeps_its_pixels() -> None:
    picture = draw_photograph(30, 50)
    assert (read_image(encode_file(picture), 30) == picture[:, 10:40]).all()


@pytest.mark.parametrize("times", [1, 1.7, 3.9, 4, 4.7, 8.3, 17.2])
def test_jpeg_divided_in_the_dct_stays_near_the_area_average(times: float) -> None:
    picture = draw_photograph(round(32 * times), round(45 * times))
    data = encode_file(picture, "JPEG", quality=95)
    decoded = simplejpeg.decode_jpeg(data, "RGB")
    difference = np.abs(read_image(data, 32) - area_average(decoded, 32))
    assert difference.mean() < 1.5  # grey levels
    if times < 4:  # the DCT does not divide it
        assert difference.max() <= 0.501


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 30), st.integers(1, 20), st.sampled_from([2, 4, 8]), st.integers(0, 9))
def test_a_divided_picture_is_cropped_to_the_same_square(
    side: int, more: int, size: int, divisor: int, seed: int
) -> None:
    # The blocks that are divided are constant. So dividing them first loses nothing, wherever the square begins.
    size = min(size, side)
    small = np.random.default_rng(seed).integers(
        0, 256, (-(-side // divisor), -(-(side + more) // divisor), 3), np.uint8
    )
    full = small.repeat(divisor, axis=0).repeat(divisor, axis=1)[:side, : side + more]
    result = resize_central_square(small, size, divisor=divisor, full_size=(side, side + more))
    assert np.abs(result - area_average(full, size)).max() <= 0.501


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encode_file(draw_photograph(40, 60), kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    if kind == "TIFF":  # Pillow has applied it while loading
        expected = np.asarray(Image.open(io.BytesIO(data)))
    top, left = (expected.shape[0] - 40) // 2, (expected.shape[1] - 40) // 2
    result = read_image(data, 40).astype(int)
    assert np.abs(result - expected[top : top + 40, left : left + 40]).max() <= (3 if kind == "JPEG" else 0)


def test_a_damaged_exif_block_does_not_lose_the_picture() -> None:
    data = encode_file(draw_photograph(40, 40), "JPEG")
    block = b"Exif\0\0MM\0\x2a" + b"\xff" * 20
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert read_image(data, 40).shape == (40, 40, 3)


def test_grey_palette_and_one_bit_pictures_become_rgb() -> None:
    picture = Image.fromarray(draw_photograph(40, 40))
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 95})):
        result = read_image(encode_file(picture.convert("L"), kind, **options), 40)
        assert np.abs(result.astype(int) - np.asarray(picture.convert("L"))[:, :, None]).max() <= (
            8 if kind == "JPEG" else 0
        )
    palette = picture.quantize(16)
    assert (read_image(encode_file(palette), 40) == np.asarray(palette.convert("RGB"))).all()
    assert set(np.unique(read_image(encode_file(picture.convert("1")), 40))) <= {0, 255}


def test_sixteen_bits_become_eight() -> None:
    values = np.linspace(0, 65535, 1600).astype(np.uint16).reshape(40, 40)
    expected = np.round(values / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF", "PPM"):
        assert (read_image(encode_file(values, kind), 40) == expected[:, :, None]).all()


def png16(picture: np.ndarray) -> bytes:
    """Return the bytes of a PNG with 16 bits a channel, which Pillow can read but not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, _ = picture.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in picture)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_becomes_eight() -> None:
    picture = draw_photograph(20, 20)
    assert np.abs(read_image(png16(picture.astype(np.uint16) * 257), 20).astype(int) - picture).max() <= 1


def test_transparent_pixels_are_laid_on_white() -> None:
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:, 4:] = (200, 100, 50, 255)
    picture[:, 2:4] = (0, 0, 0, 128)
    expected = np.full((8, 8, 3), BACKGROUND, np.uint8)
    expected[:, 4:] = (200, 100, 50)
    expected[:, 2:4] = 127
    assert np.abs(read_image(encode_file(picture), 8).astype(int) - expected).max() <= 1
    grey = Image.fromarray(picture).convert("LA")
    assert (read_image(encode_file(grey), 8)[:, :2] == 255).all()
    keyed = Image.new("P", (4, 4), 1)
    keyed.putpalette([0, 0, 0, 10, 20, 30])
    assert (read_image(encode_file(keyed, transparency=1), 4) == 255).all()


def test_cmyk_is_converted_without_a_profile() -> None:
    cmyk = Image.fromarray(draw_photograph(40, 40)).convert("CMYK")
    expected = np.asarray(cmyk.convert("RGB")).astype(int)
    assert np.abs(read_image(encode_file(cmyk, "TIFF"), 40) - expected).max() == 0
    jpeg = encode_file(cmyk, "JPEG", quality=98)  # stored inverted, as Adobe does
    assert b"Adobe" in jpeg
    assert np.abs(read_image(jpeg, 40) - expected).mean() < 3


def test_an_animation_is_its_first_picture() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    data = encode_file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (read_image(data, 9) == (255, 0, 0)).all()


def test_a_picture_that_is_compressed_once_more_is_read() -> None:
    """One of ILSVRC-2010's pictures, n02487347_1956.JPEG, is such a file."""
    data = encode_file(draw_photograph(60, 80), "JPEG")
    assert np.array_equal(read_image(gzip.compress(data), 32), read_image(data, 32))
    with pytest.raises(ValueError, match="gzip file that is cut off"):
        read_image(gzip.compress(data)[:-20], 32)
    with pytest.raises(ValueError, match="damaged gzip file"):
        read_image(gzip.compress(data)[:20] + bytes(40), 32)


def test_progressive_jpeg_and_paths_are_read(tmp_path: Path) -> None:
    picture = draw_photograph(40, 50)
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_file(picture, "JPEG", quality=95, progressive=True))
    assert np.abs(read_image(path, 40).astype(int) - picture[:, 5:45]).mean() < 4
    assert (read_image(str(path), 40) == read_image(path.read_bytes(), 40)).all()


def test_files_that_are_not_pictures_are_refused() -> None:
    jpeg, png = encode_file(draw_photograph(60, 60), "JPEG"), encode_file(draw_photograph(60, 60))
    for data in (b"", b"hello", jpeg[: len(jpeg) // 2], png[: len(png) // 2], jpeg[:20], b"\xff\xd8\xff", b"GIF89a"):
        with pytest.raises(ValueError, match=r"\w") as caught:
            read_image(data, 32)
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)


def test_missing_pixels_before_the_end_marker_are_damage() -> None:
    jpeg = encode_file(draw_photograph(90, 90), "JPEG")
    with pytest.raises(ValueError, match="premature end"):
        read_image(jpeg[: len(jpeg) * 2 // 3] + b"\xff\xd9", 32)


def test_padding_between_jpeg_segments_is_harmless() -> None:
    jpeg = encode_file(draw_photograph(60, 60), "JPEG")
    start = jpeg.index(b"\xff\xdb")
    assert (read_image(jpeg[:start] + b"\0\0\0" + jpeg[start:], 60) == read_image(jpeg, 60)).all()


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    png = bytearray(encode_file(np.zeros((4, 4, 3), np.uint8)))
    png[16:24] = struct.pack(">II", 12000, 12000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    with pytest.raises(ValueError, match="12000x12000 pixels"):
        read_image(bytes(png), 32)
    jpeg = bytearray(encode_file(np.zeros((16, 16, 3), np.uint8), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 60000, 60000)
    with pytest.raises(ValueError, match="60000x60000 pixels"):
        read_image(bytes(jpeg), 32)


def test_the_error_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.jpg: not a readable picture"):
        read_image(path)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="size must be at least 1"):
        read_image(path, 0)


def test_threads_read_the_same_pixels() -> None:
    files = [encode_file(draw_photograph(80, 100, seed), "JPEG") for seed in range(8)]
    expected = [read_image(file, 64) for file in files]
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(i for _ in range(5) for i, file in enumerate(files) if (read_image(file, 64) != expected[i]).any())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_picture_stored_as_jpeg_is_close() -> None:
    picture = draw_photograph(64, 64)
    difference = np.abs(simplejpeg.decode_jpeg(encode_jpeg(picture)).astype(int) - picture)
    assert JPEG_QUALITY == 85
    assert difference.mean() < 3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 11), st.integers(1, 9), st.integers(0, 9))
def test_colour_sums_are_exact(count: int, size: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    sums, products = colour_sums(images)
    values = images.reshape(-1, 3).astype(np.int64)
    assert (sums == images.sum(axis=0)).all()
    assert (products == values.T @ values).all()


def import_copy(module: ModuleType) -> ModuleType:
    """Import a second copy of a module."""
    spec = importlib.util.spec_from_file_location("copy", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_loops_whose_machine_code_cannot_be_cached_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real_njit, refused = numba.njit, []

    def njit(*args: object, cache: bool = False, **options: object) -> object:
        if cache:
            refused.append(options)
            raise RuntimeError("cannot cache function: no locator available")
        return real_njit(*args, **options)

    monkeypatch.setattr(numba, "njit", njit)
    uncached_resize, uncached_sums = import_copy(resize_module), import_copy(sums_module)
    assert len(refused) == 12  # each loop has tried to be cached
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    results = []
    for resize, sums in ((resize_module, sums_module), (uncached_resize, uncached_sums)):
        out = np.empty((7, 21), np.uint8)
        weights = resize.area_weights(20, 7)
        resize.resample(image.reshape(20, 60), 0, 0, *weights, *weights, out)
        results.append((out, *sums.colour_sums(image[None])))
    for cached, uncached in zip(*results, strict=True):
        assert (cached == uncached).all()

"""Picture files as people really have them: unusual headers, damaged metadata, rare kinds of pixels, many pixels."""

import io
import random
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image

from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.jpeg_segments import read_segments, remove_harmless_faults

SIDE = 64
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE]
PIXELS = np.stack([COLUMNS * 4, ROWS * 4, (COLUMNS + ROWS) * 2], 2).astype(np.uint8)
TURNED = Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns it back
XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def encode_jpeg(picture: Image.Image | None = None, **options: object) -> bytes:
    """Return a JPEG of the test's pixels or of another picture."""
    return encode(picture or Image.fromarray(PIXELS), "JPEG", quality=95, **options)


def jpeg_segment(marker: int, contents: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(contents) + 2) + contents


def png_chunk(name: bytes, contents: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(contents)) + name + contents + struct.pack(">I", zlib.crc32(name + contents))


def write_png(rows: np.ndarray, bits: int, colour: int, transparent: Sequence[int]) -> bytes:
    """Return a PNG with a transparent colour, written by hand.

    Args:
        rows: (height, width * channels) of values with this number of bits.
        bits: Bits of a value.
        colour: The colour type: 0 for grey, 2 for RGB.
        transparent: The value of each channel that is transparent.
    """
    height, values = rows.shape
    head = struct.pack(">IIBBBBB", values // (3 if colour else 1), height, bits, colour, 0, 0, 0)
    body = b"".join(b"\0" + row for row in pack_rows(rows, bits, ">"))
    chunks = ((b"IHDR", head), (b"tRNS", np.array(transparent, ">u2").tobytes()), (b"IDAT", zlib.compress(body)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))


def pack_rows(rows: np.ndarray, bits: int, order: str) -> list[bytes]:
    """Return each row of values as bytes; `order` is that of the bytes of a value, "<" or ">"."""
    if bits >= 8:
        return [row.astype(f"{order}u{bits // 8}" if bits % 8 == 0 else np.uint8).tobytes() for row in rows]
    return [np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).tobytes() for row in rows]


def write_tiff(channels: np.ndarray, bits: int, photometric: int, *, planes: bool = False, **more: object) -> bytes:
    """Return a TIFF written by hand, little-endian.

    Args:
        channels: (height, width, channels) of values with this number of bits.
        bits: Bits of a value.
        photometric: 0 for grey whose 0 is white, 1 for grey, 2 for RGB, 3 for a colour map.
        planes: Whether each channel has a plane of its own.
        more: `compressed` by deflate; `colour_map`, its values; `tags`, further ones as type and values.
    """
    height, width, count = channels.shape
    arrays = [channels[:, :, [index]] for index in range(count)] if planes else [channels]
    strips = [pack_values(array, bits) for array in arrays]
    if more.get("compressed"):
        strips = [zlib.compress(strip) for strip in strips]
    file = bytearray(b"II*\0") + bytes(4)
    offsets = []
    for strip in strips:
        offsets.append(len(file))
        file += strip
    tags: dict[int, tuple[int, list[int]]] = {256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * count)}
    tags |= {259: (3, [8 if more.get("compressed") else 1]), 262: (3, [photometric]), 277: (3, [count])}
    tags |= {278: (3, [height]), 284: (3, [2 if planes else 1]), 273: (4, offsets), 279: (4, list(map(len, strips)))}
    if colour_map := more.get("colour_map"):
        tags[320] = (3, list(colour_map))  # type: ignore[call-overload]
    extra = more.get("tags")
    return finish_tiff(file, tags | (dict(extra) if isinstance(extra, Mapping) else {}))


def pack_values(channels: np.ndarray, bits: int) -> bytes:
    """Return values of 8, 12 or 16 bits as bytes; two of 12 bits share three bytes."""
    if bits != 12:
        return channels.astype(f"<u{bits // 8}").tobytes()
    return np.packbits((channels.reshape(-1, 1) >> np.arange(11, -1, -1)) & 1).tobytes()


def finish_tiff(file: bytearray, tags: Mapping[int, tuple[int, Sequence[int]]]) -> bytes:
    """Return a TIFF whose strips are in `file` with its directory after them."""
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        contents = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(contents) > 4:
            start = len(file)
            file += contents
            contents = struct.pack("<I", start)
        entries.append(struct.pack("<HHI", tag, kind, len(values)) + contents.ljust(4, b"\0"))
    file[4:8] = struct.pack("<I", len(file))
    return bytes(file) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def difference(data: bytes, expected: np.ndarray = PIXELS) -> float:
    """Return the mean difference of a file's pixels from the expected ones, in grey levels."""
    return float(np.abs(read_image(data, SIDE).astype(int) - expected).mean())


def with_headers(data: bytes, *segments: bytes) -> bytes:
    """Return a JPEG with further segments at its start."""
    return data[:2] + b"".join(segments) + data[2:]


def change_header(data: bytes, marker: int, position: int, contents: bytes) -> bytes:
    """Return a JPEG with other bytes in its first segment of a kind; a negative position is from its end."""
    start, stop = next((start, stop) for found, start, stop in read_segments(data) if found == marker)
    place = (start if position >= 0 else stop) + position
    return data[:place] + contents + data[place + len(contents) :]


WHOLE_JPEGS = {
    "SOS parameters of zero": lambda data: change_header(data, 0xDA, -3, bytes(3)),
    "half a colour profile": lambda data: with_headers(data, jpeg_segment(0xE2, b"ICC_PROFILE\0\x01\x02" + bytes(20))),
    "JFIF 2.01": lambda data: change_header(data, 0xE0, 5, b"\x02\x01"),
    "JFIF 0.00": lambda data: change_header(data, 0xE0, 5, b"\0\0"),
    "an unknown transform of Adobe": lambda data: with_headers(
        data, jpeg_segment(0xEE, b"Adobe\0\x64" + bytes(4) + b"\7")
    ),
    "padding between segments": lambda data: data.replace(b"\xff\xdb", bytes(3) + b"\xff\xdb", 1),
    "zeros before the end": lambda data: data[:-2] + bytes(5) + data[-2:],
    "no end marker": lambda data: data[:-2],
    "bytes after the end": lambda data: data + b"more" * 10,
    "several of them": lambda data: change_header(
        data[:-2].replace(b"\xff\xdb", bytes(9) + b"\xff\xdb", 1), 0xE0, 5, b"\x02\x01"
    ),
}


@pytest.mark.parametrize("kind", WHOLE_JPEGS)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_with_all_pixels_is_read_whatever_its_headers_say(kind: str, options: dict[str, object]) -> None:
    data = encode_jpeg(**options)
    if options.get("progressive") and kind.startswith("SOS"):
        pytest.skip("in a progressive JPEG these parameters decide the pixels")
    assert (read_image(WHOLE_JPEGS[kind](data), SIDE) == read_image(data, SIDE)).all()


def test_padding_of_any_length_is_harmless() -> None:
    for quality in (30, 60, 75, 90, 95):
        data = encode(Image.fromarray(PIXELS).convert("L"), "JPEG", quality=quality)
        pixels = read_image(data, SIDE)
        for length in (1, 16, 31, 64, 127, 128, 500, 513, 4096):
            assert (read_image(data[:-2] + bytes(length) + data[-2:], SIDE) == pixels).all()


def test_a_file_of_a_known_format_is_not_called_unknown() -> None:
    deep = write_tiff((COLUMNS * 64)[:, :, None], 12, 0)  # Pillow has no TIFF of 12 bits whose 0 is white
    for kind, data in (("TIFF", deep), ("GIF", b"GIF89a"), ("JPEG", b"\xff\xd8\xff\xd9")):
        with pytest.raises(ValueError, match=f"a {kind} that is damaged or of a rare kind: copy it again"):
            read_image(data, SIDE)


def test_cmyk_jpeg_with_unusual_headers_is_read_and_a_damaged_one_is_not() -> None:
    cmyk = encode_jpeg(Image.fromarray(PIXELS).convert("CMYK"), restart_marker_blocks=2)
    unusual = with_headers(cmyk, jpeg_segment(0xE2, b"ICC_PROFILE\0\x01\x02" + bytes(20)), bytes(3))
    assert (read_image(unusual, SIDE) == read_image(cmyk, SIDE)).all()
    with pytest.raises(ValueError, match="pixels are missing"):
        read_image(lose_bytes_before_restart(cmyk), SIDE)


def lose_bytes_before_restart(data: bytes) -> bytes:
    """Return a JPEG with restart markers, where bytes of one interval are replaced by those of another one."""
    first, second, third = (data.index(bytes((0xFF, marker))) for marker in (0xD0, 0xD1, 0xD2))
    return data[:first] + data[first + 2 : second] + data[first:second] + data[second:third] + data[third:]


def test_damage_inside_a_scan_is_found() -> None:
    restarts = encode_jpeg(restart_marker_blocks=2)
    with pytest.raises(ValueError, match="extraneous bytes before marker 0xd0"):
        read_image(lose_bytes_before_restart(restarts), SIDE)
    plain = encode_jpeg()
    for cut in (3, 40, 400):
        with pytest.raises(ValueError, match="premature end"):
            read_image(plain[: -2 - cut] + plain[-2:], SIDE)
        with pytest.raises(ValueError, match="premature end"):
            read_image(plain[: -2 - cut], SIDE)
    # Surplus data after the last pixel: the decoder has lost its place.
    with pytest.raises(ValueError, match="extraneous bytes before marker 0xd9"):
        read_image(plain[:-2] + b"\x55\x12" * 4 + plain[-2:], SIDE)
    # A harmless fault in a header does not hide the damage behind it: libjpeg tells of the first fault only.
    hidden = change_header(plain[: len(plain) * 2 // 3], 0xE0, 5, b"\x02\x01")
    with pytest.raises(ValueError, match="premature end"):
        read_image(hidden, SIDE)


def test_mending_headers_survives_any_bytes() -> None:
    data, generator = encode_jpeg(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data[: generator.randrange(2, len(data))])
        for _ in range(3):
            damaged[generator.randrange(2, len(damaged)) if len(damaged) > 2 else 1] = generator.randrange(256)
        assert remove_harmless_faults(bytes(damaged)).endswith(b"\xff\xd9")


def exif_block(orientation: int, kind: int = 3) -> bytes:
    """Return an EXIF block whose orientation has this TIFF type."""
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, kind, 1, orientation, 0) + bytes(4)


DAMAGED_EXIF = {
    "no TIFF": b"no tiff header",
    "cut": exif_block(6)[:12],
    "orientation of type UNDEFINED": exif_block(6, kind=7),
    "orientation 0": exif_block(0),
    "orientation 9": exif_block(9),
    "a directory elsewhere": b"MM\0\x2a" + b"\xff" * 20,
}


@pytest.mark.parametrize("kind", ["JPEG", "CMYK JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("fault", DAMAGED_EXIF)
def test_damaged_exif_never_costs_the_picture(kind: str, fault: str) -> None:
    upright = Image.fromarray(PIXELS)
    picture = upright.convert("CMYK") if kind.startswith("CMYK") else upright
    options = {"PNG": {}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}.get(kind, {"quality": 95})
    format_name = kind.rpartition(" ")[2]
    plain = encode(picture, format_name, **options)
    if format_name == "PNG":
        damaged = plain[:33] + png_chunk(b"eXIf", DAMAGED_EXIF[fault]) + plain[33:]
    elif format_name == "JPEG":
        damaged = with_headers(plain, jpeg_segment(0xE1, b"Exif\0\0" + DAMAGED_EXIF[fault]))
    elif format_name == "AVIF":
        if fault != "no TIFF":
            pytest.skip("Pillow writes an AVIF with readable EXIF only")
        described = Image.Exif()
        described[0x010E] = "a description"
        damaged = encode(picture, "AVIF", exif=described, quality=95).replace(b"MM\0*", b"no T")
    else:
        damaged = replace_exif(encode(picture, "WEBP", exif=exif_block(1), **options), DAMAGED_EXIF[fault])
        assert damaged != plain
    assert (read_image(damaged, SIDE) == read_image(plain, SIDE)).all()


def replace_exif(data: bytes, block: bytes) -> bytes:
    """Return a file with another EXIF block in the place of `exif_block(1)`."""
    place, length = data.index(exif_block(1)), len(exif_block(1))
    return data[:place] + block[:length].ljust(length, b"\0") + data[place + length :]


def test_damaged_exif_of_a_tiff_does_not_cost_the_picture() -> None:
    for tags in ({34665: (4, [0xFFFFFFF0])}, {34665: (3, [7, 8, 9])}, {34853: (4, [5])}, {274: (3, [9])}):
        assert difference(write_tiff(PIXELS, 8, 2, tags=tags)) == 0


def test_a_damaged_description_does_not_cost_a_png() -> None:
    plain = encode(Image.fromarray(PIXELS), "PNG")
    wrong_sum = png_chunk(b"tEXt", b"a\0b")[:-1] + b"?"
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 21)))
    for chunk in (wrong_sum, bomb, png_chunk(b"iCCP", b"profile\0\0not compressed")):
        assert difference(plain[:33] + chunk + plain[33:]) == 0


def test_the_orientation_is_in_exif_or_else_in_xmp() -> None:
    """One rule for all formats; XMP has no say where EXIF has an orientation."""
    exif, far = jpeg_segment(0xE1, b"Exif\0\0" + exif_block(6)), jpeg_segment(0xED, b"z" * 65000) * 3
    unknown = jpeg_segment(0xE1, b"Exif\0\0" + exif_block(0))
    xmp = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    upside_down = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.replace(b"6", b"3"))
    for picture in (TURNED, TURNED.convert("CMYK")):
        plain = encode_jpeg(picture)
        expected = np.rot90(read_image(plain, SIDE), -1)
        for segments in ((exif,), (far, exif), (xmp,), (far, xmp), (unknown, xmp), (upside_down, exif)):
            assert (read_image(with_headers(plain, *segments), SIDE) == expected).all(), segments[0][:40]
    png = encode(TURNED, "PNG")
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    for chunk in (png_chunk(b"eXIf", exif_block(6)), text, png_chunk(b"eXIf", exif_block(0)) + text):
        assert difference(png[:33] + chunk + png[33:]) == 0
    for kind in ("WEBP", "AVIF"):
        options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": "4:4:4"}
        for metadata in ({"exif": exif_block(6)}, {"xmp": XMP}, {"exif": exif_block(0), "xmp": XMP}):
            if kind == "AVIF" and metadata.get("exif") == exif_block(0):
                continue  # Pillow's writer makes its own orientation of it
            assert difference(encode(TURNED, kind, **options, **metadata)) < 1, (kind, metadata)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white(bits: int) -> None:
    most = (1 << bits) - 1
    grey = np.round(COLUMNS / (SIDE - 1) * most).astype(int)
    grey[20:40, 20:40] = hidden = most // 3
    expected = np.where(grey == hidden, 255, np.round(grey / most * 255))[:, :, None].repeat(3, axis=2)
    assert difference(write_png(grey, bits, 0, [hidden]), expected) <= 0.5
    wide = np.hstack([grey, grey[:, :10]])  # the square is cut out of a wider picture
    assert (
        difference(
            write_png(wide, bits, 0, [hidden]), np.roll(np.hstack([expected, expected[:, :10]]), -5, 1)[:, :SIDE]
        )
        <= 0.5
    )


def test_the_transparent_colour_of_a_16_bit_png_is_white() -> None:
    colours = PIXELS.astype(int) * 257
    colours[20:40, 20:40] = hidden = (1000, 2000, 3000)
    colours[:10, :10] = (1001, 2000, 3000)  # differs in the lower bits only
    expected = np.where((colours == hidden).all(axis=2)[:, :, None], 255, colours // 256)
    assert difference(write_png(colours.reshape(SIDE, -1), 16, 2, hidden), expected) <= 0.01


GREY = (COLUMNS / (SIDE - 1))[:, :, None]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("bits", "photometric"), [(8, 0), (8, 1), (12, 1), (16, 0), (16, 1)])
def test_grey_tiff_of_any_depth(bits: int, photometric: int, compressed: bool) -> None:
    values = np.round(GREY * ((1 << bits) - 1)).astype(int)
    expected = 255 * (GREY if photometric else 1 - GREY).repeat(3, axis=2)
    assert difference(write_tiff(values, bits, photometric, compressed=compressed), expected) <= 0.5


def test_separate_planes_of_a_tiff_are_right_or_refused() -> None:
    deep = PIXELS.astype(int) * 257
    for compressed in (False, True):
        assert difference(write_tiff(PIXELS, 8, 2, planes=True, compressed=compressed)) == 0
    assert difference(write_tiff(deep, 16, 2, planes=True, compressed=True)) <= 0.5
    grey_and_alpha = np.dstack([PIXELS[:, :, 0], np.full((SIDE, SIDE), 255)])
    refused = [write_tiff(deep, 16, 2, planes=True)]
    refused += [write_tiff(grey_and_alpha, 8, 1, planes=True, compressed=True, tags={338: (3, [2])})]
    for data in refused:
        with pytest.raises(ValueError, match="in separate planes, which cannot be read"):
            read_image(data, SIDE)


def test_a_colour_map_of_8_bits_is_read_as_libtiff_does() -> None:
    indices = (COLUMNS * 4)[:, :, None]
    for factor in (1, 257):  # 257: 16 bits, as the format wants
        colour_map = [value * factor for step in (1, 3, 7) for value in (np.arange(256) * step % 256).tolist()]
        expected = np.dstack([indices[:, :, 0] * step % 256 for step in (1, 3, 7)])
        assert difference(write_tiff(indices, 8, 3, colour_map=colour_map), expected) == 0


def test_a_photograph_of_108_megapixels_is_read() -> None:
    small = np.asarray(Image.fromarray(PIXELS).resize((400, 300)))
    data = bytearray(encode_jpeg(Image.fromarray(small).resize((1600, 1200), Image.Resampling.BOX)))
    assert (
        np.abs(read_image(bytes(data), 32).astype(int) - read_image(encode(Image.fromarray(small), "PNG"), 32)).mean()
        < 2
    )
    # As large as the header says, but without pixels: the size is no reason to refuse it.
    data = change_header(bytes(data), 0xC0, 1, struct.pack(">HH", 9000, 12000))
    with pytest.raises(ValueError, match="pixels are missing"):
        read_image(data, 32)
    progressive = change_header(encode_jpeg(progressive=True), 0xC2, 1, struct.pack(">HH", 12000, 16000))
    with pytest.raises(ValueError, match="from 1 to 134,217,728 pixels; got 16000x12000"):
        read_image(progressive, 32)


def test_heic_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    plain = encode(Image.fromarray(PIXELS), "HEIF", quality=95)
    assert difference(plain) < 3
    assert difference(encode(TURNED, "HEIF", quality=95, exif=exif_block(6))) < 3
    from alexnet.data.prepare import other_formats

    monkeypatch.setattr(other_formats, "available_formats", lambda: ["PNG"])
    with pytest.raises(ValueError, match=r"HEIC needs packages: pip install 'alexnet\[heic\]'"):
        read_image(plain, SIDE)


def test_libraries_write_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Their lines would not name the file."""
    lzw = encode(Image.fromarray(PIXELS), "TIFF", compression="tiff_lzw")
    cut = with_headers(encode_jpeg(), jpeg_segment(0xE1, b"Exif\0\0" + DAMAGED_EXIF["cut"]))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="decoder error"):
            read_image(lzw[:100] + b"\xff" * 200 + lzw[300:], SIDE)
        assert read_image(cut, SIDE).any()
    assert capfd.readouterr() == ("", "")

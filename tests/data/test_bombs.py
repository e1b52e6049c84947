"""Small files that ask for much: archives that unpack to gigabytes, and pictures that declare millions of pixels."""

import bz2
import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image
from scipy.io import savemat

from alexnet.data.prepare import decode, pixels
from alexnet.data.prepare.decode import read_image
from alexnet.data.sources import archive, compression, devkit, tar
from alexnet.data.sources.kinds import open_source
from alexnet.data.sources.named_pictures import iter_named_pictures


@pytest.fixture(autouse=True)
def _low_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Limits of a megabyte in place of a gigabyte, and an own folder for temporary files."""
    monkeypatch.setattr(compression, "ALWAYS_ALLOWED_BYTES", 1 << 20)
    monkeypatch.setattr(archive, "MAX_HEADER_BYTES", 1 << 20)
    monkeypatch.setattr(tar, "MAX_HEADER_BYTES", 1 << 16)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def add(target: tarfile.TarFile, name: str, contents: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    """Add a member to a .tar."""
    member = tarfile.TarInfo(name)
    member.size, member.type = len(contents), kind
    target.addfile(member, io.BytesIO(contents))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_compressed_tar_of_zeros_is_refused_before_it_is_unpacked(
    kind: bytes, compress: object, tmp_path: Path
) -> None:
    contents = io.BytesIO()
    with tarfile.open(fileobj=contents, mode="w") as target:
        add(target, "a/zeros.jpg", bytes(24 << 20), kind)
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(compress(contents.getvalue()))  # type: ignore[operator]
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"at most 200 times its size|damaged archive") as caught:
        open_source(path)
    (picture,) = iter_named_pictures([str(path)])
    with pytest.raises(ValueError, match="at most 200 times its size"):
        picture.read()
    assert str(path) in str(caught.value)
    assert (tmp_path / "bomb.tar.gz",) == tuple(tmp_path.iterdir())
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_a_header_of_a_tar_has_a_limit(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as target:
        add(target, "a/1.jpg", b"1")
        add(target, "long", bytes(1 << 17), tarfile.GNUTYPE_LONGNAME)
        add(target, "a/2.jpg", b"2")
    with pytest.raises(ValueError, match=r"damaged archive \(a header of 131,072 bytes\)"):
        open_source(tmp_path / "set.tar")


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("a/1.jpg", bytes(100_000))
        first = target.getinfo("a/1.jpg")
        for number in range(2, 40):  # names of the same contents
            other = zipfile.ZipInfo(f"{'ab'[number % 2]}/{number}.jpg")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, name, getattr(first, name))
            target.filelist.append(other)
    assert path.stat().st_size < 5000
    with pytest.raises(ValueError, match="at most 200 times its size"):
        open_source(path)


def test_a_member_of_a_zip_cannot_ask_for_memory_that_the_file_has_not(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/1.jpg", b"x")
        target.getinfo("a/1.jpg").compress_size = 1 << 40
    tree = archive.ZipTree(path)
    with pytest.raises(ValueError, match="at most 268,435,456 bytes"):
        tree.read(next(iter(tree.entries())))


def test_an_archive_in_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = gzip.compress(bytes(1 << 20))
    with tarfile.open(tmp_path / "set.tar", "w") as target:
        for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "a/inner.tar.gz", "a/inner.zip"):
            add(target, name, inner)
    source = open_source(tmp_path / "set.tar")
    assert sum(len(split.labels) for split in source.splits.values()) == 4
    assert source.read("train", 0) == inner  # as a picture, which it is not


def test_a_kits_file_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devkit, "MAX_FILE_BYTES", 1 << 20)
    savemat(tmp_path / "meta.mat", {"synsets": [0.0] * (1 << 18)}, do_compression=True)
    assert (tmp_path / "meta.mat").stat().st_size < 10_000
    with pytest.raises(ValueError, match="unpacks to more than 1,048,576 bytes"):
        devkit.read_synsets(tmp_path / "meta.mat")


def png(width: int, height: int, rows: int) -> bytes:
    """Return a grey PNG of zeros that declares a size, and has some of its rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixel_data = zlib.compress(bytes((width + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel_data) + chunk(b"IEND", b"")


def declared(format: str, width: int, height: int) -> bytes:
    """Return a small picture whose header declares another size."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, format)
    data = file.getvalue()
    frame = data.find(b"\xff\xc0")
    places = {"BMP": (18, "<ii"), "GIF": (6, "<HH"), "TGA": (12, "<HH"), "JPEG": (frame + 5, ">HH")}
    place, order = places[format]
    size = struct.pack(order, *((height, width) if format == "JPEG" else (width, height)))
    return data[:place] + size + data[place + len(size) :]


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, 1),
        declared("BMP", 1 << 20, 1 << 20),
        declared("GIF", 65_535, 65_535),
        declared("TGA", 65_535, 65_535),
        declared("JPEG", 65_500, 65_500),
        b"P5 999999 999999 255\n" + bytes(100),
    ],
    ids=["PNG", "BMP", "GIF", "TGA", "JPEG", "PPM"],
)
def test_a_declared_size_takes_no_memory(data: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"from 1 to (134,217,728|268,435,456) pixels; got [\d,x]+ pixels: save it smaller"
    ):
        read_image(data)


def test_gzip_in_front_of_a_picture_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_DECOMPRESSED_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="larger than a picture"):
        read_image(gzip.compress(bytes((1 << 20) + 1)))


def test_large_pictures_are_converted_band_by_band_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.effect_noise((97, 61), 80)
    for mode in ("L", "RGBA", "P", "CMYK", "I"):
        picture = Image.merge("RGBA", [noise] * 4) if mode == "RGBA" else noise.convert(mode)
        expected = pixels.load_central_square(picture, b"")
        with monkeypatch.context() as patch:
            patch.setattr(pixels, "BAND_PIXELS", 61 * 7)
            assert (pixels.load_central_square(picture, b"") == expected).all()

"""The segments of a JPEG file, its EXIF and XMP blocks, and the file without the faults that cost no pixel."""

from collections.abc import Iterator

_SCAN, _END = 0xDA, 0xD9  # the markers SOS and EOI
_JFIF, _EXIF_OR_XMP, _ADOBE = 0xE0, 0xE1, 0xEE  # the markers APP0, APP1 and APP14
_COMMENT = 0xFE
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xD9)))  # a stuffed byte, TEM, RST0 to RST7, SOI
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers SOF0 to SOF15
_SEQUENTIAL_FRAMES = frozenset((0xC0, 0xC1, 0xC9))
_EXIF_START = b"Exif\0\0"
_XMP_START = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_START = b"\xff\xd8\xff"
END_OF_IMAGE = bytes((0xFF, _END))


def read_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG, and where its contents start and stop, up to the end of the image.

    As in libjpeg, bytes between segments are skipped; so the data of a scan are between its segment and the next one.
    """
    position = 2
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        else:
            start = position + 4
            stop = max(start, position + 2 + int.from_bytes(data[position + 2 : start], "big"))
            yield marker, start, stop
            if marker == _END:
                return
            position = stop


def read_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Return the EXIF and the XMP block of a JPEG, both without their identifiers; b"" for one that is not there."""
    exif = xmp = b""
    for marker, start, stop in read_segments(data):
        if marker == _SCAN:
            break
        if marker != _EXIF_OR_XMP:
            continue
        if not exif and data.startswith(_EXIF_START, start):
            exif = data[start + len(_EXIF_START) : stop]
        elif not xmp and data.startswith(_XMP_START, start):
            xmp = data[start + len(_XMP_START) : stop]
    return exif, xmp


def count_scans(data: bytes) -> int:
    """Return the number of scans of a JPEG; a decoder keeps the coefficients of all pixels if there are several."""
    return sum(marker == _SCAN for marker, _, _ in read_segments(data))


def remove_harmless_faults(data: bytes) -> bytes:
    """Return a JPEG with the same pixels whose headers have nothing to warn of; faults of its scans remain.

    libjpeg warns of a file for two reasons: a header is unusual, or pixels are missing. So a warning about the result
    is about pixels. The headers are changed to what libjpeg assumes where it warns: descriptions and colour profiles
    are left out, JFIF has version 1, an unknown colour transform of Adobe is the usual one, and a sequential scan has
    all coefficients. A marker for the end of the image is added where it is missing.
    """
    frames = (data[start + 5 : start + 6] for marker, start, _ in read_segments(data) if marker in _FRAMES)
    usual_transform = 2 if next(frames, b"") == b"\x04" else 1  # YCCK for four components, else YCbCr
    is_sequential = any(marker in _SEQUENTIAL_FRAMES for marker, _, _ in read_segments(data))
    result = bytearray(data[:2])
    scan_start = None
    for marker, start, stop in read_segments(data):
        if scan_start is not None:
            result += data[scan_start : start - 4]
        scan_start = stop if marker == _SCAN else None
        segment = bytearray(data[start - 4 : stop])
        if marker == _JFIF and segment[4:9] == b"JFIF\0":
            segment[9:10] = b"\x01"
        elif marker == _ADOBE and segment[4:9] == b"Adobe" and len(segment) > 15:
            segment[15] = segment[15] and usual_transform  # 0: none
        elif _JFIF <= marker < _JFIF + 16 or marker in (_COMMENT, _END):
            continue
        elif marker == _SCAN and is_sequential:
            segment[-3:] = b"\x00\x3f\x00"
        result += segment
    if scan_start is not None:
        result += data[scan_start:]
    return bytes(result) + END_OF_IMAGE

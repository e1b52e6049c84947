"""Checksums of files: XXH3 with 64 bits, which finds each flipped bit and reads memory as fast as it can be copied.

A checksum finds damage (a bit that a disk, memory or a network has flipped, a file cut off), not a forger: anybody can
compute it. CRC-32 of zlib and BLAKE2 of hashlib would do as well, at a tenth of the speed (docs/LOG.md).

A file holds its own checksum as the text "xxh3:DIGITS:whole-file" somewhere within it. It is that of the file with
zeros in place of the sixteen digits. The text has two ends, so that one flipped bit cannot make it look as if the file
had no checksum. In a safetensors file the text covers the header, and the header has the checksum of each tensor.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

BLANK_CHECKSUM = "xxh3:0000000000000000:whole-file"
_CHECKSUM = re.compile(rb"xxh3:([0-9a-f]{16}):whole-file")
_CHECKSUM_ENDS = re.compile(rb"xxh3:|:whole-file")
_LENGTH_BYTES = 8  # at the start of a safetensors file: the length of its header
_MAX_HEADER = 100_000_000  # bytes, the limit of the library

Buffer = Any  # bytes, a memory map, a memoryview, or a contiguous array


class Digest:
    """The checksum of bytes that come piece by piece."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()

    def update(self, piece: Buffer) -> None:
        """Add the next bytes."""
        self._hash.update(memoryview(piece))

    def hexdigest(self) -> str:
        """Return the checksum as sixteen hexadecimal digits."""
        return str(self._hash.hexdigest())


def checksum(contents: Buffer) -> str:
    """Return the checksum of bytes, or of a contiguous array's memory, as sixteen hexadecimal digits."""
    digest = Digest()
    digest.update(contents)
    return digest.hexdigest()


def short_checksum(contents: Buffer) -> int:
    """Return the lowest 32 bits of the checksum, as a number."""
    return int(xxhash.xxh3_64_intdigest(memoryview(contents)) & 0xFFFF_FFFF)


def seal(contents: bytes) -> bytes:
    """Return the contents of a file with its checksum in place of the one BLANK_CHECKSUM that they contain."""
    assert contents.count(BLANK_CHECKSUM.encode()) == 1
    digits = checksum(contents)
    return contents.replace(BLANK_CHECKSUM.encode(), BLANK_CHECKSUM.replace("0" * 16, digits).encode())


def is_whole(contents: Buffer) -> bool | None:
    """Return whether a file is as it was when it was sealed; None if it has no checksum."""
    matches = list(_CHECKSUM.finditer(contents))
    if not matches:
        return False if _CHECKSUM_ENDS.search(contents) else None
    if len(matches) > 1:
        return False
    start, stop = matches[0].span(1)
    digest = Digest()
    for piece in (memoryview(contents)[:start], b"0" * (stop - start), memoryview(contents)[stop:]):
        digest.update(piece)
    return digest.hexdigest() == matches[0][1].decode()


# ---- safetensors ----------------------------------------------------------------------------------------------------


def with_checksums(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata with the checksums of tensors, and room for that of the header, which `seal_header` fills in.

    Args:
        metadata: Values of types that JSON has.
        tensors: NumPy arrays, or tensors of torch on the CPU, as they are written.
    """
    checksums = {name: checksum(_as_bytes(tensor)) for name, tensor in tensors.items()}
    return {**metadata, "checksums": checksums, "checksum": BLANK_CHECKSUM}


def _as_bytes(tensor: Any) -> np.ndarray | bytes:
    """Return the memory of an array or tensor; an empty one has none."""
    if not isinstance(tensor, np.ndarray):
        import torch  # here, since `alexnet prepare` needs checksums of arrays only

        tensor = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0)
    array = np.ascontiguousarray(tensor)
    return array if array.size else b""


def sealed_header(contents: bytes) -> bytes:
    """Return the contents of a safetensors file with the checksum of its header filled in."""
    length = _header_length(contents)
    return seal(contents[:length]) + contents[length:]


def seal_header(path: Path) -> None:
    """Fill in the checksum of a safetensors file's header on the disk."""
    with path.open("r+b") as file:
        header = file.read(_LENGTH_BYTES)
        header += file.read(_header_length(header) - _LENGTH_BYTES)
        file.seek(0)
        file.write(seal(header))


def damaged_parts(contents: Buffer) -> list[str] | None:
    """Return which parts of a safetensors file are damaged: "header", "tensor conv1.weight", "length"...

    Args:
        contents: The file, such as its memory map.

    Returns:
        The parts, none if all are whole; None if the file has no checksums.
    """
    length = _header_length(contents)
    if len(contents) < _LENGTH_BYTES or length > min(len(contents), _MAX_HEADER):
        return ["header"]
    with memoryview(contents) as view, view[:length] as header:
        is_header_whole = is_whole(header)
        try:
            entries = json.loads(bytes(header[_LENGTH_BYTES:]))
            if is_header_whole is None:
                return None
            checksums: dict[str, str] = json.loads(entries.pop("__metadata__")["alexnet"])["checksums"]
        except (ValueError, KeyError):
            return ["header"]
        if not is_header_whole:
            return ["header"]
        ranges = {name: entry["data_offsets"] for name, entry in entries.items()}
        parts = []
        for name, (start, stop) in ranges.items():
            with view[length + start : length + stop] as data:
                if checksum(data) != checksums.get(name):
                    parts.append(f"tensor {name}")
        if len(contents) != length + max((stop for _, stop in ranges.values()), default=0):
            parts.append("length")
        return parts


def _header_length(contents: Buffer) -> int:
    """Return the length of a safetensors file's header, with the 8 bytes before it that give it."""
    return _LENGTH_BYTES + int.from_bytes(bytes(contents[:_LENGTH_BYTES]), "little")

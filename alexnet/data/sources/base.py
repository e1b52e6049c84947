"""What a source of pictures is: classes, and for each split a list of pictures that can be read by their place."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, eq=False)
class Part:
    """The pictures of one split, held in flat arrays: about 60 bytes a picture, so that a million fit anywhere.

    Args:
        names: (N,) binary, each picture's path within the source.
        labels: (N,) int32.
        sizes: (N,) int64, bytes of each file.
        offsets: (N,) int64, where the file starts in an archive; zeros elsewhere.
    """

    names: pa.Array
    labels: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def picture_name(self, index: int) -> str:
        """A picture's path within the source, undecodable bytes escaped as Python's file names have them."""
        return str(self.names[index].as_py().decode("utf-8", "surrogateescape"))


class Source(Protocol):
    """Pictures with their classes, wherever they lie."""

    name: str
    classes: tuple[str, ...]
    size: int | None  # the side, where the source's pictures have one that must be kept
    parts: dict[str, Part]
    ignored: dict[str, int]  # files passed over for their endings, counted by ending

    def read(self, split: str, index: int) -> bytes | np.ndarray:
        """A picture file's bytes, or pixels (size, size, 3) uint8 where they need no decoding."""
        ...


def fingerprint(source: Source) -> str:
    """A digest of what a source holds: classes, names, labels, file sizes and parts."""
    digest = hashlib.sha256(repr((source.classes, source.size)).encode())
    for split, part in source.parts.items():
        digest.update(split.encode())
        for buffer in part.names.buffers()[1:]:
            digest.update(buffer)
        digest.update(part.labels.tobytes())
        digest.update(part.sizes.tobytes())
    return digest.hexdigest()

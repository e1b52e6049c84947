"""The prepared set on disk: Arrow files that any Arrow reader opens, and the statistics of the training part.

A store is a folder: `train-00000.arrow` ... and `val-*.arrow` and/or `test-*.arrow` (Arrow IPC files, read through a
memory map, so that the pages the loader touches are the operating system's and not the process's),
`statistics.safetensors`, `places.safetensors`, which says where in those files each picture lies (for readers far away:
alexnet/data/store/remote.py), and `skipped.jsonl` with a line for each file that was no readable picture.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from safetensors import SafetensorError
from safetensors.numpy import load as safetensors_load
from safetensors.numpy import save as safetensors_bytes

from alexnet.utils.files import write_atomic

FORMAT = 1
METADATA_KEY = "alexnet"
STATISTICS_FILE = "statistics.safetensors"
OFFSETS_FILE = "places.safetensors"
SKIPPED_FILE = "skipped.jsonl"
PROGRESS_FILE = "progress.safetensors"
SPLITS = ("train", "val", "test")
SHARD_NAME = re.compile(r"(train|val|test)-(\d{5,})\.arrow")


class StoreURL(str):
    """Where a store lies that is on no disk of this machine: an fsspec URL, such as s3://bucket/folder.

    It stands where another store has its Path, and has what is asked of one.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.rpartition("/")[2]

    def resolve(self) -> "StoreURL":
        """Itself: it is the same from any folder and on any machine."""
        return self


def parse_location(store: str | Path) -> Path | StoreURL:
    """The place of a store, as it is given by the user or kept in a run: a folder's path, or a URL."""
    return StoreURL(str(store).rstrip("/")) if "://" in str(store) else Path(store)


def shard_name(split: str, number: int) -> str:
    """The file name of one shard: `train-00007.arrow`."""
    return f"{split}-{number:05d}.arrow"


def shard_schema(size: int, encoding: str, classes: tuple[str, ...], split: str, source: str, note: str) -> pa.Schema:
    """The Arrow schema of a shard, with what a reader must know in its metadata.

    Args:
        size: Side of the square pictures, in pixels.
        encoding: "raw" (size*size*3 bytes, height x width x RGB) or "jpeg" (a JPEG file's bytes).
        classes: The class names; a label is a place in them.
        split: "train", "val" or "test".
        source: What the pictures were read from.
        note: The resampling filter, in words.
    """
    image = pa.binary(size * size * 3) if encoding == "raw" else pa.binary()
    about = {"format": FORMAT, "size": size, "encoding": encoding, "classes": list(classes)}
    about |= {"split": split, "source": source, "filter": note}
    metadata = {METADATA_KEY: json.dumps(about, ensure_ascii=False)}
    return pa.schema([("image", image), ("label", pa.int32()), ("name", pa.string())], metadata=metadata)


@dataclass(frozen=True, eq=False)
class Statistics:
    """The mean activity and the colour components of the training part (sections 3 and 5.1).

    Args:
        mean: (3, size, size) float32, mean activity of each channel and pixel, 0..255.
        covariance: (3, 3) float64, of the RGB values of all pixels, in 0..255 units, their number being the divisor.
        eigenvalues: (3,) float64, of the covariance, descending.
        components: (3, 3) float64, row i the unit eigenvector of eigenvalue i as (R, G, B); the entry of largest
            magnitude is positive.
        count: Number of training pictures.
    """

    mean: np.ndarray
    covariance: np.ndarray
    eigenvalues: np.ndarray
    components: np.ndarray
    count: int

    @classmethod
    def from_sums(cls, sums: np.ndarray, products: np.ndarray, count: int) -> "Statistics":
        """The statistics from exact integer sums, so that the order of adding cannot matter.

        Args:
            sums: (size, size, 3) int64, the sum over pictures of each value.
            products: (3, 3) int64, the sum over pictures and pixels of the products of two channels.
            count: Number of pictures summed.
        """
        size = sums.shape[0]
        pixels = count * size * size
        totals = [int(total) for total in sums.sum(axis=(0, 1))]
        # Python's integers are exact at any size; the one division is the only rounding.
        covariance = np.array(
            [
                [(int(products[i, j]) * pixels - totals[i] * totals[j]) / (pixels * pixels) for j in range(3)]
                for i in range(3)
            ]
        )
        mean = (sums / count).astype(np.float32).transpose(2, 0, 1)
        return cls.from_covariance(np.ascontiguousarray(mean), covariance, count)

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray, count: int) -> "Statistics":
        """The statistics with the components of a (3, 3) covariance."""
        values, vectors = np.linalg.eigh(covariance)
        components = np.ascontiguousarray(vectors.T[::-1])
        largest = np.abs(components).argmax(axis=1)
        signs = np.where(components[np.arange(3), largest] < 0, -1.0, 1.0)
        eigenvalues = np.maximum(values[::-1], 0.0)  # rounding can leave a grey set's smallest at -1e-13
        return cls(mean, covariance, np.ascontiguousarray(eigenvalues), components * signs[:, None], count)

    def colour_deviations(self) -> np.ndarray:
        """The (3,) square roots of the eigenvalues: what scales the colour shift (2012-source, "Images")."""
        deviations: np.ndarray = np.sqrt(self.eigenvalues)
        return deviations

    def to_bytes(self, about: dict[str, Any] | None = None) -> bytes:
        """The contents of a safetensors file.

        Args:
            about: Further facts to keep with them, as JSON can hold.
        """
        tensors = {"mean": self.mean, "covariance": self.covariance}
        tensors |= {"eigenvalues": self.eigenvalues, "components": self.components}
        metadata = json.dumps({**(about or {}), "count": self.count}, ensure_ascii=False)
        # safetensors writes the memory of an array that is not contiguous as if it were.
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        # One metadata key only: safetensors writes several in an order that changes from run to run.
        return bytes(safetensors_bytes(tensors, metadata={METADATA_KEY: metadata}))

    def save(self, path: str | Path, about: dict[str, Any] | None = None) -> None:
        """Write the statistics as a safetensors file, whole or not at all."""
        write_atomic(Path(path), self.to_bytes(about))

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            ValueError: The file is no safetensors file of statistics.
        """
        return cls.from_tensors(*read_safetensors(path), path)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Any], about: dict[str, Any], path: str | Path) -> "Statistics":
        """The statistics from the contents of the file that `save` wrote at `path`.

        Raises:
            ValueError: Something is missing.
        """
        names = ("mean", "covariance", "eigenvalues", "components")
        if "count" not in about or any(name not in tensors for name in names):
            raise ValueError(f"{path}: not the statistics of a store (prepare the store again)")
        return cls(**{name: tensors[name] for name in names}, count=int(about["count"]))


def read_safetensors(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a safetensors file and the JSON object in its metadata.

    Raises:
        ValueError: The file is cut short or no safetensors file.
    """
    return parse_safetensors(Path(path).read_bytes(), path)


def parse_safetensors(contents: bytes, path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same from the bytes of a safetensors file, which was read from `path`."""
    try:
        tensors = {name: tensor.copy() for name, tensor in safetensors_load(contents).items()}
        # The library gives the metadata of files on a disk only: after 8 bytes that give its length, a JSON header.
        header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
        about = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: damaged ({error}); remove the store and prepare it again") from error
    if not isinstance(about, dict):
        raise ValueError(f"{path}: not part of a store (its metadata is no JSON object); prepare the store again")
    return tensors, about


def split_counts(about: dict[str, Any], path: Path | StoreURL) -> dict[str, int]:
    """The number of pictures of each split, from what the statistics of the store at `path` say beside the numbers.

    Raises:
        ValueError: They do not say it: `prepare` did not write them.
    """
    counts = about.get("counts")
    if not isinstance(counts, dict) or not all(isinstance(counts.get(name, 0), int) for name in SPLITS):
        counts = {}
    if "train" not in counts:
        raise ValueError(f"{path}: not a store ({STATISTICS_FILE} has no count of train); remove it and prepare again")
    return {name: counts[name] for name in SPLITS if name in counts}


class Split:
    """One part of a store: pictures, labels and names, by index.

    Args:
        name: "train", "val" or "test".
        paths: Its shards, in order.
        size: Side of the pictures, in pixels.
        encoding: "raw" or "jpeg".

    Raises:
        ValueError: A shard is damaged.
    """

    def __init__(self, name: str, paths: list[Path], size: int, encoding: str) -> None:
        self.name = name
        self.size = size
        self._encoding = encoding
        batches = [batch for path in paths for batch in read_shard(path)[0]]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._names = [batch.column("name") for batch in batches]
        labels = [batch.column("label").to_numpy() for batch in batches]
        self.labels: np.ndarray = np.concatenate(labels).astype(np.int64) if labels else np.empty(0, np.int64)
        self._raw: list[np.ndarray] = []
        self._jpeg: list[tuple[np.ndarray, memoryview]] = []
        bases: list[int] = []
        for batch in batches:
            column = batch.column("image")
            buffers = column.buffers()
            if encoding == "raw":
                if column.type.byte_width != size * size * 3 or buffers[1].size < batch.num_rows * size * size * 3:
                    raise ValueError(f"{paths[0].parent}: a shard of {name!r} is damaged; prepare the store again")
                pixels = np.frombuffer(buffers[1], np.uint8).reshape(-1, size, size, 3)
                self._raw.append(pixels[: batch.num_rows])
                bases.append(buffers[1].address)
            else:
                self._jpeg.append((np.frombuffer(buffers[1], np.int32), memoryview(buffers[2]).cast("B")))
        self._bases = np.array(bases, np.uint64) if encoding == "raw" else None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, index: int) -> tuple[int, int]:
        """The record batch that holds a picture, and its row there."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of split {self.name!r}: it has {len(self)}")
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        return batch, index - int(self._starts[batch])

    def picture_name(self, index: int) -> str:
        """The picture's name: its path within the source."""
        batch, row = self._place(index)
        return str(self._names[batch][row].as_py())

    def image(self, index: int) -> np.ndarray:
        """A picture as (size, size, 3) uint8 RGB.

        Raw pictures are read-only views of the mapped file, without a copy. JPEG pictures are decoded, with the
        interpreter lock released. Any number of threads may call it at once.
        """
        batch, row = self._place(index)
        if self._encoding == "raw":
            pixels: np.ndarray = self._raw[batch][row]
            return pixels
        offsets, data = self._jpeg[batch]
        return np.asarray(simplejpeg.decode_jpeg(data[offsets[row] : offsets[row + 1]], colorspace="RGB"))

    def images(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Several pictures, one after another: what lies far away is fetched all at once."""
        return map(self.image, indices)

    def memory_addresses(self, indices: np.ndarray) -> np.ndarray | None:
        """Where in memory raw pictures lie, for as long as this object lives; None where no picture does.

        Args:
            indices: (N,) int64.

        Returns:
            (N,) uint64, each the first of size * size * 3 bytes.
        """
        if self._bases is None:
            return None
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"pictures {indices.min()} to {indices.max()} of split {self.name!r}: it has {len(self)}")
        batches = np.searchsorted(self._starts, indices, side="right") - 1
        rows = (indices - self._starts[batches]).astype(np.uint64)
        found: np.ndarray = self._bases[batches] + rows * np.uint64(self.size * self.size * 3)
        return found


def read_shard(path: Path) -> tuple[list[pa.RecordBatch], pa.Buffer]:
    """The record batches of a shard, as views of its memory map, and all of that map.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        # The batches keep the mapping alive after the file is closed, so that no descriptor stays open: a large set
        # has more shards than a process may have open files.
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            file.seek(0)
            return batches, file.read_buffer()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: damaged ({error}); remove the store and prepare it again") from error


def read_shard_metadata(path: Path) -> dict[str, Any]:
    """What the schema metadata of a shard says.

    Raises:
        ValueError: The file is no shard of a format that this version reads.
    """
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            about = json.loads((reader.schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: damaged ({error}); remove the store and prepare it again") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path}: store format {about.get('format')}, this version reads {FORMAT}; prepare the source again"
        )
    return dict(about)


def find_shards(folder: Path, split: str) -> list[Path]:
    """The shards of a split in order, none missing in between.

    Raises:
        ValueError: One is missing.
    """
    found = {int(match[2]): path for path in folder.iterdir() if (match := SHARD_NAME.fullmatch(path.name))
             and match[1] == split}  # fmt: skip
    numbers = [-1, *sorted(found)]
    missing = [a + 1 for a, b in pairwise(numbers) if b != a + 1] or ([] if found else [0])
    if missing:
        lost = shard_name(split, missing[0])
        raise ValueError(f"{folder}: {lost} is missing; remove the store and prepare it again")
    return [found[number] for number in sorted(found)]


class Store:
    """A prepared set of pictures.

    Args:
        path: The folder that `prepare` wrote, or the URL where a copy of it lies (s3://bucket/folder).

    Attributes:
        path: The same.
        size: Side of the pictures, in pixels.
        encoding: "raw" or "jpeg".
        classes: The class names; a label is a place in them.
        splits: The names of its parts.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is no store, is half prepared, damaged, or of another format.
        OSError: It lies elsewhere and cannot be reached.
    """

    path: Path | StoreURL
    size: int
    encoding: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]

    def __new__(cls, path: str | Path) -> "Store":
        if cls is Store and isinstance(parse_location(path), StoreURL):
            from alexnet.data.store.remote import RemoteStore  # which needs this module

            return super().__new__(RemoteStore)
        return super().__new__(cls)

    def __init__(self, path: str | Path) -> None:
        folder = Path(path)
        self.path = folder
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such store; make it with: alexnet prepare SOURCE {folder}")
        if not (folder / STATISTICS_FILE).is_file():
            if (folder / PROGRESS_FILE).is_file():
                raise ValueError(f"{folder}: half prepared; run the same `alexnet prepare` again and it goes on")
            raise ValueError(
                f"{folder}: not a store (no {STATISTICS_FILE}); make one with: alexnet prepare SOURCE STORE"
            )
        self._counts = split_counts(read_safetensors(folder / STATISTICS_FILE)[1], folder)
        self._shards = {name: find_shards(folder, name) for name in self._counts}
        self._describe(read_shard_metadata(self._shards["train"][0]))

    def _describe(self, about: dict[str, Any]) -> None:
        """Set what all stores have, from what a shard says of itself."""
        self.splits = tuple(self._counts)
        self.size, self.encoding = about["size"], about["encoding"]
        self.classes = tuple(about["classes"])
        self._opened: dict[str, Split] = {}

    def _open(self, name: str, parts: tuple[str, ...]) -> Split:
        """The pictures of some splits, one after another, under a name."""
        return Split(name, [path for part in parts for path in self._shards[part]], self.size, self.encoding)

    @cached_property
    def statistics(self) -> Statistics:
        """The mean activity and colour components of the training part."""
        return Statistics.load(Path(self.path) / STATISTICS_FILE)

    def split(self, name: str) -> Split:
        """One part of the store.

        Raises:
            ValueError: There is no part of that name, or pictures of it are missing.
        """
        if name not in self.splits:
            raise ValueError(f"{self.path}: no split {name!r}; it has {', '.join(self.splits)}: choose one of these")
        if name not in self._opened:
            split = self._open(name, (name,))
            if len(split) != self._counts[name]:
                raise ValueError(
                    f"{self.path}: split {name!r} has {len(split)} of {self._counts[name]} pictures; "
                    "remove the store and prepare it again"
                )
            self._opened[name] = split
        return self._opened[name]

    def train_and_val(self) -> Split:
        """The pictures to train on and those to validate on, as one part.

        Raises:
            ValueError: There are none to validate on.
        """
        self.split("train"), self.split("val")  # whole, or it is said
        if "train+val" not in self._opened:
            self._opened["train+val"] = self._open("train+val", ("train", "val"))
        return self._opened["train+val"]

    def validation(self) -> Split:
        """The pictures to test on while training: "val" where there is one, else "test".

        Raises:
            ValueError: The store has neither.
        """
        for name in ("val", "test"):
            if name in self.splits:
                return self.split(name)
        raise ValueError(f"{self.path}: it must have val or test pictures; it has train only: prepare the source again")

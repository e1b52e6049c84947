"""What people have: a folder of pictures by class or an archive of one, CIFAR-10 in its official binary layout.

`open_source` finds out which, and lists the pictures with their classes and splits; it decodes nothing.
"""

import os
import tarfile
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from lzma import LZMAError
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from alexnet.data.sources.base import Part, Source
from alexnet.data.sources.cifar10 import CIFAR_META, CIFAR_PYTHON, CIFAR_TRAIN, Cifar10, cifar10_archive, cifar10_folder
from alexnet.data.sources.tree import Entry, Folder, Tar, Tree, Zip

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# HEIC needs a plugin of Pillow's; it is listed so that such files are reported and not silently passed over.
PICTURE_ENDINGS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "dib", "webp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
        *("tga", "ico", "avif", "jp2", "j2k", "pcx", "sgi", "heic", "heif"),
    )
)
LAYOUT = (
    "a source is a folder with one folder of pictures for each class, with or without train/ and val/ or test/ above"
)


@dataclass(frozen=True, eq=False)
class _Bucket:
    """The pictures of one folder."""

    names: list[bytes] = field(default_factory=list)
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    offsets: "array[int]" = field(default_factory=lambda: array("q"))

    def part(self, label: int) -> Part:
        """These pictures as a part, sorted by name."""
        order = sorted(range(len(self.names)), key=self.names.__getitem__)
        names = pa.array([self.names[i] for i in order], pa.binary())
        sizes, offsets = np.array(self.sizes, np.int64)[order], np.array(self.offsets, np.int64)[order]
        return Part(names, np.full(len(order), label, np.int32), sizes, offsets)


@dataclass(eq=False)
class Pictures:
    """Picture files in a folder or an archive, by class.

    Args:
        name: The folder's or archive's own name.
        classes: The class names, sorted.
        parts: The pictures of each split.
        ignored: Files passed over, counted by ending.
        tree: Where the files lie.
        size: None; the pictures have no one size.
    """

    name: str
    classes: tuple[str, ...]
    parts: dict[str, Part]
    ignored: dict[str, int]
    tree: Tree
    size: int | None = None

    def read(self, split: str, index: int) -> bytes:
        """A picture file's bytes."""
        part = self.parts[split]
        return self.tree.read(Entry(part.picture_name(index), int(part.sizes[index]), int(part.offsets[index])))


def open_source(
    path: str | Path,
    *,
    held_out: float = 0.1,
    train_per_class: int | None = None,
    val_batch: int | None = None,
    seed: int = 0,
) -> Source:
    """The source at a path: what its pictures are, and which are trained on.

    Where the folder has no train/ and val/ or test/, a share of each class is set aside, drawn from the seed and the
    class's name.

    Args:
        path: A folder, a .tar or a .zip with a folder for each class; or CIFAR-10's official binary folder or archive.
        held_out: Share of each class set aside as "val" (at least one picture of it, and never all).
        train_per_class: Instead, this many of each class are trained on and the rest are "test".
        val_batch: Of CIFAR-10, the training batch, 1 to 5, that is "val"; by default all five are trained on.
        seed: Of the draw.

    Returns:
        Its classes, its parts, and how a picture is read.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: What is there is not understood, or has too few classes or pictures.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or archive; {LAYOUT}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be a share between 0 and 1, such as 0.1; got {held_out}")
    if train_per_class is not None and train_per_class < 1:
        raise ValueError(f"train_per_class must be at least 1 picture; got {train_per_class}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0; got {seed}")
    found = _open_folder(path) if path.is_dir() else _open_archive(path)
    if isinstance(found, Cifar10):
        if train_per_class is not None:
            raise ValueError(f"{path}: CIFAR-10 has its own test part; leave train_per_class={train_per_class} out")
        return found if val_batch is None else found.validating_on(val_batch)
    if val_batch is not None:
        raise ValueError(f"{path}: no CIFAR-10, which alone has batches; leave val_batch={val_batch} out")
    ignored: Counter[str] = Counter()
    folders, prefix = _descend(_gather(found, ignored))
    splits = _splits(path, folders, prefix)
    by_class = {name: _classes(folders, above, ignored) for name, above in splits.items()}
    classes = _check_classes(path, by_class, ignored)
    parts = {name: [bucket.part(label) for label, bucket in enumerate(of.values())] for name, of in by_class.items()}
    if list(parts) == ["train"]:
        parts = _set_aside(path, classes, parts["train"], held_out, train_per_class, seed)
    elif train_per_class is not None:
        others = " and ".join(name for name in parts if name != "train")
        raise ValueError(f"{path}: it has its own {others} part; leave train_per_class={train_per_class} out")
    return Pictures(found.name, classes, {name: _join(parts[name]) for name in parts}, dict(ignored), found)


def _open_folder(path: Path) -> Cifar10 | Folder:
    """CIFAR-10 where the folder, or the one folder in it, is that; else a folder of files."""
    for folder in (path, path / "cifar-10-batches-bin"):
        if (folder / CIFAR_META).is_file() and (folder / CIFAR_TRAIN[0]).is_file():
            return cifar10_folder(folder)
    if (path / CIFAR_PYTHON).is_file():
        raise ValueError(f"{path}: CIFAR-10's Python version (pickles); download the binary version instead")
    return Folder(path)


def _open_archive(path: Path) -> Cifar10 | Tar | Zip:
    """What an archive is, judged by its first members."""
    if zipfile.is_zipfile(path):
        return Zip(path)
    try:
        if not tarfile.is_tarfile(path):
            raise ValueError(f"{path}: neither a folder nor a .tar or .zip archive; {LAYOUT}")
        with tarfile.open(path, "r:*") as archive:
            first = {member.name.rpartition("/")[2] for member in islice(archive, 4)}
        if first & {CIFAR_META, *CIFAR_TRAIN}:
            return cifar10_archive(path)
    except (tarfile.TarError, EOFError, LZMAError, zlib.error) as error:
        raise ValueError(f"{path}: damaged archive ({error}); copy or download it again") from error
    if CIFAR_PYTHON in first:
        raise ValueError(f"{path}: CIFAR-10's Python version (pickles); download the binary version instead")
    try:
        with tarfile.open(path, "r:"):
            return Tar(path)
    except tarfile.ReadError:
        raise ValueError(
            f"{path}: pictures in a compressed .tar cannot be read in place; unpack it (tar -xf {path.name}) "
            "and give the folder"
        ) from None


def _gather(tree: Tree, ignored: Counter[str]) -> dict[tuple[str, ...], _Bucket]:
    """The pictures of each folder; folders that hold nothing at all are there too, empty."""
    folders: dict[tuple[str, ...], _Bucket] = {}
    used: set[tuple[str, ...]] = set()  # folders with a file or folder in them, of whatever kind
    listed: set[tuple[str, ...]] = set()
    for entry in tree.entries():
        *above, name = entry.path.rstrip("/").split("/")
        folder = tuple(above)
        used.update(folder[:depth] for depth in range(len(folder) + 1))
        if entry.path.endswith("/"):
            listed.add((*folder, name))
        elif (ending := PurePosixPath(name).suffix.lower()) and ending not in PICTURE_ENDINGS:
            ignored[ending] += 1
        else:
            bucket = folders.setdefault(folder, _Bucket())
            bucket.names.append(os.fsencode(entry.path))
            bucket.sizes.append(entry.size)
            bucket.offsets.append(entry.offset)
    return folders | {folder: _Bucket() for folder in listed - used}


def _inside(folders: dict[tuple[str, ...], _Bucket], above: tuple[str, ...]) -> list[str]:
    """The names of the folders directly in a folder, sorted."""
    depth = len(above)
    return sorted({folder[depth] for folder in folders if len(folder) > depth and folder[:depth] == above})


def _descend(folders: dict[tuple[str, ...], _Bucket]) -> tuple[dict[tuple[str, ...], _Bucket], tuple[str, ...]]:
    """The folders and the one under which the classes or splits lie: archives have a folder round them."""
    prefix: tuple[str, ...] = ()
    while len(inside := _inside(folders, prefix)) == 1 and prefix not in folders:
        if inside[0].lower() in SPLIT_FOLDERS or not _inside(folders, (*prefix, inside[0])):
            break
        prefix = (*prefix, inside[0])
    return folders, prefix


def _splits(path: Path, folders: dict[tuple[str, ...], _Bucket], prefix: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The folder of each split, in the order train, val, test; {"train": prefix} where there are none."""
    inside = _inside(folders, prefix)
    named = {name: SPLIT_FOLDERS[name.lower()] for name in inside if name.lower() in SPLIT_FOLDERS}
    others = [name for name in inside if name not in named]
    # A class may be called "train": among other folders it takes a val or test beside it to be a split.
    if not named or (others and not ("train" in named.values() and len(named) > 1)):
        return {"train": prefix}
    if others:
        raise ValueError(f"{path}: {', '.join(named)} are splits, but {others[0]!r} lies beside them; move it away")
    if "train" not in named.values():
        raise ValueError(f"{path}: it has {', '.join(named)} but no train folder; {LAYOUT}")
    if len(set(named.values())) < len(named):
        raise ValueError(f"{path}: {', '.join(named)}: two folders for one split; keep one of them")
    found = {split: (*prefix, name) for name, split in named.items()}
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _classes(
    folders: dict[tuple[str, ...], _Bucket], above: tuple[str, ...], ignored: Counter[str]
) -> dict[str, _Bucket]:
    """The pictures of each class folder under a folder, those of folders inside them included."""
    by_class: dict[str, _Bucket] = {}
    for folder, bucket in folders.items():
        if folder == above and bucket.names:
            ignored["outside a class folder"] += len(bucket.names)
        elif folder[: len(above)] == above and folder != above:
            whole = by_class.setdefault(folder[len(above)], _Bucket())
            whole.names.extend(bucket.names)
            whole.sizes.extend(bucket.sizes)
            whole.offsets.extend(bucket.offsets)
    return dict(sorted(by_class.items()))


def _check_classes(path: Path, by_class: dict[str, dict[str, _Bucket]], ignored: Counter[str]) -> tuple[str, ...]:
    """The class names, the same in every split, none of them empty, and two at least."""
    train = by_class["train"]
    for split, of in by_class.items():
        if len(of) and set(of) != set(train):
            only = [f"only in {split}: {', '.join(sorted(set(of) - set(train))[:5])}"] if set(of) - set(train) else []
            only += [f"only in train: {', '.join(sorted(set(train) - set(of))[:5])}"] if set(train) - set(of) else []
            raise ValueError(
                f"{path}: train and {split} hold different classes ({'; '.join(only)}); make them the same"
            )
    for split, of in by_class.items():
        if len(of) < 2:
            passed = "; passed over: " + ", ".join(f"{n} {ending}" for ending, n in ignored.items()) if ignored else ""
            where = "" if len(by_class) == 1 else f" in {split}"
            raise ValueError(f"{path}: {len(of)} classes{where}, at least 2 are needed{passed}; {LAYOUT}")
        for name, bucket in of.items():
            if not bucket.names:
                raise ValueError(f"{path}: class {name!r} has no pictures in {split}; add some or remove the folder")
    return tuple(name.encode("utf-8", "backslashreplace").decode() for name in train)


def _set_aside(
    path: Path, classes: tuple[str, ...], parts: list[Part], held_out: float, train_per_class: int | None, seed: int
) -> dict[str, list[Part]]:
    """The pictures of each class divided into those trained on and those set aside."""
    train, aside = [], []
    for name, part in zip(classes, parts, strict=True):
        count = len(part)
        if train_per_class is None:
            kept = count - min(max(1, round(held_out * count)), count - 1)
        elif count <= train_per_class:
            raise ValueError(
                f"{path}: class {name!r} has {count} pictures, train_per_class={train_per_class} leaves none to test "
                f"on; choose at most {min(map(len, parts)) - 1}"
            )
        else:
            kept = train_per_class
        # Keyed by the class's name: another class coming or going changes nothing in this one's draw.
        chosen = np.random.default_rng([seed, zlib.crc32(name.encode())]).permutation(count)
        train.append(_take(part, np.sort(chosen[:kept])))
        aside.append(_take(part, np.sort(chosen[kept:])))
    if not any(map(len, aside)):
        raise ValueError(
            f"{path}: a class must have 2 pictures for one to be set aside as val; got 1 in each class: add some, "
            "or give the folder a train/ and a val/"
        )
    return {"train": train, "val" if train_per_class is None else "test": aside}


def _take(part: Part, places: np.ndarray) -> Part:
    return Part(part.names.take(pa.array(places)), part.labels[places], part.sizes[places], part.offsets[places])


def _join(parts: list[Part]) -> Part:
    """Parts one after another as one."""
    names = pa.concat_arrays([part.names for part in parts])
    columns: Iterator[np.ndarray] = (
        np.concatenate([getattr(part, column) for part in parts]) for column in ("labels", "sizes", "offsets")
    )
    return Part(names, *columns)

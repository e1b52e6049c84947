"""WebDataset shards: .tar files of pictures, each followed by its label under the same name, "7.jpg" and "7.cls".

The source is one .tar, a pattern such as "train-{000000..000009}.tar", or a folder of .tar files.
"""

import itertools
import json
import re
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.sources.archive import first_paths_in_tar
from alexnet.data.sources.base import Source, SourceOptions, printable_name
from alexnet.data.sources.file_tree import FileEntry, is_hidden
from alexnet.data.sources.labels import LABEL_COLUMNS
from alexnet.data.sources.listing import is_picture_name
from alexnet.data.sources.split_names import find_split_names, group_by_split
from alexnet.data.sources.table import TableFile, build_table_source
from alexnet.data.sources.tar import ArchiveFile, TarRegion

NAME = "the .tar shards of a WebDataset"
OPTIONS: tuple[str, ...] = ("train_per_class",)

_LABEL_ENDINGS = ("cls", "json", "txt")  # the first one of a picture is taken
_MAX_LABEL_BYTES = 1 << 20  # a JSON object may describe the picture, too
_CLASS_NAMES_FILES = ("classnames.txt", "classes.txt")  # beside the shards, the name of a class on each line
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 100_000


def matches(path: Path) -> bool:
    """Return whether shards are at `path`.

    Raises:
        ValueError: A .tar is damaged.
    """
    return bool(_RANGE.search(path.name)) or any(map(_is_shard, _find_shards(path)[:1]))


def open(path: Path, options: SourceOptions) -> Source:
    """Open the pictures of WebDataset shards, whose splits are in the names of the shards or of their folders.

    Raises:
        FileNotFoundError: A shard of the pattern is missing.
        ValueError: A shard is damaged; a picture has no label; or see `build_table_source`.
    """
    shards = _find_shards(path)
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: no such file; {len(missing)} of the {len(shards)} of {path} are missing"
        )
    folder = path if path.is_dir() else path.parent
    class_names = _read_class_names(folder)
    rows = _ShardRows()
    files = {
        split: [rows.add_shard(shards[number], folder, class_names) for number in numbers]
        for split, numbers in group_by_split(path, shards).items()
    }
    return build_table_source(path, rows, files, class_names, options)


def _find_shards(path: Path) -> list[Path]:
    """Return the .tar files of a pattern, or in a folder and in its folders for splits, or the .tar itself."""
    if _RANGE.search(path.name):
        return [path.with_name(name) for name in _expand(path.name)]
    if not path.is_dir():
        return [path] if path.is_file() and path.suffix.lower() == ".tar" else []
    children = sorted(child for child in path.iterdir() if not is_hidden(child.name))
    shards = [child for child in children if child.suffix.lower() == ".tar" and child.is_file()]
    names = find_split_names(child.name for child in children if child.is_dir())
    return shards + [shard for name in sorted(names) for shard in (path / name).glob("*.tar") if shard.is_file()]


def _expand(pattern: str) -> list[str]:
    """Return the names that a pattern means: "a-{08..10}.tar" is "a-08.tar", "a-09.tar" and "a-10.tar".

    Raises:
        ValueError: They are none, or too many.
    """
    texts = _RANGE.split(pattern)[::3]
    ranges = [(first, range(int(first), int(last) + 1)) for first, last in _RANGE.findall(pattern)]
    count = int(np.prod([float(len(numbers)) for _, numbers in ranges]))
    if not 1 <= count <= _MAX_SHARDS:
        raise ValueError(f"{pattern}: must mean from 1 to {_MAX_SHARDS:,} files; got {count:,}")
    choices = ([f"{number:0{len(first)}d}" for number in numbers] for first, numbers in ranges)
    return ["".join(itertools.chain(*zip(texts, (*chosen, ""), strict=True))) for chosen in itertools.product(*choices)]


def _is_shard(path: Path) -> bool:
    """Return whether a .tar begins with a picture and its label. Class folders may have .txt and .json files, too."""
    endings: dict[str, set[str]] = {}
    for name in first_paths_in_tar(path):
        key, ending = _divide(name)
        is_label = ending in _LABEL_ENDINGS and (ending == "cls" or "/" not in name.removeprefix("./"))
        if is_label or (ending and is_picture_name(name)):
            endings.setdefault(key, set()).add("label" if is_label else "picture")
    return any(len(kinds) == 2 for kinds in endings.values())


def _divide(name: str) -> tuple[str, str]:
    """Return the key of a member, its path up to the first dot of its name, and the ending in lower case."""
    folder, slash, file = name.rpartition("/")
    key, _, ending = file.partition(".")
    return folder + slash + key, ending.lower()


def _read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Return the class names in a file beside the shards; None if there is no such file."""
    for path in [folder / name for name in _CLASS_NAMES_FILES]:
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return None


class _ShardRows:
    """The pictures of shards."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._offsets: list[array[int]] = []
        self._sizes: list[array[int]] = []
        self._of_thread = threading.local()

    def add_shard(self, path: Path, folder: Path, class_names: Sequence[str] | None) -> tuple[int, TableFile]:
        """List the pictures of a shard.

        Args:
            path: The shard.
            folder: The folder that the shard is named within.
            class_names: The class names, of which a label is the index; None if the labels are the names.

        Returns:
            Its number, and what is listed of it.

        Raises:
            ValueError: The shard is damaged, or a label is no whole number although there are class names.
        """
        file = ArchiveFile(path)
        offsets, sizes, names, labels = array("q"), array("q"), [], []
        for picture, label in _pair_members(file):
            offsets.append(picture.offset)
            sizes.append(picture.size)
            names.append(printable_name(picture.path))
            labels.append(_read_label(file, label) if label else None)
        self._paths.append(path)
        self._offsets.append(offsets)
        self._sizes.append(sizes)
        name = path.relative_to(folder).as_posix()
        column = pa.array(labels, pa.string()) if class_names is None else _to_numbers(path, names, labels)
        paths = pa.array(names, pa.string())
        return len(self._paths) - 1, TableFile(name, column, paths, np.array(sizes, np.int64), file.mtime)

    def read(self, file: int, row: int) -> tuple[bytes | None, str | None]:
        """Return a picture's bytes, and no path.

        Raises:
            ValueError: The file is too large for a picture, or cut off.
        """
        path = self._paths[file]
        archive: ArchiveFile | None = getattr(self._of_thread, "archive", None)
        if archive is None or archive.path != path:  # there may be more shards than a process may have open files
            archive = self._of_thread.archive = ArchiveFile(path)
        return archive.read_picture(FileEntry("", self._sizes[file][row], self._offsets[file][row])), None


def _pair_members(file: ArchiveFile) -> Iterator[tuple[FileEntry, FileEntry | None]]:
    """Yield the pictures of a shard with the members that have their labels; members of a key follow each other."""
    members = (entry for entry in TarRegion(file).entries() if not entry.path.endswith("/"))
    for _, of_key in itertools.groupby(members, key=lambda entry: _divide(entry.path)[0]):
        by_ending = {_divide(entry.path)[1]: entry for entry in of_key}
        pictures = [ending for ending in by_ending if ending and is_picture_name(f"x.{ending}")]
        if pictures:
            label = next((by_ending[ending] for ending in _LABEL_ENDINGS if ending in by_ending), None)
            yield by_ending[min(pictures, key=lambda ending: ending.count("."))], label  # "jpg" before "mask.png"


def _read_label(file: ArchiveFile, member: FileEntry) -> str | None:
    """Return the label in a member: its text, or a field of its JSON object. None if there is none.

    Raises:
        ValueError: It is too large, or damaged.
    """
    place = f"{file.path}, member {printable_name(member.path)}"
    if member.size > _MAX_LABEL_BYTES:
        raise ValueError(f"{place}: a label must have at most {_MAX_LABEL_BYTES:,} bytes; got {member.size:,}")
    text = file.read(member.offset, member.size).decode("utf-8", "replace")
    if not member.path.lower().endswith(".json"):
        return text.strip()
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: must be a JSON object ({error}); pack the shard again") from error
    names = [name for name in LABEL_COLUMNS if isinstance(values, dict) and isinstance(values.get(name), (str, int))]
    return str(values[names[0]]) if names else None


def _to_numbers(path: Path, names: Sequence[str], labels: Sequence[str | None]) -> pa.Array:
    """Return labels as numbers.

    Args:
        path: The shard, for messages.
        names: The names of the pictures, for messages.
        labels: The labels.

    Raises:
        ValueError: A label is no whole number.
    """
    for name, label in zip(names, labels, strict=True):
        if label is not None and not re.fullmatch(r"-?[0-9]{1,18}", label):
            raise ValueError(
                f"{path}, member {name}: a label must be a whole number, since there is a file of class names; "
                f"got {label[:60]!r}"
            )
    return pa.array([None if label is None else int(label) for label in labels], pa.int64())

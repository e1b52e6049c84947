"""Comparing the files of stores, runs, indexes and exports with their checksums (`alexnet verify`)."""

import json
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alexnet.data.store.checksums import StoreChecksums
from alexnet.data.store.format import (
    CHECKSUMS_FILE,
    OFFSETS_FILE,
    PROGRESS_FILE,
    STATISTICS_FILE,
    read_safetensors,
)
from alexnet.data.store.location import StoreURL, parse_location
from alexnet.data.store.remote_folder import RemoteFolder
from alexnet.models.weight_files import best_checkpoint, list_checkpoints
from alexnet.utils.checksums import Buffer, checksum, damaged_parts, is_whole

_CHANGEABLE = ("README.md",)  # a model card, which people complete


@dataclass(frozen=True)
class VerifiedFile:
    """A file, and what its checksums say.

    Args:
        name: Its path within what was verified; "" for a single file.
        parts: The damaged parts, such as "tensor net.fc8.weight" or "picture robins/17.jpg"; none if it is whole; None
            if it has no checksums.
    """

    name: str
    parts: tuple[str, ...] | None


@dataclass(frozen=True)
class Verified:
    """What was verified.

    Args:
        path: A store, a run, an index, an exported folder or a file.
        kind: Which of these.
        files: Its files.
    """

    path: Path | StoreURL
    kind: str
    files: tuple[VerifiedFile, ...]

    @property
    def damaged(self) -> tuple[VerifiedFile, ...]:
        """The damaged files."""
        return tuple(file for file in self.files if file.parts)

    @property
    def unchecked(self) -> tuple[VerifiedFile, ...]:
        """The files without checksums: an earlier version has written them, or another program."""
        return tuple(file for file in self.files if file.parts is None)


def verify(location: str | Path) -> Verified:
    """Compare all files with their checksums.

    Args:
        location: A store (also at a URL), a run, an index, an exported folder, or a file of one of these.

    Raises:
        FileNotFoundError: There is nothing, or a run without a checkpoint.
        ValueError: It is a folder of another kind, or the recipe of a run without a checkpoint is damaged.
        OSError: A file cannot be read.
    """
    path = parse_location(location)
    if isinstance(path, StoreURL):
        folder = RemoteFolder(path)
        return Verified(path, "store", tuple(_verify_store(_remote_files(folder), folder.read_file)))
    if not path.exists():
        raise FileNotFoundError(f"{path} must be a store, a run, an index, or what was exported; there is no such file")
    if not path.is_dir():
        return Verified(path, "file", (_verify_file(path, ""),))
    names = [file.relative_to(path).as_posix() for file in sorted(path.rglob("*")) if file.is_file()]
    if any(name in names for name in (STATISTICS_FILE, PROGRESS_FILE, CHECKSUMS_FILE)):
        return Verified(path, "store", tuple(_verify_store(names, lambda name: (path / name).read_bytes())))
    if (path / "checkpoints").is_dir():
        return Verified(path, "run", tuple(_verify_run(path, names)))
    if "about.json" in names:
        return Verified(path, "index", tuple(_verify_index(path, names)))
    if "config.json" in names and "model.safetensors" in names:
        files = (_verify_file(path / name, name) for name in names if name not in _CHANGEABLE)
        return Verified(path, "export", tuple(files))
    if "recipe.json" in names:  # a run without a checkpoint, and so without checksums
        best_checkpoint(path)  # says what is missing or damaged
    raise ValueError(f"{path} must be a store, a run, an index or an exported folder; it has no file of one of these")


@contextmanager
def _map_file(path: Path) -> Iterator[Buffer]:
    """Map a file into memory; an empty one cannot be mapped."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as contents:
            yield contents


def _parts_of(name: str, contents: Buffer) -> tuple[str, ...] | None:
    """Return the damaged parts of a file that has its checksums within it; None if it has none."""
    if name.endswith(".safetensors"):
        parts = damaged_parts(contents)
        return None if parts is None else tuple(parts)
    return {True: (), False: ("its contents",), None: None}[is_whole(contents)]


def _verify_file(path: Path, name: str) -> VerifiedFile:
    with _map_file(path) as contents:
        return VerifiedFile(name, _parts_of(path.name, contents))


def _remote_files(folder: RemoteFolder) -> list[str]:
    """Return the names of the files of a store at a URL, as far as they are known."""
    contents = folder.read_file(CHECKSUMS_FILE)
    try:
        listed = StoreChecksums.parse(contents, f"{folder.url}/{CHECKSUMS_FILE}").files
    except ValueError:
        listed = {}
    return [CHECKSUMS_FILE, OFFSETS_FILE, STATISTICS_FILE, *listed]


def _verify_store(names: list[str], read: Callable[[str], bytes]) -> Iterator[VerifiedFile]:
    """Yield the files of a store.

    Args:
        names: The names of its files.
        read: Returns the contents of a file.
    """
    checksums = StoreChecksums({}, {})
    if CHECKSUMS_FILE in names:
        contents = read(CHECKSUMS_FILE)
        parts = _parts_of(CHECKSUMS_FILE, contents)
        yield VerifiedFile(CHECKSUMS_FILE, parts)
        if parts == ():
            checksums = StoreChecksums.parse(contents, CHECKSUMS_FILE)
    for name in sorted({*names, *checksums.files} - {CHECKSUMS_FILE}):
        try:
            contents = read(name)
        except FileNotFoundError:
            yield VerifiedFile(name, ("missing",))
            continue
        if name in checksums.files:
            yield VerifiedFile(name, tuple(checksums.damaged_parts(name, contents)))
        else:
            yield VerifiedFile(name, _parts_of(name, contents))


def _verify_run(run: Path, names: list[str]) -> Iterator[VerifiedFile]:
    """Yield the files of a run. The last checkpoint has the checksums of the recipe and of the metrics."""
    index = [name.removeprefix("index/") for name in names if name.startswith("index/")]
    if "about.json" in index:
        for file in _verify_index(run / "index", index):
            yield VerifiedFile(f"index/{file.name}", file.parts)
    files, metrics_bytes = _files_of_checkpoint(run)
    for name in names:
        if name in files:
            contents = (run / name).read_bytes()
            contents = contents[:metrics_bytes] if name == "metrics.jsonl" else contents
            yield VerifiedFile(name, () if checksum(contents) == files[name] else ("its contents",))
        elif not (index and name.startswith("index/")):
            yield _verify_file(run / name, name)
    for name in sorted({*files} - {*names}):
        yield VerifiedFile(name, ("missing",))


def _files_of_checkpoint(run: Path) -> tuple[Mapping[str, str], int]:
    """Return the checksums of other files that the latest whole checkpoint has, and the length of metrics.jsonl."""
    for path in [*reversed(list_checkpoints(run)), best_checkpoint(run)]:
        with _map_file(path) as contents:
            is_readable = damaged_parts(contents) == []
        if is_readable:
            metadata = read_safetensors(path)[1]
            return metadata.get("files", {}), metadata["progress"]["metrics_bytes"]
    return {}, 0


def _verify_index(folder: Path, names: list[str]) -> Iterator[VerifiedFile]:
    """Yield the files of an index. Its about.json has the checksums of the others."""
    about = _verify_file(folder / "about.json", "about.json")
    yield about
    files = json.loads((folder / "about.json").read_bytes()).get("files", {}) if about.parts == () else {}
    for name in names:
        if name in files:
            with _map_file(folder / name) as contents:
                is_same = checksum(contents) == files[name]
                parts = () if is_same else _parts_of(name, contents) or ("its contents",)
            yield VerifiedFile(name, parts)
        elif name != "about.json":
            yield _verify_file(folder / name, name)
    for name in sorted({*files} - {*names}):
        yield VerifiedFile(name, ("missing",))

"""CIFAR-10 in its binary or its Python version, a folder or an archive (section 4.1 compares nets on it)."""

from collections.abc import Sequence
from pathlib import Path

from alexnet.data.sources import cifar
from alexnet.data.sources.base import Source, SourceOptions

NAME = "CIFAR-10"
OPTIONS: tuple[str, ...] = ("val_batch",)

_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TRAIN_FILES = tuple(f"{name}.bin" for name in _BATCHES)
_FILES = ("batches.meta.txt", *TRAIN_FILES, "test_batch.bin")
_PYTHON_FILES = ("batches.meta", *_BATCHES, "test_batch")
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")  # the only folder in the archive


def matches(path: Path) -> bool:
    """Return whether CIFAR-10 is at `path`.

    Raises:
        ValueError: The file is a damaged archive.
    """
    return _find(path) is not None


def open(path: Path, options: SourceOptions) -> Source:
    """Open CIFAR-10: binary files of a folder are memory-mapped, those of an archive and pickles are read into memory.

    Args:
        path: The folder of the unpacked archive or the folder around it, or the .tar, .tar.gz or .tar.xz.
        options: `val_batch`.

    Raises:
        ValueError: A file is missing or damaged; a pickle contains more than plain data; or there is no such batch.
    """
    path = _find(path) or path
    name = path.name
    files = cifar.read_files(path, (*_FILES, *_PYTHON_FILES))
    if set(files) & set(_FILES):
        classes = cifar.parse_class_names(name, _FILES[0], files)
        batches = {file: cifar.parse_records(name, file, files, label_bytes=1, label=0) for file in _FILES[1:]}
        return cifar.build_source(path, classes, batches, _assign_files(TRAIN_FILES, _FILES[-1], options.val_batch))
    contents = {file: cifar.parse_pickle(name, file, files) for file in _PYTHON_FILES}
    classes = cifar.pickled_class_names(name, _PYTHON_FILES[0], contents[_PYTHON_FILES[0]], "label_names")
    batches = {file: cifar.pickled_batch(name, file, contents[file], "labels") for file in _PYTHON_FILES[1:]}
    return cifar.build_source(path, classes, batches, _assign_files(_BATCHES, _PYTHON_FILES[-1], options.val_batch))


def _find(path: Path) -> Path | None:
    """Return the folder with the files, `path` or one in it, or the archive; None if it is neither."""
    for folder in (path, *(path / name for name in _FOLDERS)):
        if cifar.find_names(folder, (*_BATCHES, *TRAIN_FILES, *_FOLDERS)):
            return folder
    return None


def _assign_files(batches: Sequence[str], test_file: str, val_batch: int | None) -> dict[str, Sequence[str]]:
    """Return the files of each split. The 2012 program's nets with translations validate on a training batch."""
    if val_batch is None:
        return {"train": batches, "test": (test_file,)}
    if not 1 <= val_batch <= len(batches):
        raise ValueError(f"val_batch must be from 1 to {len(batches)}, CIFAR-10's training batches; got {val_batch}")
    val_file = batches[val_batch - 1]
    return {"train": [file for file in batches if file != val_file], "val": (val_file,), "test": (test_file,)}

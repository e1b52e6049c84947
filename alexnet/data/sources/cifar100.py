"""CIFAR-100 in its binary or its Python version, a folder or an archive: 100 classes, or their 20 superclasses."""

from pathlib import Path

from alexnet.data.sources import cifar
from alexnet.data.sources.base import Source, SourceOptions

NAME = "CIFAR-100"
OPTIONS: tuple[str, ...] = ("coarse",)

_FINE_NAMES, _COARSE_NAMES = "fine_label_names.txt", "coarse_label_names.txt"
_FILES = ("train.bin", "test.bin")
_META_FILE = "meta"
_PYTHON_FILES = ("train", "test")
_FOLDERS = ("cifar-100-binary", "cifar-100-python")  # the only folder in the archive


def matches(path: Path) -> bool:
    """Return whether CIFAR-100 is at `path`.

    Raises:
        ValueError: The file is a damaged archive.
    """
    return _find(path) is not None


def open(path: Path, options: SourceOptions) -> Source:
    """Open CIFAR-100: binary files of a folder are memory-mapped, those of an archive and pickles are read into memory.

    Args:
        path: The folder of the unpacked archive or the folder around it, or the .tar, .tar.gz or .tar.xz.
        options: `coarse`.

    Raises:
        ValueError: A file is missing or damaged, or a pickle contains more than plain data.
    """
    path = _find(path) or path
    name, coarse = path.name, bool(options.coarse)
    files = cifar.read_files(path, (_FINE_NAMES, _COARSE_NAMES, *_FILES, _META_FILE, *_PYTHON_FILES))
    if set(files) & {_FINE_NAMES, _COARSE_NAMES, *_FILES}:
        classes = cifar.parse_class_names(name, _COARSE_NAMES if coarse else _FINE_NAMES, files)
        batches = {
            file: cifar.parse_records(name, file, files, label_bytes=2, label=0 if coarse else 1) for file in _FILES
        }
        return cifar.build_source(path, classes, batches, {"train": _FILES[:1], "test": _FILES[1:]})
    kind = "coarse" if coarse else "fine"
    contents = {file: cifar.parse_pickle(name, file, files) for file in (_META_FILE, *_PYTHON_FILES)}
    classes = cifar.pickled_class_names(name, _META_FILE, contents[_META_FILE], f"{kind}_label_names")
    batches = {file: cifar.pickled_batch(name, file, contents[file], f"{kind}_labels") for file in _PYTHON_FILES}
    return cifar.build_source(path, classes, batches, {"train": _PYTHON_FILES[:1], "test": _PYTHON_FILES[1:]})


def _find(path: Path) -> Path | None:
    """Return the folder with the files, `path` or one in it, or the archive; None if it is neither."""
    for folder in (path, *(path / name for name in _FOLDERS)):
        if cifar.find_names(folder, (_FINE_NAMES, _COARSE_NAMES, *_FOLDERS)):
            return folder
        if len(cifar.find_names(folder, (_META_FILE, *_PYTHON_FILES))) == 3:
            return folder
    return None

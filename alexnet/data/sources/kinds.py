"""The kinds of sources, and `open_source`, which finds out the kind of a source and opens it.

A new kind is one more module with the functions of `SourceKind`, and one more entry of `KINDS`.
"""

from pathlib import Path

from alexnet.data.sources import (
    archive,
    cifar10,
    cifar100,
    folder,
    hugging_face,
    imagenet,
    imagenet_release,
    parquet,
    picture_list,
    saved_dataset,
    webdataset,
)
from alexnet.data.sources.base import Source, SourceKind, SourceOptions
from alexnet.data.sources.labels import check_class_names

# The first one that matches is taken: special kinds first.
KINDS: tuple[SourceKind, ...] = (
    hugging_face,
    cifar10,
    cifar100,
    imagenet,
    imagenet_release,
    parquet,
    saved_dataset,
    picture_list,
    webdataset,
    archive,
    folder,
)


def open_source(path: str | Path, options: SourceOptions | None = None) -> Source:
    """Open a source of pictures: list its pictures with their classes and splits, without decoding any.

    Args:
        path: A folder, file or name of one of the `KINDS`.
        options: How to divide the pictures into splits. By default a tenth of each class is held out.

    Returns:
        The source.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The source is of no known kind, has too few classes or pictures, or cannot use an option.
    """
    path, options = Path(path), options or SourceOptions()
    *names, last_name = (kind.NAME for kind in reversed(KINDS))
    remedy = f"give {', '.join(names)} or {last_name}; a class folder has the pictures of one class"
    kind = _find_kind(path)
    if kind is None and not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or archive; check the path")
    if kind is None:
        raise ValueError(f"{path}: not a source that can be read; {remedy}")
    for name in sorted({name for other in KINDS for name in other.OPTIONS} - set(kind.OPTIONS)):
        users = " or ".join(other.NAME for other in KINDS if name in other.OPTIONS)
        options.refuse(name, path, f"`{name}` is an option for {users}, but this is {kind.NAME}")
    source = kind.open(path, options)
    check_class_names(str(path), source.classes)
    if not options.only_tests and not any(split.is_drawn for split in source.splits.values()):
        reason = "it has splits of its own" if len(source.splits) > 1 else "none of its pictures are held out"
        for name, split in (("test", "test"), ("held_out", "val"), ("seed", None)):
            if split is None or getattr(options, name) != 0 or split in source.splits:  # else 0 is what happens
                options.refuse(name, path, reason)
    return source


def is_source(path: Path) -> bool:
    """Return whether `open_source` knows the kind of what is at `path`, also of a name or a pattern of names."""
    return _find_kind(path) is not None


def _find_kind(path: Path) -> SourceKind | None:
    """Return the first kind that matches; None if there is none."""
    return next((kind for kind in KINDS if kind.matches(path)), None)

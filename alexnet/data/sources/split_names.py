"""Names of splits: which of train, val and test the name of a folder, a file or an entry of a list means."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_SPLITS_BY_WORD = {
    **dict.fromkeys(("train", "training", "trainset", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "tst"), "test"),
}
# Words of folders whose pictures have no classes, beside folders of splits.
_UNLABELLED_WORDS = frozenset(("pred", "prediction", "unlabeled", "unlabelled"))


def split_of_word(word: str) -> str | None:
    """Return the split that a word means: "val" for "Validation"; None for any other word."""
    return _SPLITS_BY_WORD.get(word.strip().casefold())


def split_in_name(name: str) -> str | None:
    """Return the split in the name of a file or folder: "train" for "train-00000-of-00005.parquet".

    None if the name contains no word for a split, or several.
    """
    return _divide(name)[0]


def group_by_split(source: Path, files: Sequence[Path]) -> dict[str, list[int]]:
    """Return the numbers of the files of each split, which is in the names of the files or of the folders around them.

    All are of "train" if no name has a word for a split, or if they were not given as a folder and are of one split.

    Args:
        source: The folder of the files; else the file, or a name for some files.
        files: The files.

    Raises:
        ValueError: Only some of the names have a word for a split.
    """
    groups: dict[str | None, list[int]] = {}
    for number, file in enumerate(files):
        names = reversed(file.relative_to(source).parts) if source.is_dir() else [file.name]
        split = next((split for name in names if (split := split_in_name(name)) is not None), None)
        groups.setdefault(split, []).append(number)
    if None in groups and len(groups) > 1:
        raise ValueError(
            f"{source}: {files[groups[None][0]].name} has no word for its split in its name, as other files have; "
            "rename it, such as train-00000, or move it away"
        )
    if None in groups or (len(groups) == 1 and not source.is_dir()):
        return {"train": list(range(len(files)))}
    return {str(split): numbers for split, numbers in groups.items()}


def find_split_names(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each of the names of folders beside each other that are the splits of a data set.

    These are names that are a word for a split ("train", "Validation"), or several that differ in this word only
    ("seg_train" and "seg_test", "training_set" and "test_set"), "train" among them.

    Args:
        names: The names of the folders.

    Returns:
        From name to split. Several names can mean the same split. Empty if the folders are no splits.
    """
    divided = {name: _divide(name) for name in names}
    groups: dict[str, dict[str, str]] = {}
    for name, (split, rest) in divided.items():
        if split:
            groups.setdefault(rest, {})[name] = split
    if "" in groups:
        return groups[""]
    pairs = [group for group in groups.values() if "train" in group.values() and len(set(group.values())) > 1]
    return pairs[0] if len(pairs) == 1 else {}


def is_unlabelled_name(name: str) -> bool:
    """Return whether a folder of this name, beside folders of splits, has pictures without classes: "seg_pred"."""
    return not _UNLABELLED_WORDS.isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    """Return the words and numbers in a name, in lower case."""
    return re.findall(r"[^\W\d_]+|\d+", name.casefold())


def _divide(name: str) -> tuple[str | None, str]:
    """Return the split that one word of a name means, and the other words; (None, "") if there is not one such word."""
    words = _words(name)
    positions = [index for index, word in enumerate(words) if word in _SPLITS_BY_WORD]
    if len(positions) != 1:
        return None, ""
    return _SPLITS_BY_WORD[words.pop(positions[0])], " ".join(words)

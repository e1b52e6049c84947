"""The contest's number of each class of a run, from the development kit or from a list."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from alexnet.data.sources.devkit import is_devkit, read_synsets
from alexnet.data.store.class_ids import ClassIds
from alexnet.utils.wordnet import WNID


def read_class_ids(path: Path, classes: Sequence[str]) -> ClassIds:
    """Return the contest's number of each class.

    Args:
        path: The contest's development kit, packed or unpacked; its meta.mat; or a text file whose line n names the
            class with the number n: by the class's name, or by its first word, such as a WordNet ID.
        classes: The class names. Those that begin with a WordNet ID are known by it.

    Raises:
        ValueError: A class is missing, or the list is merely sorted by WordNet ID.
    """
    contest = ""
    if path.is_dir() or is_devkit(path):
        year, synsets = read_synsets(path)
        contest, numbers = f"ILSVRC{year}", {synset.wnid: synset.id for synset in synsets}
    else:
        numbers = _read_list(path)
    ids = [_find_number(name, numbers) for name in classes]
    missing = [name for name, number in zip(classes, ids, strict=True) if number is None]
    if missing:
        raise ValueError(
            f"{path} must have a number for every class of the run; {missing[0]!r} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    return ClassIds(contest, tuple(number for number in ids if number is not None))


def _find_number(name: str, numbers: Mapping[str, int]) -> int | None:
    """Return the number of a class by its name or by the WordNet ID that its name begins with."""
    wnid = name.split(" ")[0]
    return numbers.get(name, numbers.get(wnid) if WNID.fullmatch(wnid) else None)


def _read_list(path: Path) -> dict[str, int]:
    """Return the number of each class in a list, by its whole line and by the first word of it, if no other has it."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()]
    first_words = [next(iter(line.split()), "") for line in lines]
    if first_words and all(map(WNID.fullmatch, first_words)) and first_words == sorted(first_words):
        raise ValueError(
            f"{path} must name the classes in the order of the contest's numbers; its lines are merely sorted by "
            "WordNet ID: give the contest's development kit instead, ILSVRC2012_devkit_t12.tar.gz or its meta.mat"
        )
    counts = Counter(first_words)
    numbers = {word: number for number, word in enumerate(first_words, 1) if counts[word] == 1}
    return numbers | {line: number for number, line in enumerate(lines, 1)}

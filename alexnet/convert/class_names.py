"""The names of an imported net's classes: of a text file with a line for each, a store, or a development kit."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.data.sources.devkit import is_devkit, read_synsets
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.store import Store
from alexnet.utils.wordnet import WNID

_STARTS_WITH_WNID = re.compile(rf"{WNID.pattern}\b")


@dataclass(frozen=True)
class ClassNames:
    """The classes of an imported net.

    Args:
        names: Their names, in the order of the run.
        outputs: For each class, which output of the other program's net it is.
        class_ids: The contest's numbers of the classes, if a store or a development kit has them.
    """

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    class_ids: ClassIds | None = None


def numbered_names(count: int) -> ClassNames:
    """Return names for classes of which nothing is known: "class 0001" and so on."""
    digits = len(str(count))
    return ClassNames(tuple(f"class {number:0{digits}}" for number in range(1, count + 1)), tuple(range(count)))


def read_class_names(source: Path, count: int) -> ClassNames:
    """Read the names of the classes from a text file, a store, or a development kit of ImageNet's challenge.

    Args:
        source: A text file whose line n names the n-th output; or a store, or a kit, packed or unpacked. Where the
            classes of a store or a kit begin with their WordNet IDs, the outputs are in the order of these, as in all
            nets trained on ImageNet; else they are in the order of the store.
        count: The number of outputs.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are more or fewer names, or a line is empty; or the kit cannot be read.
    """
    if source.exists() and is_devkit(source):
        return _from_devkit(source, count)
    if source.is_dir():
        return _from_store(source, count)
    if not source.is_file():
        raise FileNotFoundError(
            f"`classes` must be a text file, a store or a development kit; there is no {source}: check the path"
        )
    try:
        lines = source.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"`classes` {source} must be a text file in UTF-8; it is not ({error})") from error
    names = [line.strip() for line in lines]
    _check_count(source, len(names), count)
    if "" in names:
        raise ValueError(f"`classes` {source} must have a name in each line; line {names.index('') + 1} is empty")
    return ClassNames(_make_unique(names), tuple(range(count)))


def _from_store(folder: Path, count: int) -> ClassNames:
    store = Store(folder)
    names = store.classes
    _check_count(folder, len(names), count)
    return ClassNames(names, _output_indices(names), store.class_ids)


def _from_devkit(kit: Path, count: int) -> ClassNames:
    year, synsets = read_synsets(kit)
    names = tuple(synset.class_name for synset in synsets)
    _check_count(kit, len(names), count)
    return ClassNames(names, _output_indices(names), ClassIds(f"ILSVRC{year}", tuple(synset.id for synset in synsets)))


def _output_indices(names: Sequence[str]) -> tuple[int, ...]:
    """Return which output each class is: in the order of the WordNet IDs if all names begin with theirs."""
    outputs = list(range(len(names)))
    if all(_STARTS_WITH_WNID.match(name) for name in names):
        for output, index in enumerate(sorted(outputs, key=lambda index: names[index])):
            outputs[index] = output
    return tuple(outputs)


def _check_count(source: Path, names: int, count: int) -> None:
    if names != count:
        raise ValueError(
            f"`classes` {source} must have {count} names, one for each output of the net; got {names}: use the list of "
            "the classes that the net was trained on, in their order"
        )


def _make_unique(names: list[str]) -> tuple[str, ...]:
    """Return the names, numbered where several are equal, as two of ImageNet's words are: "crane", "crane (2)"."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(unique)

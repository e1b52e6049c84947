"""The hierarchical error of ILSVRC-2010: mistakes between related classes cost less."""

from pathlib import Path

import numpy as np

from alexnet.data.sources.devkit import read_cost_matrix
from alexnet.data.store.store import Store
from alexnet.utils.console import note_once
from alexnet.utils.intervals import mean_interval

_META_FILE = "meta.mat"
_CONTEST = "ILSVRC2010"  # the only one with costs


def read_costs(path: Path, store: Store) -> np.ndarray:
    """Return the costs of mistakes between the classes of a store.

    Args:
        path: The development kit of ILSVRC-2010, packed or unpacked, or its meta.mat.
        store: The store. Its classes are known by the contest's numbers, or by names that are or begin with WordNet
            IDs, or are the kit's words.

    Returns:
        (classes, classes) float64: the cost of each predicted class (row) for a correct class (column).

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not such a file, or has no costs, or not those of all classes.
    """
    synsets, costs = read_cost_matrix(path)
    by_wnid = {synset.wnid: index for index, synset in enumerate(synsets)}
    by_words = {synset.words: index for index, synset in enumerate(synsets)}
    rows = [by_wnid.get(name.partition(" ")[0], by_words.get(name, -1)) for name in store.classes]
    if store.class_ids is not None and store.class_ids.contest == _CONTEST:
        rows = [number - 1 for number in store.class_ids.ids]
    missing = [name for name, row in zip(store.classes, rows, strict=True) if not 0 <= row < len(costs)]
    if missing:
        raise ValueError(
            f"{path} must have every class of the store, by its WordNet ID or its words; {missing[0]!r} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    return np.asarray(costs[np.ix_(rows, rows)])


def find_costs(path: str | Path | None, store: Store) -> np.ndarray | None:
    """Return the costs of mistakes between the classes of a store.

    Args:
        path: The file that `read_costs` reads; by default a meta.mat in the store's folder or beside it.
        store: The store.

    Returns:
        As `read_costs`; None if no path is given, and there is no such file or it is of no use, which a note says.
    """
    if path is not None:
        return read_costs(Path(path), store)
    if not isinstance(store.path, Path):
        return None
    folder = store.path.resolve()
    for candidate in (folder / _META_FILE, folder.parent / _META_FILE):
        if candidate.is_file():
            try:
                return read_costs(candidate, store)
            except ValueError as error:
                note_once(f"no hierarchical error: {error}")
    return None


def hierarchical_error(
    guesses: np.ndarray, labels: np.ndarray, costs: np.ndarray
) -> tuple[float, tuple[float, float] | None]:
    """Return the mean over the pictures of the lowest cost of their guesses, as the kit's `eval_hie.m` does.

    Args:
        guesses: (N, guesses) int, the most probable classes of each picture.
        labels: (N,) int.
        costs: (classes, classes), the cost of each guess (row) for a label (column).

    Returns:
        The mean, and its 95 % interval by the normal distribution; None in place of it for a single picture.
    """
    lowest = costs[guesses, labels[:, None]].min(1)
    mean = float(lowest.mean())
    return mean, mean_interval(lowest.tolist()) if len(lowest) > 1 else None


def hierarchical_errors(
    guesses: np.ndarray, labels: np.ndarray, costs: np.ndarray
) -> dict[int, tuple[float, tuple[float, float] | None]]:
    """Return `hierarchical_error` with one guess and with five, by their number.

    Args:
        guesses: (N, 5) int, or (N, classes) if there are fewer: the most probable classes, the most probable first.
        labels, costs: As for `hierarchical_error`.
    """
    return {count: hierarchical_error(guesses[:, :count], labels, costs) for count in (1, 5)}

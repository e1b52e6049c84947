"""The file that the ILSVRC contest takes: five guesses for each test picture (section 7: 15.3 %)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alexnet.data.prepare.decode import read_image
from alexnet.data.sources.archive import TarTree
from alexnet.data.sources.file_tree import FileEntry, FileTree
from alexnet.data.sources.folder import FolderTree
from alexnet.data.sources.imagenet_archives import find_imagenet_archives
from alexnet.data.store.class_ids import ClassIds
from alexnet.results.contest_ids import read_class_ids
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.cores import available_cores
from alexnet.utils.device import choose_device
from alexnet.utils.files import FileKind, check_output, write_output
from alexnet.utils.prefetch import prefetch

GUESSES = 5
BATCH = 32
_GUESSES_LINE = re.compile(rb"\d{1,6}(?: \d{1,6}){1,4}\n")
_NUMBERED_NAME = re.compile(r"(\d+)\.jpe?g$", re.IGNORECASE)
_CONTEST = re.compile(r"^(ILSVRC\d{4})_", re.IGNORECASE)  # in the name of a picture


def write_submission(
    runs: Sequence[str | Path],
    pictures: str | Path,
    file: str | Path,
    ids: str | Path | None = None,
    *,
    views: int | None = None,
    force: bool = False,
    device: str | torch.device | None = None,
) -> int:
    """Write the five most probable classes of each test picture, a line each, in the order of the pictures' numbers.

    Args:
        runs: Folders that `train` wrote, of nets with the same classes; their predictions are averaged.
        pictures: The test pictures, ILSVRC2012_test_00000001.JPEG and so on, numbered from 1 without a gap: a folder,
            a .tar (ILSVRC2012_img_test.tar), or the folder with this .tar.
        file: The file to write. A line has the contest's numbers of five classes, the most probable first.
        ids: The contest's development kit or its meta.mat; or a text file whose line n names the class with the
            contest's number n, which may have more lines than the nets have classes. By default the numbers that the
            runs have from their store.
        views: As for `evaluate`.
        force: Whether to replace a file of guesses. Another file is never replaced.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.

    Returns:
        The number of pictures.

    Raises:
        FileExistsError: The file exists and is not one of guesses, or it is and `force` is not set.
        FileNotFoundError: A run has no trained net, or there is no such folder or file.
        ValueError: The runs have different classes, or fewer than five; a class has no number; the numbers are merely
            those of sorted classes, or those of another contest; there is a gap in the numbers of the pictures; or a
            file is not a picture.
    """
    check_output(Path(file), _GUESSES_FILE, force=force)
    checkpoints = _load_matching([Path(run) for run in runs])
    classes, store_size = checkpoints[0].classes, checkpoints[0].recipe.store_size
    class_ids = _choose_class_ids(checkpoints, runs[0], ids)
    tree, entries = _list_test_pictures(Path(pictures))
    _check_contest(class_ids, entries[0])
    chosen_device = choose_device(device)
    nets = [(checkpoint.net().to_channels_last(chosen_device), checkpoint) for checkpoint in checkpoints]
    lines: list[str] = []
    with tqdm(total=len(entries), unit="picture", leave=False, disable=None) as bar:
        for squares in _read_batches(tree, entries, store_size):
            total = torch.zeros(len(squares), len(classes))
            for net, checkpoint in nets:
                recipe, mean = checkpoint.recipe, checkpoint.statistics.mean
                total += predict_pictures(net, squares, mean, recipe, default_views(recipe) if views is None else views)
            best = total.topk(GUESSES, dim=1).indices
            lines += [" ".join(str(class_ids.ids[label]) for label in row) for row in best.tolist()]
            bar.update(len(squares))
    write_output(Path(file), "".join(f"{line}\n" for line in lines).encode(), _GUESSES_FILE, force=force)
    return len(lines)


def _has_guesses(path: Path) -> bool:
    """Return whether a file has lines, and each of them only a few whole numbers, as a submission has."""
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(64), b"")  # a file that is no text may be one long line
        return path.stat().st_size > 0 and all(map(_GUESSES_LINE.fullmatch, lines))


_GUESSES_FILE = FileKind("a file of guesses written by `alexnet submit`", (), _has_guesses)


def _load_matching(runs: Sequence[Path]) -> list[Checkpoint]:
    """Load the best checkpoints of runs, and check that all have the same classes and the same size of pictures."""
    checkpoints = [load_best(run) for run in runs]
    if not checkpoints:
        raise ValueError("runs must name at least one run; got none")
    first = checkpoints[0]
    for run, checkpoint in zip(runs, checkpoints, strict=True):
        checkpoint.require_classes()
        for name, same in (
            ("classes", checkpoint.classes == first.classes),
            ("size of pictures", checkpoint.recipe.store_size == first.recipe.store_size),
        ):
            if not same:
                raise ValueError(f"runs must have the same {name}; {run} and {runs[0]} differ: submit each by itself")
    if len(first.classes) < GUESSES:
        raise ValueError(
            f"runs must have at least {GUESSES} classes, since so many are guessed; got {len(first.classes)}: name "
            "runs trained on the contest's own pictures"
        )
    return checkpoints


def _read_batches(tree: FileTree, entries: Sequence[FileEntry], size: int) -> Iterator[list[np.ndarray]]:
    """Yield batches of picture files as squares of `size` pixels; the next are read while the net works."""
    batches = [entries[start : start + BATCH] for start in range(0, len(entries), BATCH)]

    def read_square(entry: FileEntry) -> np.ndarray:
        try:
            return read_image(tree.read(entry), size)
        except ValueError as error:
            raise ValueError(f"{tree.name}: {entry.path}: not a readable picture: {error}") from error

    def read(batch: Sequence[FileEntry]) -> list[np.ndarray]:
        return [read_square(entry) for entry in batch]

    with closing(prefetch(read, batches, workers=available_cores(), buffer_size=2)) as squares:
        yield from squares


def _choose_class_ids(checkpoints: Sequence[Checkpoint], run: str | Path, ids: str | Path | None) -> ClassIds:
    """Return the contest's number of each class: from `ids`, or else those that a run has from its store."""
    if ids is not None:
        return read_class_ids(Path(ids), checkpoints[0].classes)
    class_ids = next((checkpoint.class_ids for checkpoint in checkpoints if checkpoint.class_ids is not None), None)
    if class_ids is None:
        raise ValueError(
            f"run {run} must have the contest's numbers of its classes; it has none, since its store was not prepared "
            "with a development kit: name the kit with `ids=ILSVRC2012_devkit_t12.tar.gz`"
        )
    return class_ids


def _check_contest(class_ids: ClassIds, entry: FileEntry) -> None:
    """Check that the numbers of the classes are those of the contest that a picture belongs to, by its name."""
    match = _CONTEST.match(entry.path.rpartition("/")[2])
    if match is not None and class_ids.contest not in ("", match[1].upper()):
        raise ValueError(
            f"the numbers of the classes must be those of {match[1]}, as the picture {entry.path}; they are those of "
            f"{class_ids.contest}: give a run that is trained on {match[1]}, or its development kit"
        )


def _list_test_pictures(path: Path) -> tuple[FileTree, list[FileEntry]]:
    """Return where the test pictures are, and the pictures in the order of the numbers at the end of their names."""
    if not path.exists():
        raise FileNotFoundError(f"{path} must be the folder or .tar of the test pictures; there is none")
    archives = find_imagenet_archives(path) if path.is_dir() else None
    test = archives.test if archives is not None and archives.test is not None else path
    tree: FileTree = FolderTree(test) if test.is_dir() else TarTree(test)
    by_number: dict[int, FileEntry] = {}
    for entry in tree.entries():
        match = _NUMBERED_NAME.search(entry.path)
        if match is None:
            continue
        other = by_number.setdefault(int(match[1]), entry)
        if other is not entry:
            raise ValueError(
                f"{test} must have one picture of each number; {other.path} and {entry.path} have the same: give the "
                "folder of the test pictures alone"
            )
    if not by_number:
        raise ValueError(f"{test} must contain pictures named ..._00000001.JPEG and so on; it has none")
    gap = next((number for number in range(1, len(by_number) + 1) if number not in by_number), None)
    if gap is not None:
        raise ValueError(f"{test} must contain pictures numbered from 1 without a gap; number {gap} is missing")
    return tree, [by_number[number] for number in range(1, len(by_number) + 1)]

"""The file that the ILSVRC contest takes: five guesses for each test picture (section 7: 15.3 %)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alexnet.data.prepare.decode import read_image
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.cores import available_cores
from alexnet.utils.device import choose_device
from alexnet.utils.files import write_atomic
from alexnet.utils.prefetch import prefetch

GUESSES = 5
BATCH = 32
_NUMBERED_NAME = re.compile(r"(\d+)\.jpe?g$", re.IGNORECASE)


def write_submission(
    runs: Sequence[str | Path],
    folder: str | Path,
    file: str | Path,
    ids: str | Path,
    *,
    views: int | None = None,
    device: str | torch.device | None = None,
) -> int:
    """Write the five most probable classes of each test picture, a line each, in the order of the pictures' numbers.

    Args:
        runs: Folders that `train` wrote, of nets with the same classes; their predictions are averaged.
        folder: The test pictures, ILSVRC2012_test_00000001.JPEG and so on, numbered from 1 without a gap.
        file: The file to write. A line has the contest's numbers of five classes, the most probable first.
        ids: A text file whose line n names the class with the contest's number n (the synsets of the devkit, in the
            order of their ILSVRC2012_ID). It may have more lines than the nets have classes.
        views: As for `evaluate`; by default the recipe's number.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.

    Returns:
        The number of pictures.

    Raises:
        FileNotFoundError: A run has no trained net, or there is no such folder or file.
        ValueError: The runs have different classes, or fewer than five; a class has no number; there is a gap in the
            numbers of the pictures; or a file is not a picture.
    """
    checkpoints = _load_matching([Path(run) for run in runs])
    classes, store_size = checkpoints[0].classes, checkpoints[0].recipe.store_size
    numbers = _read_class_numbers(classes, Path(ids))
    pictures = _list_test_pictures(Path(folder))
    chosen_device = choose_device(device)
    nets = [(checkpoint.net().to_channels_last(chosen_device), checkpoint) for checkpoint in checkpoints]
    lines: list[str] = []
    with tqdm(total=len(pictures), unit="picture", leave=False, disable=None) as bar:
        for squares in _read_batches(pictures, store_size):
            total = torch.zeros(len(squares), len(classes))
            for net, checkpoint in nets:
                recipe, mean = checkpoint.recipe, checkpoint.statistics.mean
                total += predict_pictures(net, squares, mean, recipe, default_views(recipe) if views is None else views)
            best = total.topk(GUESSES, dim=1).indices
            lines += [" ".join(str(numbers[label]) for label in row) for row in best.tolist()]
            bar.update(len(squares))
    write_atomic(Path(file), "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def _load_matching(runs: Sequence[Path]) -> list[Checkpoint]:
    """Load the best checkpoints of runs, and check that all have the same classes and the same size of pictures."""
    checkpoints = [load_best(run) for run in runs]
    if not checkpoints:
        raise ValueError("runs must name at least one run; got none")
    first = checkpoints[0]
    for run, checkpoint in zip(runs, checkpoints, strict=True):
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


def _read_batches(pictures: Sequence[Path], size: int) -> Iterator[list[np.ndarray]]:
    """Yield batches of picture files as squares of `size` pixels; the next are read while the net works."""
    batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]

    def read(batch: Sequence[Path]) -> list[np.ndarray]:
        return [read_image(path, size) for path in batch]

    with closing(prefetch(read, batches, workers=available_cores(), buffer_size=2)) as squares:
        yield from squares


def _read_class_numbers(classes: Sequence[str], ids: Path) -> list[int]:
    """Return the contest's number of each class, from a file whose line n names class n."""
    lines = ids.read_text(encoding="utf-8").splitlines()
    numbers = {line.split()[0]: number for number, line in enumerate(lines, 1) if line.split()}
    missing = [name for name in classes if name not in numbers]
    if missing:
        raise ValueError(
            f"{ids} must name every class of the run, one a line; {missing[0]!r} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    return [numbers[name] for name in classes]


def _list_test_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of the numbers at the end of their names, 1 2 3 ..."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be the folder of the test pictures; there is no such folder")
    paths = {int(match[1]): path for path in folder.iterdir() if (match := _NUMBERED_NAME.search(path.name))}
    if not paths:
        raise ValueError(f"{folder} must contain pictures named ..._00000001.JPEG and so on; it has none")
    gap = next((number for number in range(1, len(paths) + 1) if number not in paths), None)
    if gap is not None:
        raise ValueError(f"{folder} must contain pictures numbered from 1 without a gap; number {gap} is missing")
    return [paths[number] for number in range(1, len(paths) + 1)]

"""The file that the ILSVRC contest takes: five guesses for each test picture (section 7: 15.3 %)."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from alexnet.data.prepare.decode import read_image
from alexnet.training.checkpoint import load_best
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.cores import available_cores
from alexnet.utils.device import choose_device
from alexnet.utils.files import write_atomic
from alexnet.utils.prefetch import prefetch

GUESSES = 5
BATCH = 32
NUMBERED = re.compile(r"(\d+)\.jpe?g$", re.IGNORECASE)


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
        runs: Folders that `train` made, of nets for the same classes; their predictions are averaged.
        folder: The test pictures, ILSVRC2012_test_00000001.JPEG and so on, from 1 without a gap.
        file: Where to write; a line is five of the contest's numbers for classes, the most probable first.
        ids: A text file whose line n names the class that the contest numbers n (the devkit's synsets, in the order of
            their ILSVRC2012_ID); more lines than the nets have classes are allowed.
        views: As for `evaluate`; by default as many as the recipe says.
        device: Where; the first GPU or else the CPU by default.

    Returns:
        The number of pictures.

    Raises:
        FileNotFoundError: A run without a trained net, no such folder or file.
        ValueError: Runs of different classes, fewer than five of them, a class without a number, a gap in the
            pictures' numbers, or a file that is no picture.
    """
    nets = [load_best(Path(run)) for run in runs]
    if not nets:
        raise ValueError("runs must name at least one run; got none")
    classes = nets[0].classes
    for run, net in zip(runs, nets, strict=True):
        if net.classes != classes:
            raise ValueError(f"runs must know the same classes; {run} and {runs[0]} do not: submit each by itself")
        if net.recipe.store_size != nets[0].recipe.store_size:
            raise ValueError(
                f"runs must take pictures of the same size; {run} and {runs[0]} do not: submit each by itself"
            )
    if len(classes) < GUESSES:
        raise ValueError(
            f"runs must know at least {GUESSES} classes, of which so many are guessed; got {len(classes)}: name runs "
            "trained on the contest's own"
        )
    numbers = read_class_numbers(classes, Path(ids))
    pictures = list_test_pictures(Path(folder))
    chosen = choose_device(device)
    ready = [(net.net().to_channels_last(chosen), net) for net in nets]
    lines: list[str] = []
    with tqdm(total=len(pictures), unit="picture", leave=False, disable=None) as bar:
        for squares in read_in_batches(pictures, nets[0].recipe.store_size):
            total = torch.zeros(len(squares), len(classes))
            for module, net in ready:
                count = default_views(net.recipe) if views is None else views
                total += predict_pictures(module, squares, net.statistics.mean, net.recipe, count)
            best = total.topk(GUESSES, dim=1).indices
            lines += [" ".join(str(numbers[place]) for place in row) for row in best.tolist()]
            bar.update(len(squares))
    write_atomic(Path(file), "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read_in_batches(pictures: Sequence[Path], size: int) -> Iterator[list[np.ndarray]]:
    """Picture files as squares, some at a time, read while the net works."""
    parts = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]

    def read(part: Sequence[Path]) -> list[np.ndarray]:
        return [read_image(path, size) for path in part]

    with closing(prefetch(read, parts, workers=available_cores(), buffer_size=2)) as coming:
        yield from coming


def read_class_numbers(classes: Sequence[str], ids: Path) -> list[int]:
    """The contest's number of each class, from a file whose line n names class n."""
    known = {
        line.split()[0]: n for n, line in enumerate(ids.read_text(encoding="utf-8").splitlines(), 1) if line.split()
    }
    missing = [name for name in classes if name not in known]
    if missing:
        raise ValueError(
            f"{ids} must name every class of the run, one a line; {missing[0]!r} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
        )
    return [known[name] for name in classes]


def list_test_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder by the number at the end of their name, 1 2 3 ..."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be the folder of the test pictures; there is none")
    found = {int(match[1]): path for path in folder.iterdir() if (match := NUMBERED.search(path.name))}
    if not found:
        raise ValueError(f"{folder} must hold pictures named ..._00000001.JPEG and so on; it holds none")
    gap = next((n for n in range(1, len(found) + 1) if n not in found), None)
    if gap is not None:
        raise ValueError(f"{folder} must hold pictures numbered from 1 without a gap; number {gap} is missing")
    return [found[n] for n in range(1, len(found) + 1)]

"""A run's report: one self-contained HTML page of what was trained, how, and how good it is (section 7)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from alexnet.data.store.base import Split
from alexnet.data.store.location import StoreURL, parse_location
from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.results import figures as drawn
from alexnet.results import report_html
from alexnet.results.evaluate import check_run_fits_store, evaluation_split, predict_split
from alexnet.results.figures import Example
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.error_rates import error_rates
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.device import choose_device
from alexnet.utils.files import write_atomic

EXAMPLES = 8  # Figure 4 has as many
MISTAKES = 4


def report(
    run: str | Path,
    store: str | Path,
    *,
    split: str | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Path:
    """Write RUN/report.html; the run may be in the middle of its training.

    Args:
        run: Folder that `train` made.
        store: Folder that `prepare` made, with the same classes.
        split: The pictures to test on, all of them: "val", "test" or "train"; "val" or else "test" by default.
        seed: Of the choice of the pictures shown.
        device: Where; the first GPU or else the CPU by default.
        progress: Whether to show a bar on standard error when that is a terminal.

    Returns:
        The page's path.

    Raises:
        ValueError: The run is of other classes or another picture size than the store.
        FileNotFoundError: There is no such store, or the run has no trained net yet.
    """
    run, of_store = Path(run), Store(store)
    history, found = trained(run, of_store)
    of = of_store.split(split) if split else evaluation_split(of_store, [found.recipe])
    views = default_views(found.recipe)
    chosen_device = choose_device(device)
    team = Team(device=chosen_device)
    predicted = predict_split(found, of, views, team, progress=progress)  # the centre is one of the views
    chances, labels = predicted[views].numpy(), of.labels
    chosen, mistaken = balanced_sample(labels, EXAMPLES, seed), confident_mistakes(chances, labels, MISTAKES)
    text = report_html.render(
        run="/".join(run.resolve().parts[-2:]),
        history=history,
        found=found,
        split=of.name,
        # On the pictures whose error chose the epoch a net looks a little too good.
        chosen_here=of.name == "val"
        and not found.recipe.folds_in_validation
        and of_store.path.resolve() == parse_location(history.start["store"]).resolve(),
        results={n: error_rates(p, torch.from_numpy(labels)) for n, p in predicted.items()},
        kernels=first_kernels(found),
        guesses=examples(of, found.classes, chances[chosen], chosen),
        mistakes=examples(of, found.classes, chances[mistaken], mistaken),
        confusion=confusions(chances.argmax(1), labels, len(found.classes)),
    )
    path = run / "report.html"
    write_atomic(path, text.encode())
    return path


def write_figures(
    run: str | Path,
    store: str | Path,
    folder: str | Path,
    *,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> list[Path]:
    """Write a run's figures as PNG files: curves.png, kernels.png (Figure 3), guesses.png (Figure 4, left).

    Args:
        run: Folder that `train` made.
        store: Folder that `prepare` made, with the same classes.
        folder: Where; made if it is not there.
        seed: Of the choice of the pictures shown: those of the report, for the same seed.
        device: Where; the first GPU or else the CPU by default.

    Returns:
        The files' paths.

    Raises:
        ValueError: The run is of other classes or another picture size than the store.
        FileNotFoundError: There is no such store, or the run has no trained net yet.
    """
    run, of_store, folder = Path(run), Store(store), Path(folder)
    history, found = trained(run, of_store)
    of = evaluation_split(of_store, [found.recipe])
    chosen = balanced_sample(of.labels, EXAMPLES, seed)
    views = default_views(found.recipe)
    pictures = [of.image(int(index)) for index in chosen]
    chances = predict_pictures(
        found.net().to_channels_last(choose_device(device)), pictures, found.statistics.mean, found.recipe, views
    )
    made = {
        "curves": drawn.curves(history),
        "guesses": drawn.guesses(examples(of, found.classes, chances.numpy(), chosen)),
    }
    kernels = first_kernels(found)
    if kernels is not None:
        made["kernels"] = drawn.kernels(kernels, found.recipe.net.towers)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in made]
    for path, figure in zip(paths, made.values(), strict=True):
        path.write_bytes(drawn.to_png(figure))
    return paths


def trained(run: Path, store: Store) -> tuple[RunHistory, Checkpoint]:
    """A run's history and the net to predict with, once it is known that the net fits the store."""
    history, found = RunHistory.read(run), load_best(run)
    check_run_fits_store(found, store)
    return history, found


def training_store(run: str | Path) -> Path | StoreURL:
    """The store that a run was trained on.

    Raises:
        FileNotFoundError: It is no run, or that store is not there any more.
    """
    path = parse_location(RunHistory.read(Path(run)).start["store"])
    if isinstance(path, Path) and not path.is_dir():
        raise FileNotFoundError(
            f"store {path}, which run {run} was trained on, is not there: name it with --data STORE"
        )
    return path


def balanced_sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Pick pictures at random, of as many classes as can be: one of each class before a second of any.

    Args:
        labels: (N,) int.
        count: How many to pick, if there are so many.
        seed: Of the choice.

    Returns:
        Their places, (count,) int.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    seen: Counter[int] = Counter()
    turns = []
    for label in labels[shuffled].tolist():
        turns.append(seen[label])
        seen[label] += 1
    return np.asarray(shuffled[np.argsort(turns, kind="stable")[:count]])


def confident_mistakes(chances: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` pictures that the net takes for a wrong class with the highest probability."""
    wrong = np.flatnonzero(chances.argmax(1) != labels)
    return np.asarray(wrong[np.argsort(-chances[wrong].max(1), kind="stable")[:count]])


def confusions(guessed: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How many pictures of each class are taken for each: (classes, classes) int, a row per correct class."""
    return np.bincount(labels * classes + guessed, minlength=classes * classes).reshape(classes, classes)


def examples(split: Split, classes: Sequence[str], chances: np.ndarray, places: np.ndarray) -> list[Example]:
    """Pictures of a split with the net's guesses.

    Args:
        split: Where they are.
        classes: The class names.
        chances: (len(places), classes) probabilities.
        places: Which pictures.
    """
    return [
        Example(
            picture=split.image(int(place)),
            name=split.picture_name(int(place)),
            correct=classes[split.labels[place]],
            guesses=tuple((classes[k], float(chance[k])) for k in np.argsort(-chance, kind="stable")[:5]),
        )
        for place, chance in zip(places, chances, strict=True)
    ]


def first_kernels(found: Checkpoint) -> np.ndarray | None:
    """The first layer's weights, (maps, 3, kernel, kernel) float32; None where no convolution reads the pictures.

    A locally connected layer has too many kernels to show: maps times places.
    """
    name = found.recipe.net.layers()[0]
    weight = found.with_prefix("net").get(f"convs.{name}.0.weight")
    return None if weight is None or weight.ndim != 4 else weight.float().numpy()

"""What pre-training is worth: a net fine-tuned on few pictures of new classes, against one trained from scratch (7).

    alexnet reproduce pretraining --data STORE
    alexnet reproduce pretraining --data STORE --recipe tiny --seeds 1

The paper pre-trains on ImageNet's Fall 2011 release and fine-tunes on ILSVRC-2012 (Table 2, and `reproduce table2`).
This is a small version. A net is trained on most of a store's classes. Its layers but the last are the start values of
others, which are trained on the remaining fifth of the classes, at most twenty, with 5, with 10 and with all training
pictures of each class. Each seed draws the classes, the pictures and the start values anew.

Expected: the fine-tuned net is better. Here, on Tiny ImageNet with tiny-imagenet, three seeds: by 13.4 points with 5
pictures, 12.8 with 10 and 11.6 with all (500).
Duration: for each seed with photos on Caltech-101 over an hour, with tiny-imagenet on Tiny ImageNet 20 to 40 minutes
(one core), half of it to pre-train, the rest for 1,500 epochs of 100 pictures, 750 of 200 and 15 of 10,000, two nets
each.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alexnet.checked import require
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import CALTECH101
from alexnet.experiments.result import ExperimentResult, ResultRow, format_settings, to_percent
from alexnet.experiments.table2 import finetuning_recipe
from alexnet.recipe import Recipe
from alexnet.results.figure_files import save_figure
from alexnet.results.figures import LIGHT
from alexnet.training.divergence import DivergenceError

DATASET = CALTECH101
_FEWEST_CLASSES = 10  # of which two are new
_NEW_SHARE, _MOST_NEW = 5, 20  # one class in five is new, at most twenty
FEW = (5, 10)  # training pictures of each new class; the nets with all pictures come last
_SEEDS = 3
_PRETRAINED, _SCRATCH = "pre-trained", "from scratch"
_LINES = {_PRETRAINED: "-", _SCRATCH: "--"}
_Errors = dict[tuple[str, str], dict[int, float]]  # in percent, by (method, pictures) and by seed


@dataclass(frozen=True)
class _Training:
    """A training on the new classes.

    Args:
        method: _PRETRAINED or _SCRATCH.
        pictures: The number of training pictures of each class, or "all".
        store: The store with these.
        tested: The store with all test pictures of the classes.
        recipe: The recipe; its number of steps is the same for all numbers of pictures.
        train_options: The arguments of `train` that name the start values.
    """

    method: str
    pictures: str
    store: Store
    tested: Store
    recipe: Recipe
    train_options: Mapping[str, Any]


# ---- The classes and the pictures -----------------------------------------------------------------------------------


def _divide_classes(store: Store, seed: int) -> tuple[list[str], list[str]]:
    """Return the classes to pre-train on and the new classes, each in the store's order."""
    order = np.random.default_rng(seed).permutation(len(store.classes))
    count = min(_MOST_NEW, round(len(order) / _NEW_SHARE))
    new, old = (sorted(labels.tolist()) for labels in (order[:count], order[count:]))
    return [store.classes[label] for label in old], [store.classes[label] for label in new]


def draw_pictures_of(split: Split, labels: Sequence[int], count: int | None, seed: int) -> np.ndarray:
    """Return the indices of a split's pictures of some classes, in order.

    Args:
        split: The split.
        labels: The classes.
        count: How many pictures of each class to draw; None for all. A smaller draw is part of a larger one.
        seed: The seed of the draw.

    Returns:
        (N,) int64.
    """
    drawn = []
    for label in labels:
        shuffled = np.random.default_rng((seed, label)).permutation(np.flatnonzero(split.labels == label))
        drawn.append(shuffled[:count])
    return np.sort(np.concatenate(drawn))


def _prepare_subset(experiment: Experiment, name: str, classes: Sequence[str], count: int | None, seed: int) -> Store:
    """Return a store of some classes, with `count` or all of their training pictures; it is prepared once.

    Test pictures of the classes are its only split besides "train". Without a "val" they choose no net: the last one of
    a training is evaluated. With few training pictures there are many epochs, after each of which the test pictures are
    measured: then there is one for each class.
    """
    store = experiment.store
    labels = [store.classes.index(class_name) for class_name in classes]
    train, test = store.split("train"), store.split(experiment.test_split())
    pictures = {
        "train": (train, draw_pictures_of(train, labels, count, seed)),
        "test": (test, draw_pictures_of(test, labels, None if count is None else 1, 0)),
    }
    return experiment.prepare_subset(name, classes, pictures)


def _check(experiment: Experiment, base: Recipe) -> None:
    """Check the store and the recipe before anything is trained.

    Raises:
        ValueError: The experiment cannot use them.
    """
    experiment.check_store_size([base])
    store = experiment.store
    count = len(store.classes)
    require(count >= _FEWEST_CLASSES, f"store {store.path}", f"of at least {_FEWEST_CLASSES} classes", count)
    for split, least in (("train", max(FEW)), (experiment.test_split(), 1)):
        counts = np.bincount(store.split(split).labels, minlength=count)
        smallest = int(counts.argmin())
        if counts[smallest] < least:
            raise ValueError(
                f"store {store.path} must have at least {least} pictures of each class in {split!r}; of "
                f"{store.classes[smallest]!r} it has {counts[smallest]}: add some, or leave the class out"
            )
    if base.follows_validation_error:  # it would follow the test error, which is the result
        raise ValueError(
            f"the recipe's schedule must be one that follows no error, since only test pictures are set aside here; "
            f"got {base.schedule!r}: name another `recipe`, such as photos"
        )


# ---- The trainings --------------------------------------------------------------------------------------------------


def _pretrain(experiment: Experiment, base: Recipe, seed: int) -> Iterator[_Training]:
    """Pre-train a net, and yield the trainings on the new classes, with few pictures first."""
    old_classes, new_classes = _divide_classes(experiment.store, seed)
    old_store = _prepare_subset(experiment, f"old-{seed}", old_classes, None, seed)
    pretrained = experiment.train(f"pretrained-{seed}", replace(base, seed=seed), full_length=True, store=old_store)
    layers = tuple(name for name in base.net.layers() if name != "fc8")
    all_pictures = _prepare_subset(experiment, f"new-{seed}-all", new_classes, None, seed)
    labels = all_pictures.split("train").labels
    for count in (*(few for few in FEW if few < np.bincount(labels).max()), None):
        pictures = str(count or "all")
        store = _prepare_subset(experiment, f"new-{seed}-{pictures}", new_classes, count, seed)
        epochs = round(base.epochs * len(labels) / len(store.split("train")))
        finetuning, scratch = (recipe.with_epochs(epochs) for recipe in (finetuning_recipe(base), base))
        start = {"start_from": pretrained, "take": layers}
        yield _Training(_PRETRAINED, pictures, store, all_pictures, finetuning, start)
        yield _Training(_SCRATCH, pictures, store, all_pictures, scratch, {})


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos")


def run(experiment: Experiment) -> ExperimentResult:
    """Pre-train, fine-tune and train from scratch for each seed, and compare the errors on the new classes."""
    base = base_recipe(experiment)
    _check(experiment, base)
    base = experiment.shorten(base)
    title = "Pre-training, then few pictures of new classes (7)"
    result = ExperimentResult(title, experiment.describe_data(), ("top-1 error (%)",))
    few = [count for count in FEW if count < np.bincount(experiment.store.split("train").labels).max()]
    experiment.net_count = (experiment.seeds or _SEEDS) * (1 + len(_LINES) * (len(few) + 1))
    errors: _Errors = {}
    settings: dict[tuple[str, str], str] = {}
    images: dict[tuple[str, str], int] = {}
    for seed in range(experiment.seeds or _SEEDS):
        for training in _pretrain(experiment, base, seed):
            key = training.method, training.pictures
            settings[key] = format_settings(base, training.recipe)
            errors.setdefault(key, {})
            try:
                errors[key][seed] = _train_and_evaluate(experiment, training, seed)
            except DivergenceError as error:
                result.notes.append(f"{training.method}, {training.pictures}, seed {seed}: {error}")
            images[key] = len(training.tested.split("test"))
            result.rows = _make_rows(errors, settings, images)
            result.write(experiment.folder)  # the results so far: all of them may take days
    result.notes += [*_gains(errors), *_notes(experiment)]
    result.numbers = {f"{method}, {pictures}": list(by_seed.items()) for (method, pictures), by_seed in errors.items()}
    save_figure(experiment.folder / "pretraining.png", _draw(errors), base, dpi=150)
    result.figures = ["pretraining.png"]
    return result


def _train_and_evaluate(experiment: Experiment, training: _Training, seed: int) -> float:
    """Train on the new classes, and return the top-1 error in percent with ten views."""
    name = f"{training.method.replace(' ', '-')}-{training.pictures}-{seed}"
    recipe = replace(training.recipe, seed=seed)
    trained = experiment.train(name, recipe, full_length=True, store=training.store, **training.train_options)
    return to_percent(experiment.evaluate([trained], 10, split="test", store=training.tested)["top1_error"])


# ---- The result -----------------------------------------------------------------------------------------------------


def _make_rows(
    errors: _Errors, settings: Mapping[tuple[str, str], str], images: Mapping[tuple[str, str], int]
) -> list[ResultRow]:
    rows = []
    for key, by_seed in errors.items():
        method, pictures = key
        measured = tuple((error,) for error in by_seed.values())
        name = f"{method}, {pictures} pictures a class"
        rows.append(ResultRow(name, (None,), measured, settings[key], images[key]))
    return rows


def _gains(errors: _Errors) -> Iterator[str]:
    """Yield a note about the gain of pre-training for each number of pictures.

    The two nets of a seed have the same classes and pictures, so that their errors are compared in pairs.
    """
    for pictures in dict.fromkeys(pictures for _, pictures in errors):
        pretrained, scratch = errors[_PRETRAINED, pictures], errors[_SCRATCH, pictures]
        gains = [scratch[seed] - pretrained[seed] for seed in scratch if seed in pretrained]
        if gains:
            deviation = ""
            if len(gains) > 1:
                deviation = f" ± {statistics.stdev(gains):.2f} (standard deviation over {len(gains)} seeds)"
            yield (
                f"{pictures} pictures a class: pre-training lowers the error by {statistics.mean(gains):.2f}"
                f"{deviation}."
            )


def _notes(experiment: Experiment) -> list[str]:
    """Return notes about how the errors were measured."""
    old, new = _divide_classes(experiment.store, 0)
    return [
        f"{len(old)} classes to pre-train on, the other {len(new)} to fine-tune and to test on, ten views; each seed "
        "draws classes, pictures and start values anew.",
        f"Tested on the pictures of {experiment.test_split()!r}, by which no net and no rate was chosen.",
        "With fewer pictures there are more epochs: all nets of the new classes are trained for the same number of "
        "steps.",
        "The paper: pre-training lowers the top-1 error on ILSVRC-2012 from 40.7 by 1.7 (Table 2).",
    ]


def _draw(errors: _Errors) -> Figure:
    """Draw the error against pictures a class, pre-trained solid, from scratch dashed, with bars of one deviation."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    ticks = list(dict.fromkeys(pictures for _, pictures in errors))
    for method, line in _LINES.items():
        x, means, deviations = [], [], []
        for position, pictures in enumerate(ticks):
            values = list(errors[method, pictures].values())
            if values:
                x.append(position)
                means.append(statistics.mean(values))
                deviations.append(statistics.stdev(values) if len(values) > 1 else 0.0)
        axes.errorbar(x, means, deviations, linestyle=line, color=LIGHT.text, linewidth=1.5, capsize=3, label=method)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.3, len(ticks) - 0.7)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel("Training pictures of each new class")
    axes.set_ylabel("Test error")
    axes.legend(frameon=False)
    return figure

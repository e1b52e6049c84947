"""What pre-training is worth: a net fine-tuned on few pictures of new classes, against one trained from scratch (7).

    alexnet reproduce pretraining --data STORE            photos, 60 epochs of 81 Caltech categories; then the other 20
    alexnet reproduce pretraining --data STORE --recipe tiny --seeds 1

The paper pre-trains on ImageNet's Fall 2011 release and fine-tunes on ILSVRC-2012 (Table 2, and `reproduce table2`).
This is the same in small: a net learns four fifths of a store's classes, and its layers but the last are the start
values of others, which learn the remaining fifth from 5, from 10 and from all training pictures a class. Each seed
draws the classes, the pictures and the start values anew.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alexnet.checked import require
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.subset import StoreSubset
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.experiments.lab import (
    CALTECH101,
    Experiment,
    ExperimentResult,
    ResultRow,
    format_settings,
    percent,
    shorten_schedule,
)
from alexnet.experiments.table2 import finetuning
from alexnet.recipe import Recipe
from alexnet.results.figures import LIGHT
from alexnet.training.divergence import DivergenceError

DATA = CALTECH101
FEWEST_CLASSES = 10  # of which two are left to fine-tune on
PART = 5  # one class in so many is fine-tuned on
FEW = (5, 10)  # training pictures a class, beside all there are
SEEDS = 3
PRETRAINED, SCRATCH = "pre-trained", "from scratch"
STYLES = {PRETRAINED: "-", SCRATCH: "--"}
Errors = Mapping[tuple[str, str], Mapping[int, float]]  # in percent: of a way and "5", "10" or "all"; by seed


@dataclass(frozen=True)
class Training:
    """A net to be trained on few pictures of new classes.

    Args:
        way: PRETRAINED or SCRATCH.
        few: Training pictures a class, "all" for all there are.
        store: With these, and with the pictures that the classes are measured on.
        recipe: Of the way; as many steps whichever the number of pictures.
        start: Arguments of `train` that name the start values.
    """

    way: str
    few: str
    store: Store
    recipe: Recipe
    start: Mapping[str, Any]


def classes_of(store: Store, seed: int) -> tuple[list[str], list[str]]:
    """The classes to pre-train on and those to fine-tune on, each in the store's order."""
    order = np.random.default_rng(seed).permutation(len(store.classes))
    new = round(len(order) / PART)
    first, second = (sorted(part.tolist()) for part in (order[new:], order[:new]))
    return [store.classes[n] for n in first], [store.classes[n] for n in second]


def places_of(split: Split, labels: Sequence[int], each: int | None, seed: int) -> np.ndarray:
    """Where a split's pictures of some classes are, (N,) int64, in order: all, or so many of each, drawn.

    The draw of few is part of that of more.
    """
    found = []
    for label in labels:
        drawn = np.random.default_rng((seed, label)).permutation(np.flatnonzero(split.labels == label))
        found.append(drawn[:each])
    return np.sort(np.concatenate(found))


def smaller(lab: Experiment, name: str, classes: Sequence[str], each: int | None, seed: int) -> Store:
    """A store of some of the classes, with few or all of their training pictures and all to measure on; made once.

    The latter are its only "test": where there is no "val", they choose no net, and the last of a training stands.
    """
    labels = [lab.store.classes.index(one) for one in classes]
    train, test = lab.store.split("train"), lab.store.split(lab.tested())
    pictures = {
        "train": (train, places_of(train, labels, each, seed)),
        "test": (test, places_of(test, labels, None, 0)),
    }
    path = lab.folder / "stores" / name
    prepare(StoreSubset(lab.store, classes, pictures), path, encoding="raw")
    return Store(path)


def check(lab: Experiment, base: Recipe) -> None:
    """Raise a ValueError unless store and recipe will do: told before anything is trained."""
    lab.check([base])
    store, tested = lab.store, lab.tested()
    count = len(store.classes)
    require(count >= FEWEST_CLASSES, f"store {store.path}", f"of at least {FEWEST_CLASSES} classes", count)
    for split, least in (("train", max(FEW)), (tested, 1)):
        counts = np.bincount(store.split(split).labels, minlength=count)
        poorest = int(counts.argmin())
        if counts[poorest] < least:
            raise ValueError(
                f"store {store.path} must have at least {least} pictures of each class in {split!r}; of "
                f"{store.classes[poorest]!r} it has {counts[poorest]}: add some, or leave the class out"
            )
    if base.follows_validation_error:  # they would follow the errors that are the result here
        raise ValueError(
            f"the recipe's schedule must be one that follows no error, since only test pictures are set aside here; "
            f"got {base.schedule!r}: name another --recipe, such as photos"
        )


def trainings(lab: Experiment, base: Recipe, seed: int) -> Iterator[Training]:
    """Pre-train a net, then say what is to be trained on the new classes, with few pictures, with more, with all."""
    old, new = classes_of(lab.store, seed)
    store = smaller(lab, f"old-{seed}", old, None, seed)
    first = lab.trained(f"pretrained-{seed}", replace(base, seed=seed), whole=True, store=store)
    kept = tuple(name for name in base.net.layers() if name != "fc8")
    whole = smaller(lab, f"new-{seed}-all", new, None, seed)
    labels = whole.split("train").labels
    for each in (*(few for few in FEW if few < np.bincount(labels).max()), None):
        few = str(each or "all")
        store = smaller(lab, f"new-{seed}-{few}", new, each, seed)
        epochs = round(base.epochs * len(labels) / len(store.split("train")))
        tuned, scratch = (shorten_schedule(one, epochs) for one in (finetuning(base), base))
        yield Training(PRETRAINED, few, store, tuned, {"start_from": first, "take": kept})
        yield Training(SCRATCH, few, store, scratch, {})


def run(lab: Experiment) -> ExperimentResult:
    """Pre-train, fine-tune and train from scratch for each seed, and compare the errors on the new classes."""
    base = lab.base("photos")
    check(lab, base)
    base = base if lab.epochs is None else shorten_schedule(base, lab.epochs)
    finding = ExperimentResult("Pre-training, then few pictures of new classes (7)", lab.data(), ("top-1 error (%)",))
    errors: dict[tuple[str, str], dict[int, float]] = {}
    hows: dict[tuple[str, str], str] = {}
    for seed in range(lab.seeds or SEEDS):
        for one in trainings(lab, base, seed):
            key = one.way, one.few
            hows[key] = format_settings(base, one.recipe)
            of_key = errors.setdefault(key, {})
            try:
                name = f"{one.way.replace(' ', '-')}-{one.few}-{seed}"
                recipe = replace(one.recipe, seed=seed)
                trained = lab.trained(name, recipe, whole=True, store=one.store, **one.start)
                of_key[seed] = percent(lab.errors([trained], 10, split="test", store=one.store)["top1_error"])
            except DivergenceError as error:
                finding.notes.append(f"{one.way}, {one.few}, seed {seed}: {error}")
            finding.rows = [
                ResultRow(
                    f"{way}, {few} pictures a class", (None,), tuple((e,) for e in found.values()), hows[way, few]
                )
                for (way, few), found in errors.items()
            ]
            finding.write(lab.folder)  # what there is so far, since the whole may take days
    finding.notes += [*differences(errors), *notes(lab)]
    finding.numbers = {f"{way}, {few}": list(found.items()) for (way, few), found in errors.items()}
    draw(errors).savefig(lab.folder / "pretraining.png", dpi=150)
    finding.figures = ["pretraining.png"]
    return finding


def differences(errors: Errors) -> Iterator[str]:
    """What pre-training gains at each number of pictures: a seed's two nets have the same classes and pictures."""
    for few in dict.fromkeys(few for _, few in errors):
        tuned, scratch = errors[PRETRAINED, few], errors[SCRATCH, few]
        gains = [scratch[seed] - tuned[seed] for seed in scratch if seed in tuned]
        if gains:
            spread = f" ± {statistics.stdev(gains):.2f} over {len(gains)} seeds" if len(gains) > 1 else ""
            yield f"{few} pictures a class: pre-training takes {statistics.mean(gains):.2f}{spread} off the error."


def notes(lab: Experiment) -> list[str]:
    """What a reader must know of how it was measured."""
    old, new = classes_of(lab.store, 0)
    return [
        f"{len(old)} classes to pre-train on, the other {len(new)} to fine-tune and to measure on, ten views; each "
        "seed draws classes, pictures and start values anew.",
        f"Measured on the pictures of {lab.tested()!r}, by which no net and no rate was chosen.",
        "With fewer pictures there are as many more epochs: all nets of the new classes are trained for as many steps.",
        "The paper: pre-training takes 1.7 off the top-1 error of 40.7 on ILSVRC-2012 (Table 2).",
    ]


def draw(errors: Errors) -> Figure:
    """The figure: error against pictures a class, pre-trained solid and from scratch dashed, bars of one deviation."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    ticks = list(dict.fromkeys(few for _, few in errors))
    for way, style in STYLES.items():
        found = [list(errors[way, few].values()) for few in ticks]
        there = [place for place, values in enumerate(found) if values]
        means = [statistics.mean(found[place]) for place in there]
        bars = [statistics.stdev(found[place]) if len(found[place]) > 1 else 0.0 for place in there]
        axes.errorbar(there, means, bars, linestyle=style, color=LIGHT.text, linewidth=1.5, capsize=3, label=way)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlim(-0.3, len(ticks) - 0.7)
    axes.set_ylim(0, 100)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel("Training pictures of each new class")
    axes.set_ylabel("Test error")
    axes.legend(frameon=False)
    return figure

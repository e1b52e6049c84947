"""What keeps the net from overfitting: each measure left out, with as few pictures for its weights as the paper has.

    alexnet reproduce overfitting --data STORE
    alexnet reproduce overfitting --data STORE --only no-dropout,no-crops --seeds 1

The paper's net has 60 million weights for 1.2 million pictures, 50 for each, and sees them 90 times (section 5). With
fewer weights a picture, or few epochs, there is nothing for dropout or crops to prevent. So the net is trained for at
least 90 epochs, and on so many of the store's classes that it has 50 weights or more for each picture. The claims and
the measures are those of `claims`; a second terminal shares the work as there.

On Tiny ImageNet prepared with --size 64 use the recipe `tiny-imagenet`, which is the default for a stand-in.

Expected: every claim. Here, on Tiny ImageNet, three seeds: validation minus training error 15 points, without dropout
43, without crops 49; training error 28.0 %, without decay 31.8 %. Pooling without overlap was not trained.
Duration: a training for each of five nets and three seeds: on Tiny ImageNet 8 to 11 minutes for each (one core).
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alexnet.architecture import Net
from alexnet.data.store.store import Store
from alexnet.experiments.claim_list import OVERFITTING_CLAIMS
from alexnet.experiments.claims import chosen_variants, judge_claims
from alexnet.experiments.claims_table import ClaimsResult
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012
from alexnet.experiments.variants import THE_NET
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.results.figure_files import save_figure
from alexnet.results.figures import LIGHT

DATASET = ILSVRC2012
EPOCHS = 90  # "roughly 90 cycles" (section 5)
WEIGHTS_PER_PICTURE = 50  # 60 million weights, 1.2 million pictures (abstract, section 5)
_FEWEST_CLASSES = 2
_LABELS = {THE_NET: "the net"}


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe of the net; raise a ValueError if the experiment's epochs or names of nets do not suit it."""
    chosen_variants(OVERFITTING_CLAIMS, experiment.only)
    return experiment.base_recipe("tiny-imagenet", "alexnet-2012-run", least_epochs=EPOCHS)


def choose_classes(store: Store, net: Net) -> list[str]:
    """Return the classes to train on, in the store's order and evenly from it.

    They are as many as leave WEIGHTS_PER_PICTURE weights for each training picture, but two or more.
    """
    pictures = np.bincount(store.split("train").labels, minlength=len(store.classes))
    for count in range(len(pictures), _FEWEST_CLASSES - 1, -1):
        labels = np.arange(count) * len(pictures) // count
        if pictures[labels].sum() * WEIGHTS_PER_PICTURE <= _count_weights(net, count):
            break
    return [store.classes[label] for label in labels]  # if none is small enough, the last labels: the fewest


def _count_weights(net: Net, classes: int) -> int:
    """Return the number of weights and biases of a net."""
    with torch.device("meta"):  # draws no start values
        return sum(parameter.numel() for parameter in AlexNet(classes, net).parameters())


def _prepare_subset(experiment: Experiment, classes: Sequence[str]) -> Store:
    """Return a store of some classes, which is prepared once; the experiment's own if they are all."""
    store = experiment.store
    if len(classes) == len(store.classes):
        return store
    labels = [store.classes.index(name) for name in classes]
    splits = [store.split("train"), store.validation()]
    pictures = {split.name: (split, np.flatnonzero(np.isin(split.labels, labels))) for split in splits}
    return experiment.prepare_subset(f"{len(classes)}-classes", classes, pictures)


def run(experiment: Experiment) -> ClaimsResult:
    """Train the nets that no other process trains or has trained, and judge the claims by all that are finished."""
    base = experiment.shorten(base_recipe(experiment))
    experiment.check_store_size([base])
    classes = choose_classes(experiment.store, base.net)
    of_all = f"{len(classes)} of {len(experiment.store.classes)} classes of {experiment.store.path.resolve().name}"
    experiment.use_store(_prepare_subset(experiment, classes))
    result = judge_claims(experiment, base, OVERFITTING_CLAIMS, "What prevents overfitting (4.4, 5.1, 5.2)")
    pictures, weights = len(experiment.store.split("train")), _count_weights(base.net, len(classes))
    result.notes.append(
        f"{base.epochs} epochs on {of_all}: {weights:,} weights, {weights / pictures:.0f} for each picture (the paper: "
        f"{WEIGHTS_PER_PICTURE})."
    )
    if any(result.numbers.values()):
        save_figure(experiment.folder / "overfitting.png", draw(result.numbers), base, dpi=150)
        result.figures = ["overfitting.png"]
    return result


def draw(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the training and the validation error of each net, the means over its seeds, and a line between them.

    Args:
        measured: For each net, by name, what was measured with each seed: "training" and "centre", errors as fractions.
            Nets without any are left out.
    """
    names = [name for name, runs in measured.items() if runs]
    figure = Figure(figsize=(6, 1 + 0.4 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for row, name in enumerate(names):
        training, validation = (statistics.mean(run[key] for run in measured[name]) for key in ("training", "centre"))
        axes.plot([training, validation], [row, row], "-", color=LIGHT.grid, linewidth=3, zorder=1)
        first = row == 0
        for error, color, label in (
            (training, LIGHT.training, "training"),
            (validation, LIGHT.validation, "validation"),
        ):
            axes.plot(error, row, "o", color=color, label=f"{label} error" if first else None)
    axes.set_yticks(range(len(names)), [_LABELS.get(name, name.replace("-", " ")) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)  # the net is on top
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("Error, one view from the centre")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure

"""Dropout at test time: outputs multiplied by 0.5 against the geometric mean of many thinned nets (5.2).

    alexnet reproduce dropout --data STORE

Dropout samples a thinned net for each picture. At test time the paper uses all neurons and multiplies their outputs by
0.5, "a reasonable approximation to taking the geometric mean of the predictive distributions produced by the
exponentially-many dropout networks". Here that mean is taken over 100 thinned nets, each drawn anew for each picture,
and compared with what the net says at test time. Predictions are from one view, the centre.

On Tiny ImageNet prepared with --size 64 use the recipe `tiny-imagenet`, which is the default for a stand-in.

Expected: at test time the net has the errors of the mean. Here 77.1 % both, on Tiny ImageNet, three seeds.
Duration: half a minute for each seed (one core), if `claims` in the same folder has trained the nets; else a training.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import make_view_batch, select_views
from alexnet.data.store.base import Split
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import load_best
from alexnet.training.error_rates import error_rates
from alexnet.training.inference import pictures_per_batch
from alexnet.training.precision import autocast
from alexnet.utils.device import choose_device
from alexnet.utils.memory import keep_freed_memory

DATASET = ILSVRC2012
THINNED = 100
_SEEDS = 3
_MEASURES = (
    "top-1 error (%)",
    "top-5 error (%)",
    "other guess than the mean's (%)",
    "divergence from the mean (millinats)",
)
_TEST, _ONE = "all neurons, outputs times 0.5", "one thinned net"
_ARITHMETIC, _GEOMETRIC = f"arithmetic mean of {THINNED} thinned nets", f"geometric mean of {THINNED} thinned nets"
ROWS = (_TEST, _ONE, _ARITHMETIC, _GEOMETRIC)


@torch.inference_mode()
def predict_thinned(net: AlexNet, features: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Predict with all neurons, and with THINNED thinned nets.

    Args:
        net: The net, in evaluation mode.
        features: The last feature maps, (N, maps, side, side) float32.
        generator: What draws the masks, on the CPU.

    Returns:
        The logarithms of the classes' probabilities, (N, classes) float32, by each row of the table.
    """
    test_time = net.forward_head(features).log_softmax(1)
    log_probabilities = []
    for dropout in net.dropouts():
        dropout.train()
    for _ in range(THINNED):
        for dropout in net.dropouts():
            dropout.key = torch.randint(2**63 - 1, (1,), generator=generator).to(features.device)
        log_probabilities.append(net.forward_head(features).log_softmax(1))
    net.eval()
    thinned = torch.stack(log_probabilities)  # (THINNED, N, classes)
    geometric, arithmetic = (mean.log_softmax(1) for mean in (thinned.mean(0), thinned.logsumexp(0)))
    return {_TEST: test_time, _ONE: thinned[0], _ARITHMETIC: arithmetic, _GEOMETRIC: geometric}


def measure(log_probabilities: Tensor, mean: Tensor, labels: Tensor) -> tuple[float, ...]:
    """Return how predictions differ from the labels and from the geometric mean.

    Args:
        log_probabilities: (N, classes), on the CPU, as `mean`, the predictions of the geometric mean.
        labels: (N,) int64.

    Returns:
        Top-1 and top-5 error, and the share of other guesses, as fractions; the mean Kullback-Leibler divergence of the
        predictions from the mean, in nats.
    """
    errors = error_rates(log_probabilities, labels)
    other_guess = float((log_probabilities.argmax(1) != mean.argmax(1)).double().mean())
    divergence = float((mean.exp() * (mean - log_probabilities)).sum(1).mean())
    return errors.top1_error, errors.top5_error, other_guess, divergence


def _feature_batches(net: AlexNet, split: Split, recipe: Recipe, centre: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the last feature maps of a split's pictures, and their labels (N,) on the CPU, batch by batch."""
    views = select_views(1, split.size, recipe.net.image_size)
    size = pictures_per_batch(centre.device, 1)
    keep_freed_memory()
    for start in range(0, len(split), size):
        rows = range(start, min(start + size, len(split)))
        pictures = list(split.images(list(rows)))
        with torch.inference_mode(), autocast(centre.device, recipe):
            features = net.convs(net.scale_pixels(make_view_batch(pictures, views, centre)))
        yield features.float(), torch.from_numpy(split.labels[rows.start : rows.stop])


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if it has no dropout, or the experiment's epochs do not suit it."""
    recipe = experiment.base_recipe("tiny-imagenet", "alexnet-2012-run")
    if not any(full.dropout for full in recipe.net.hidden().values()):
        raise ValueError("the recipe's net must have dropout, which is the subject; it has none: name another `recipe`")
    return recipe


def _measure_net(experiment: Experiment, trained: Path, seed: int) -> dict[str, tuple[float | None, ...]]:
    """Return _MEASURES of a trained net on the validation pictures, by row of the table."""
    checkpoint, split = load_best(trained), experiment.store.validation()
    recipe, device = checkpoint.recipe, choose_device(experiment.device)
    net = checkpoint.net().to_channels_last(device).eval()
    centre = torch.from_numpy(centre_mean(checkpoint.statistics.mean, recipe.net.image_size)).to(device)
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys(ROWS, np.zeros(len(_MEASURES)))
    for features, labels in _feature_batches(net, split, recipe, centre):
        predictions = {row: values.cpu() for row, values in predict_thinned(net, features, generator).items()}
        for row, values in predictions.items():
            sums[row] = sums[row] + len(labels) * np.array(measure(values, predictions[_GEOMETRIC], labels))
    measured: dict[str, tuple[float | None, ...]] = {}
    for row, total in sums.items():
        top1, top5, other_guess, divergence = (total / len(split)).tolist()
        errors = experiment.top1_and_top5({"top1_error": top1, "top5_error": top5})
        measured[row] = (*errors, to_percent(other_guess), 1000 * divergence)
    return measured


def run(experiment: Experiment) -> ExperimentResult:
    """Train the nets, and compare what each says at test time with the means over its thinned nets."""
    base = base_recipe(experiment)
    title = "Dropout at test time, and the mean of thinned nets (5.2)"
    result = ExperimentResult(title, experiment.describe_data(), _MEASURES)
    experiment.net_count = experiment.seeds or _SEEDS
    measured = []
    for seed in range(experiment.net_count):
        trained = experiment.train(f"net-{seed}", replace(base, seed=seed))
        measured.append(_measure_net(experiment, trained, seed))
        rows = [tuple(of_seed[row] for of_seed in measured) for row in ROWS]
        result.rows = [ResultRow(row, (None,) * len(_MEASURES), values) for row, values in zip(ROWS, rows, strict=True)]
        result.write(experiment.folder)  # the results so far
    result.notes = [
        'The paper: multiplying the outputs by 0.5 is "a reasonable approximation to taking the geometric mean of the '
        'predictive distributions produced by the exponentially-many dropout networks".',
        f"{THINNED} thinned nets, drawn anew for each of {len(experiment.store.validation()):,} pictures; one view.",
        "The divergence is Kullback and Leibler's, of a prediction from the geometric mean.",
    ]
    return result

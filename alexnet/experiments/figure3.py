"""Figure 3: the first layer's kernels; those of one tower see colours, those of the other hardly do (7.1).

    alexnet reproduce figure3 --data STORE --seeds 3

How much a kernel sees of colours is measured by its energy off the grey axis: the share of the sum of its squared
weights that is left when the mean over R, G and B is subtracted from each pixel. The paper says that the towers
specialise in every run.

Expected: a tower with low and one with high colour shares. Not so here on Caltech-101, with photos and with tiny: the
towers differ no more than two random halves of the kernels.
Duration: a training for each seed; with photos on Caltech-101 1 hour 44 minutes (one core).
"""

from dataclasses import replace

import numpy as np

from alexnet.checked import require
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.results.figures import draw_kernels, to_png
from alexnet.training.checkpoint import load_best
from alexnet.utils.files import write_atomic

DATASET = ILSVRC2012
_PERMUTATIONS = 10_000


def colour_shares(weights: np.ndarray) -> np.ndarray:
    """Return the share of each kernel's energy that is off the grey axis.

    Args:
        weights: (maps, 3, kernel, kernel) float.

    Returns:
        (maps,) from 0, a kernel that sees no colours, to 1, one that sees only colours.
    """
    colours = weights - weights.mean(axis=1, keepdims=True)
    energy = (weights.astype(np.float64) ** 2).sum((1, 2, 3))
    return np.asarray((colours.astype(np.float64) ** 2).sum((1, 2, 3)) / np.maximum(energy, 1e-30))


def permutation_p_value(shares: np.ndarray, difference: float, seed: int = 0) -> float:
    """Return how often the halves of a random division of the kernels differ as much as the towers do.

    Args:
        shares: (maps,), the colour shares.
        difference: The difference between the mean shares of the towers.
        seed: The seed of the permutations.
    """
    random, half = np.random.default_rng(seed), len(shares) // 2
    shuffled = random.permuted(np.tile(shares, (_PERMUTATIONS, 1)), axis=1)
    differences = abs(shuffled[:, :half].mean(1) - shuffled[:, half:].mean(1))
    return float((1 + (differences >= abs(difference)).sum()) / (1 + _PERMUTATIONS))


def run(experiment: Experiment) -> ExperimentResult:
    """Train the net from several seeds, draw each one's kernels, and compare the colour shares of the towers."""
    base = experiment.base_recipe("photos", "alexnet-2012-run")
    require(base.net.towers > 1, "net.towers", "at least 2, to be compared", base.net.towers)
    measures = ("colour share, tower that sees less (%)", "tower that sees more (%)", "as different by chance (%)")
    result = ExperimentResult("Figure 3: the kernels of conv1", experiment.describe_data(), measures)
    experiment.net_count = experiment.seeds or 3
    for seed in range(experiment.net_count):
        trained = experiment.train(f"net-{seed}", replace(base, seed=seed))
        weights = load_best(trained).net().layers()["conv1"].weight.detach().numpy()
        shares = colour_shares(weights)
        # The towers are numbered as in the paper's figure: GPU 1 is the one that sees less.
        towers = np.split(np.arange(len(shares)), base.net.towers)
        towers.sort(key=lambda kernels: shares[kernels].mean())
        less, more = shares[towers[0]].mean(), shares[towers[-1]].mean()
        p_value = permutation_p_value(shares, float(more - less))
        measured = (to_percent(less), to_percent(more), to_percent(p_value))
        result.rows.append(ResultRow(f"seed {seed}", (None,) * 3, (measured,)))
        name = f"figure3-{seed}.png"
        figure = draw_kernels(weights[np.concatenate(towers)], base.net.towers)
        write_atomic(experiment.folder / name, to_png(figure))
        result.figures.append(name)
        result.numbers[f"seed {seed}"] = shares.tolist()
    result.notes = ['The paper: GPU 1 "largely color-agnostic", GPU 2 "largely color-specific", in every run.']
    return result

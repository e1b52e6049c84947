"""Figure 3: the first layer's kernels; those of one tower see colours, those of the other hardly do (7.1).

    alexnet reproduce figure3 --data STORE --seeds 3

How much the kernels of a tower see of colours is measured by their energy off the grey axis: the share of the sum of
their squared weights that is left when the mean over R, G and B is subtracted from each pixel. The paper says that the
towers specialise in every run; so each run is compared with random divisions of its kernels.

Expected: a tower with low and one with high colour shares. On Tiny ImageNet it is so with 48 kernels in each tower, two
seeds (p = 0.0001); with the 16 of tiny-imagenet in three of fifteen nets; on Caltech-101 not at all.
Duration: a training for each seed, but not of nets that another experiment in the same folder has trained, such as
`claims` with the same recipe; with photos on Caltech-101 1 hour 44 minutes (one core).
"""

from dataclasses import replace

import numpy as np

from alexnet.checked import require
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.recipe import Recipe
from alexnet.results.figure_files import save_figure
from alexnet.results.figures import draw_kernels
from alexnet.training.checkpoint import load_best

DATASET = ILSVRC2012
_PERMUTATIONS = 10_000
_LEVEL = 0.05


def colour_energies(weights: np.ndarray) -> np.ndarray:
    """Return the energy of each kernel, the sum of its squared weights: off the grey axis, and in all.

    Args:
        weights: (maps, 3, kernel, kernel) float.

    Returns:
        (maps, 2) float64.
    """
    colours = weights - weights.mean(axis=1, keepdims=True)
    return np.stack([(part.astype(np.float64) ** 2).sum((1, 2, 3)) for part in (colours, weights)], axis=1)


def colour_share(energies: np.ndarray) -> np.ndarray:
    """Return the share of the energy of several kernels together that is off the grey axis.

    A kernel counts by its energy, so that those which have stayed small, as random as at the start, count little.

    Args:
        energies: (..., maps, 2), as from `colour_energies`.

    Returns:
        (...) from 0, kernels that see no colours, to 1, kernels that see only colours.
    """
    off, total = np.moveaxis(energies.sum(axis=-2), -1, 0)
    return np.asarray(off / np.maximum(total, 1e-30))


def null_distribution(energies: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return how much the halves of random divisions of the kernels differ in colour share.

    Args:
        energies: (maps, 2), as from `colour_energies`.
        seed: The seed of the permutations.

    Returns:
        (10000,) float64, none below 0.
    """
    random, half = np.random.default_rng(seed), len(energies) // 2
    orders = random.permuted(np.tile(np.arange(len(energies)), (_PERMUTATIONS, 1)), axis=1)
    return abs(colour_share(energies[orders[:, :half]]) - colour_share(energies[orders[:, half:]]))


def permutation_p_value(distribution: np.ndarray, difference: float) -> float:
    """Return how often the halves of a random division of the kernels differ as much as the towers do.

    Args:
        distribution: As from `null_distribution`; or the sums of those of several runs, each with a seed of its own.
        difference: The difference between the colour shares of the towers; or its sum over these runs.
    """
    # Sums in another order differ in the last digits: an equal division must count.
    return float((1 + (distribution >= abs(difference) - 1e-12).sum()) / (1 + len(distribution)))


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos", "alexnet-2012-run")


def run(experiment: Experiment) -> ExperimentResult:
    """Train the net from several seeds, draw each one's kernels, and compare the colour shares of the towers."""
    base = base_recipe(experiment)
    require(base.net.towers > 1, "net.towers", "at least 2, to be compared", base.net.towers)
    measures = ("colour share, tower that sees less (%)", "tower that sees more (%)", "as different by chance (%)")
    result = ExperimentResult("Figure 3: the kernels of conv1", experiment.describe_data(), measures)
    experiment.net_count = experiment.seeds or 3
    differing, differences, distributions = 0, [], []
    for seed in range(experiment.net_count):
        result.write(experiment.folder)  # the results so far
        trained = experiment.train(f"net-{seed}", replace(base, seed=seed))
        weights = load_best(trained).net().layers()["conv1"].weight.detach().numpy()
        energies = colour_energies(weights)
        # The towers are numbered as in the paper's figure: GPU 1 is the one that sees less.
        towers = np.split(np.arange(len(energies)), base.net.towers)
        towers.sort(key=lambda kernels: float(colour_share(energies[kernels])))
        less, more = (float(colour_share(energies[kernels])) for kernels in (towers[0], towers[-1]))
        differences.append(more - less)
        distributions.append(null_distribution(energies, seed))
        p_value = permutation_p_value(distributions[-1], differences[-1])
        differing += p_value < _LEVEL
        measured = (to_percent(less), to_percent(more), to_percent(p_value))
        result.rows.append(ResultRow(f"seed {seed}", (None,) * 3, (measured,)))
        name = f"figure3-{seed}.png"
        figure = draw_kernels(weights[np.concatenate(towers)], base.net.towers)
        save_figure(experiment.folder / name, figure, base)
        result.figures.append(name)
        result.numbers[f"seed {seed}"] = (energies[:, 0] / np.maximum(energies[:, 1], 1e-30)).tolist()
    combined_p_value = permutation_p_value(np.sum(distributions, axis=0), sum(differences))
    result.notes = [
        'The paper: GPU 1 "largely color-agnostic", GPU 2 "largely color-specific", in every run.',
        f"In {differing} of {experiment.net_count} runs the towers differ by more than chance (p < {_LEVEL}, "
        f"{_PERMUTATIONS:,} random divisions of the kernels). Over all runs, the sum of their differences against "
        f"sums for random divisions: p = {combined_p_value:.2g}. At random start values 67 % of the energy is off the "
        "grey axis.",
        f"As different by chance: of {_PERMUTATIONS:,} random divisions of the kernels into two halves, the share in "
        "which the halves differ in colour share at least as much as the towers do. With a few percent or less the "
        "towers specialise; with more, two random halves of the kernels would look the same.",
    ]
    return result

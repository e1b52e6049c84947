"""Figure 3: the first layer's kernels; those of one tower see colours, those of the other hardly do (7.1).

    alexnet reproduce figure3 --data STORE --seeds 3

How much a kernel sees of colours is its energy off the grey axis: the share of the sum of its squared weights that is
left when each pixel's mean over R, G and B is taken away. The paper says that the towers specialise in every run.
"""

from dataclasses import replace

import numpy as np

from alexnet.checked import require
from alexnet.experiments.lab import ILSVRC2012, Experiment, ExperimentResult, ResultRow, percent
from alexnet.results.figures import draw_kernels, to_png
from alexnet.training.checkpoint import load_best

DATA = ILSVRC2012
SHUFFLES = 10_000


def colour_shares(weights: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is off the grey axis.

    Args:
        weights: (maps, 3, kernel, kernel) float.

    Returns:
        (maps,) from 0, a kernel that sees no colours, to 1, one that sees nothing else.
    """
    off = weights - weights.mean(axis=1, keepdims=True)
    energy = (weights.astype(np.float64) ** 2).sum((1, 2, 3))
    return np.asarray((off.astype(np.float64) ** 2).sum((1, 2, 3)) / np.maximum(energy, 1e-30))


def permutation_p_value(shares: np.ndarray, difference: float, seed: int = 0) -> float:
    """How often a random halving of the kernels has halves that differ as much as the towers do (permutation test)."""
    random, half = np.random.default_rng(seed), len(shares) // 2
    shuffled = random.permuted(np.tile(shares, (SHUFFLES, 1)), axis=1)
    differences = abs(shuffled[:, :half].mean(1) - shuffled[:, half:].mean(1))
    return float((1 + (differences >= abs(difference)).sum()) / (1 + SHUFFLES))


def run(lab: Experiment) -> ExperimentResult:
    """Train the net from several seeds, draw each one's kernels, and compare how much the towers see of colours."""
    base = lab.base("photos", "alexnet-2012-run")
    require(base.net.towers > 1, "net.towers", "at least 2, to be compared", base.net.towers)
    measures = ("colour share, tower that sees less (%)", "tower that sees more (%)", "as different by chance (%)")
    finding = ExperimentResult("Figure 3: the kernels of conv1", lab.data(), measures)
    for seed in range(lab.seeds or 3):
        trained = lab.trained(f"net-{seed}", replace(base, seed=seed))
        weights = load_best(trained).net().layers()["conv1"].weight.detach().numpy()
        shares = colour_shares(weights)
        # The towers are numbered as in the paper's figure: GPU 1 is the one that sees less.
        towers = np.split(np.arange(len(shares)), base.net.towers)
        towers.sort(key=lambda places: shares[places].mean())
        less, more = shares[towers[0]].mean(), shares[towers[-1]].mean()
        chance = permutation_p_value(shares, float(more - less))
        finding.rows.append(ResultRow(f"seed {seed}", (None,) * 3, ((percent(less), percent(more), percent(chance)),)))
        name = f"figure3-{seed}.png"
        drawn = draw_kernels(weights[np.concatenate(towers)], base.net.towers)
        (lab.folder / name).write_bytes(to_png(drawn))
        finding.figures.append(name)
        finding.numbers[f"seed {seed}"] = shares.tolist()
    finding.notes = ['The paper: GPU 1 "largely color-agnostic", GPU 2 "largely color-specific", in every run.']
    return finding

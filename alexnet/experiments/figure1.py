"""Figure 1: a four-layer net with ReLUs reaches 25 % training error on CIFAR-10 several times faster than with tanh.

    alexnet reproduce figure1 --data STORE

The net is the 2012 program's of 18 % (three convolutions and one fully connected layer) without its normalisation,
decay or translations: "no regularization of any kind". For each of the two activation functions short trainings try all
_RATES, and longer ones the best two: the best rate after three epochs need not be the fastest to the target.

Expected: 6 epochs with ReLU, 36 with tanh (read off the paper's plot). Here, two seeds: 6.2 and 43.6, 7.0 times.
Duration: 130 epochs of a small net, then 50 for each further seed; 26 s per epoch (one core).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from alexnet.experiments.experiment import Experiment, training_errors
from alexnet.experiments.paper_datasets import CIFAR10
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.figure_files import save_figure
from alexnet.results.figures import LIGHT
from alexnet.training.divergence import DivergenceError

DATASET = CIFAR10
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
_TARGET = 0.25  # training error
# The rounds of the search: name of the runs, epochs, training error at which they end, rates left for the next round.
ROUNDS = (("search", 3, None, 2), ("final", 16, _TARGET, 1))
EPOCHS = 80  # at most; the paper's tanh net took 36
_Activation = Literal["relu", "tanh"]
_NAMES = {"relu": "ReLU", "tanh": "tanh"}
_LINES = {"relu": "-", "tanh": "--"}
_PAPER_EPOCHS = {"relu": 6, "tanh": 36}  # read off the paper's plot


def _make_recipe(activation: _Activation, rate: float, *, epochs: int, seed: int, base: Recipe | None) -> Recipe:
    """Return the recipe of a net without regularisation, with one rate for weights and biases."""
    base = base or recipe_named("cifar10-18pct")
    net = replace(base.net, activation=activation, normalise=None, normalise_map=None)
    for name, full in net.hidden().items():
        net = replace(net, **{name: replace(full, dropout=0.0)})  # type: ignore[arg-type]
    return replace(
        base,
        net=net,
        learning_rate=rate,
        bias_rate=None,
        decay=0.0,
        decays={},
        schedule="changes",
        changes=(),
        warmup=0,
        epochs=epochs,
        until_train_error=_TARGET,
        reflect=False,
        colour_deviation=0.0,
        seed=seed,
    )


def fastest_rate(experiment: Experiment, activation: _Activation) -> float:
    """Search for the rate that reaches the target in the fewest epochs, or else the lowest training error; seed 0."""
    rates: Sequence[float] = RATES
    for name, round_epochs, until, rates_left in ROUNDS:
        scores = {}
        epochs = min(round_epochs, experiment.epochs or round_epochs)
        for rate in rates:
            recipe = _make_recipe(activation, rate, epochs=epochs, seed=0, base=experiment.recipe)
            recipe = replace(recipe, until_train_error=until)
            try:
                errors = training_errors(experiment.train(f"{name}-{activation}-{rate:g}", recipe, full_length=True))
                scores[rate] = epochs_to_target(errors) or math.inf, errors[-1]
            except DivergenceError:
                scores[rate] = math.inf, math.inf
        rates = sorted(scores, key=scores.__getitem__)[:rates_left]
    return rates[0]


def epochs_to_target(errors: list[float]) -> float | None:
    """Return the epochs until the training error is the target, interpolated linearly; None if it never is."""
    previous = 1.0
    for epoch, error in enumerate(errors, 1):
        if error <= _TARGET:
            return epoch - (_TARGET - error) / (previous - error)
        previous = error
    return None


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    experiment.check_epochs(EPOCHS, "this experiment")
    return experiment.recipe or recipe_named("cifar10-18pct")


def run(experiment: Experiment) -> ExperimentResult:
    """Search the rates, train both nets, and compare the epochs they take."""
    measures = ("epochs to 25 % training error",)
    result = ExperimentResult("Figure 1: ReLU against tanh", experiment.describe_data(), measures)
    recipe = base_recipe(experiment)
    epochs = experiment.epochs or EPOCHS
    searched = len(RATES) + sum(left for *_, left in ROUNDS[:-1])
    experiment.net_count = len(_NAMES) * (searched + (experiment.seeds or 1))
    curves: dict[str, list[list[float]]] = {}
    means = []
    for activation in ("relu", "tanh"):
        name, rate = _NAMES[activation], fastest_rate(experiment, activation)
        curves[activation] = _train_seeds(experiment, activation, rate, epochs)
        times = [epochs_to_target(errors) for errors in curves[activation]]
        reached = [time for time in times if time is not None]
        result.rows.append(ResultRow(name, (_PAPER_EPOCHS[activation],), tuple((time,) for time in times)))
        result.notes.append(f"{name}: learning rate {rate:g}, of {', '.join(f'{tried:g}' for tried in RATES)}.")
        if len(reached) < len(times):
            lowest = to_percent(min(map(min, curves[activation])))
            result.notes.append(
                f"{name}: {len(times) - len(reached)} of {len(times)} did not reach 25 % in {epochs} epochs; the "
                f"lowest training error was {lowest:.1f} %."
            )
        means.append(statistics.mean(reached) if reached else None)
    relu, tanh = means
    if relu is not None and tanh is not None:
        result.notes.append(f"ReLU is {tanh / relu:.1f} times as fast (the paper: 6).")
    result.numbers = {"training_error": curves}
    save_figure(experiment.folder / "figure1.png", draw(curves), recipe, dpi=150)
    result.figures = ["figure1.png"]
    return result


def _train_seeds(experiment: Experiment, activation: _Activation, rate: float, epochs: int) -> list[list[float]]:
    """Train a net with each seed, and return the training errors of each."""
    curves = []
    for seed in range(experiment.seeds or 1):
        recipe = _make_recipe(activation, rate, epochs=epochs, seed=seed, base=experiment.recipe)
        curves.append(training_errors(experiment.train(f"{activation}-{seed}", recipe, full_length=True)))
    return curves


def draw(curves: dict[str, list[list[float]]]) -> Figure:
    """Draw the training error against epochs, ReLU solid and tanh dashed, a line for each seed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for activation, lines in curves.items():
        for number, errors in enumerate(lines):
            label = _NAMES[activation] if number == 0 else None
            epochs = range(1, len(errors) + 1)
            marker = "o" if len(errors) < 4 else None  # a line of one point cannot be seen
            axes.plot(
                epochs, errors, _LINES[activation], color=LIGHT.text, linewidth=1.5, label=label, marker=marker,
                markersize=4, fillstyle="full" if activation == "relu" else "none",
            )  # fmt: skip
    axes.axhline(_TARGET, color=LIGHT.validation, linewidth=1, linestyle=":")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, max(0.75, *(1.05 * error for lines in curves.values() for errors in lines for error in errors)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("Epochs")
    axes.set_ylabel("Training error")
    axes.legend(frameon=False)
    return figure

"""Figure 1: a four-layer net with ReLUs reaches 25 % training error on CIFAR-10 several times faster than with tanh.

    alexnet reproduce figure1 --data STORE        CIFAR-10, 32 pixels; 130 epochs of a small net, 50 for a further seed

The net is the 2012 program's of 18 % (three convolutions and one full layer) without its normalisation, decay or
translations: "no regularization of any kind". For each of the two nonlinearities all RATES are tried shortly, the best
two longer: what is ahead after three epochs need not be first at the target.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from alexnet.experiments.lab import CIFAR10, Experiment, ExperimentResult, ResultRow, percent
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.figures import LIGHT
from alexnet.training.divergence import DivergenceError

DATA = CIFAR10
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
TARGET = 0.25
# Of the search: their runs' name, epochs, the training error at which they end, and how many rates are left after.
ROUNDS = (("search", 3, None, 2), ("final", 16, TARGET, 1))
EPOCHS = 80  # at most; the paper's tanh net took 36
Activation = Literal["relu", "tanh"]
STYLES = {"relu": ("ReLU", "-"), "tanh": ("tanh", "--")}


def recipe_for(activation: Activation, rate: float, *, epochs: int, seed: int, base: Recipe | None) -> Recipe:
    """A net of the figure at one rate, the same for weights and biases, without any regularisation."""
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
        until_train_error=TARGET,
        reflect=False,
        colour_deviation=0.0,
        seed=seed,
    )


def fastest_rate(lab: Experiment, activation: Activation) -> float:
    """The rate that has the fewest epochs to TARGET, or else the lowest training error, in the ROUNDS; seed 0."""
    rates: Sequence[float] = RATES
    for name, epochs, until, left in ROUNDS:
        found = {}
        epochs = min(epochs, lab.epochs or epochs)
        for rate in rates:
            recipe = recipe_for(activation, rate, epochs=epochs, seed=0, base=lab.recipe)
            recipe = replace(recipe, until_train_error=until)
            try:
                errors = lab.training_errors(lab.trained(f"{name}-{activation}-{rate:g}", recipe, whole=True))
                found[rate] = epochs_to_target(errors) or math.inf, errors[-1]
            except DivergenceError:
                found[rate] = math.inf, math.inf
        rates = sorted(found, key=found.__getitem__)[:left]
    return rates[0]


def epochs_to_target(errors: list[float]) -> float | None:
    """Epochs until the training error is TARGET, between epochs along a straight line; None if it never is."""
    before = 1.0
    for epoch, error in enumerate(errors, 1):
        if error <= TARGET:
            return epoch - (TARGET - error) / (before - error)
        before = error
    return None


def run(lab: Experiment) -> ExperimentResult:
    """Search the rates, train both nets, and compare the epochs they take."""
    finding = ExperimentResult("Figure 1: ReLU against tanh", lab.data(), ("epochs to 25 % training error",))
    curves: dict[str, list[list[float]]] = {}
    epochs = lab.epochs or EPOCHS
    for activation in ("relu", "tanh"):
        rate = fastest_rate(lab, activation)
        curves[activation] = [
            lab.training_errors(
                lab.trained(
                    f"{activation}-{seed}",
                    recipe_for(activation, rate, epochs=epochs, seed=seed, base=lab.recipe),
                    whole=True,
                )
            )
            for seed in range(lab.seeds or 1)
        ]
        took = [epochs_to_target(errors) for errors in curves[activation]]
        reached = [t for t in took if t is not None]
        tried = ", ".join(f"{one:g}" for one in RATES)
        finding.notes.append(f"{STYLES[activation][0]}: learning rate {rate:g}, of {tried}.")
        # The paper's numbers are read off its plot.
        finding.rows.append(
            ResultRow(STYLES[activation][0], ({"relu": 6, "tanh": 36}[activation],), tuple((t,) for t in took))
        )
        if len(reached) < len(took):
            finding.notes.append(
                f"{STYLES[activation][0]}: {len(took) - len(reached)} of {len(took)} did not reach 25 % in {epochs} "
                f"epochs; the lowest training error was {percent(min(map(min, curves[activation]))):.1f} %."
            )
    relu, tanh = ([t for (t,) in row.ours if t is not None] for row in finding.rows)
    if relu and tanh:
        ratio = statistics.mean(tanh) / statistics.mean(relu)
        finding.notes.append(f"ReLU is {ratio:.1f} times as fast (the paper: 6).")
    finding.numbers = {"training_error": curves}
    draw(curves).savefig(lab.folder / "figure1.png", dpi=150)
    finding.figures = ["figure1.png"]
    return finding


def draw(curves: dict[str, list[list[float]]]) -> Figure:
    """The figure: training error against epochs, ReLU solid and tanh dashed, a line for each seed."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for activation, lines in curves.items():
        name, style = STYLES[activation]
        for number, errors in enumerate(lines):
            label = name if number == 0 else None
            axes.plot(range(1, len(errors) + 1), errors, style, color=LIGHT.text, linewidth=1.5, label=label)
    axes.axhline(TARGET, color=LIGHT.validation, linewidth=1, linestyle=":")
    axes.set_xlim(left=0)
    axes.set_ylim(0, max(0.75, *(1.05 * error for lines in curves.values() for errors in lines for error in errors)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("Epochs")
    axes.set_ylabel("Training error")
    axes.legend(frameon=False)
    return figure

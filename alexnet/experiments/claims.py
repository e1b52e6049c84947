"""Every claim of the paper about a part of its net: its sign and size, and whether the spread over seeds decides it.

    alexnet reproduce claims --data STORE
    alexnet reproduce claims --data STORE --only one-gpu,tanh --seeds 2 --epochs 5

All nets have the same schedule. The claims about overfitting are those of `overfitting`, whose nets overfit. The same
command in a second terminal shares the work: a net that one process trains is skipped by the others. Whichever ends
last has the whole table; what is finished is not done again.

On Tiny ImageNet prepared with --size 64 use the recipe `tiny-imagenet`, which is the default for a stand-in.

Expected: the signs of the list in claim_list.py. Not run to its end here.
Duration: a training for each of 19 nets and three seeds, and two more for the average of five: on Tiny ImageNet six to
eight hours on two cores. The net with contrast normalisation takes three times as long as the others.
"""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.experiments.claim_list import AVERAGE, CLAIMS, Claim, Measure
from alexnet.experiments.claims_figure import draw_differences
from alexnet.experiments.claims_table import ClaimRow, ClaimsResult, import_scipy_stats
from alexnet.experiments.experiment import MEASURES_FOLDER, Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012
from alexnet.experiments.result import format_settings, to_percent
from alexnet.experiments.variants import THE_NET, VARIANTS, drop_duplicate_nets
from alexnet.recipe import Recipe
from alexnet.results.figure_files import save_figure
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import load_best
from alexnet.training.divergence import DivergenceError
from alexnet.training.error_rates import measure_errors
from alexnet.utils.device import choose_device
from alexnet.utils.files import FolderInUseError, exclusive_lock, write_atomic

DATASET = ILSVRC2012
_SEEDS, _AVERAGED = 3, 5
_EARLY = 5  # the first fifth of the epochs is early learning
_POINT = 0.01  # of an error rate
_Measured = Mapping[str, Any]


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs or names of nets do not suit it."""
    chosen_variants(CLAIMS, experiment.only)
    return experiment.base_recipe("tiny-imagenet", "alexnet-2012-run")


def run(experiment: Experiment) -> ClaimsResult:
    """Train the nets that no other process trains or has trained, and judge the claims by all that are finished."""
    base = experiment.shorten(base_recipe(experiment))
    result = judge_claims(experiment, base, CLAIMS, "What the paper claims about each part")
    if any(row.claim.measure == "error" for row in result.claims):
        save_figure(experiment.folder / "claims.png", draw_differences(result.claims), base, dpi=150)
        result.figures = ["claims.png"]
    return result


def judge_claims(experiment: Experiment, base: Recipe, claims: Sequence[Claim], title: str) -> ClaimsResult:
    """Train the nets of some claims that no other process trains or has trained; judge by all that are finished.

    Args:
        experiment: The experiment; its `only` names the nets to train.
        base: The recipe of the net that the others are compared with.
        claims: The claims.
        title: The title of the result.
    """
    import_scipy_stats()  # if it is missing, the error must come before the trainings
    names = chosen_variants(claims, experiment.only)
    recipes, same_nets = drop_duplicate_nets({name: VARIANTS[name](base) for name in names})
    experiment.check_store_size(recipes.values())
    unfinished = []
    is_net_asked_for = experiment.only is None or THE_NET in experiment.only
    averaged = is_net_asked_for and any(claim.variant == AVERAGE for claim in claims)
    runs = list(list_runs(tuple(recipes), experiment.seeds or _SEEDS, averaged=averaged))
    experiment.net_count = len(runs)
    for name, seed in runs:
        try:
            _measure(experiment, name, replace(recipes[name], seed=seed))
        except FolderInUseError:
            unfinished.append(f"{name}-{seed}")
            continue
        # The results so far: all of them take hours.
        _make_result(experiment, recipes, claims, title).write(experiment.folder)
    result = _make_result(experiment, recipes, claims, title)
    result.notes += same_nets
    if unfinished:
        result.notes.append(
            f"Other processes train {', '.join(unfinished)}; then the same command completes the table."
        )
    return result


def chosen_variants(claims: Sequence[Claim], only: Sequence[str] | None) -> list[str]:
    """Return the names of the variants to train, in their order; the net itself is always one of them.

    Raises:
        ValueError: None of the claims is about a variant of such a name.
    """
    claimed = {THE_NET, *(claim.variant for claim in claims)}
    names = [name for name in VARIANTS if name in claimed]
    for name in only or ():
        if name not in names:
            raise ValueError(f"only must name some of {', '.join(names)}; got {name!r}")
    return [name for name in names if only is None or name in only or name == THE_NET]


def list_runs(names: Sequence[str], seeds: int, *, averaged: bool) -> Iterator[tuple[str, int]]:
    """Yield the name and the seed of each run, the most valuable first.

    Args:
        names: The names of the nets.
        seeds: How often each net is trained.
        averaged: Whether, with three seeds or more, further nets for the average of five come last.
    """
    for name in names:
        yield from ((name, seed) for seed in range(seeds))
    if averaged and seeds >= _SEEDS:
        yield from ((THE_NET, seed) for seed in range(seeds, _AVERAGED))


# ---- One net --------------------------------------------------------------------------------------------------------


def _measure(experiment: Experiment, name: str, recipe: Recipe) -> None:
    """Train a net and write its measures to measures/NAME-SEED/measures.json, or do nothing if that was done before.

    Raises:
        FolderInUseError: Another process does so.
        ValueError: The measures are those of another recipe.
        SignalInterrupt: A signal stopped the training; the same command resumes it.
    """
    run_name = f"{name}-{recipe.seed}"
    folder = experiment.folder / MEASURES_FOLDER / run_name
    with exclusive_lock(folder):
        path = folder / "measures.json"
        if path.exists():
            if Recipe.from_json(json.loads(path.read_text(encoding="utf-8"))["recipe"]) != recipe:
                raise ValueError(f"{experiment.folder / run_name} has another recipe; name another `folder`")
            return
        try:
            trained = experiment.train(run_name, recipe, full_length=True)
            measures = _measure_run(experiment, trained)
            measures |= {"run": str(trained.relative_to(experiment.folder.parent))}
        except DivergenceError as error:
            measures = {"diverged": str(error)}
        write_atomic(path, json.dumps(measures | {"recipe": recipe.to_json()}, indent=1).encode())


def _measure_run(experiment: Experiment, trained: Path) -> dict[str, Any]:
    """Return the errors of a trained net, as fractions.

    Returns:
        "top1" and "top5" with ten views, "centre" with one, of the validation pictures; "training" of the training
        pictures at test time, without augmentation and dropout; "curve": the validation error after each epoch.
    """
    checkpoint = load_best(trained)
    net = checkpoint.net()
    net.to_channels_last(choose_device(experiment.device))
    split, mean = experiment.store.split("train"), checkpoint.statistics.mean
    training = measure_errors(net, split, mean, checkpoint.recipe)
    averaged, centre = experiment.evaluate([trained], 10), experiment.evaluate([trained], 1)
    return {
        "top1": averaged["top1_error"],
        "top5": averaged["top5_error"],
        "centre": centre["top1_error"],
        "training": training.top1_error,
        "curve": [line["val_top1_error"] for line in RunHistory.read(trained).epochs],
    }


# ---- The claims -----------------------------------------------------------------------------------------------------


def _make_result(
    experiment: Experiment, recipes: Mapping[str, Recipe], claims: Sequence[Claim], title: str
) -> ClaimsResult:
    """Judge the claims by the runs that are measured so far."""
    runs = _read_measures(experiment, tuple(recipes))
    result = ClaimsResult(title, experiment.describe_data(), ("top-1 error (%)", "top-5 error (%)"))
    result.numbers = runs
    for name, recipe in recipes.items():
        errors = [{"top1_error": m["top1"], "top5_error": m["top5"]} for m in runs[name]]
        images = len(experiment.store.validation())
        rates = [rates | {"images": images} for rates in errors]
        settings = format_settings(recipes[THE_NET], recipe)
        if rates:
            result.rows.append(experiment.error_row(name, (None, None), rates, settings))
    for claim in claims:
        row = _judge(experiment, claim, runs)
        if row is not None:
            result.claims.append(row)
    unmeasured = [name for name in recipes if not runs[name]]
    if unmeasured:
        result.notes.append(f"Not measured: {', '.join(unmeasured)}.")
    for name, seed, message in _diverged(experiment, tuple(recipes)):
        result.notes.append(f"{name}, seed {seed}: {message}")
    return result


def _judge(experiment: Experiment, claim: Claim, runs: Mapping[str, Sequence[_Measured]]) -> ClaimRow | None:
    """Return a claim with what was measured; None if nothing was, or the variant was not chosen."""
    net = runs[THE_NET]
    if claim.variant == AVERAGE:
        if len(net) < 2:
            return None
        folders = [experiment.folder.parent / measures["run"] for measures in net]
        average = to_percent(experiment.evaluate(folders, 10)["top1_error"])
        if len(net) != _AVERAGED:
            claim = replace(claim, text=claim.text.replace("five", str(len(net))), paper=None)
        return ClaimRow(claim, tuple(to_percent(measures["top1"]) for measures in net), (average,))
    changed = runs.get(claim.variant, ())
    if not net or not changed:
        return None
    return ClaimRow(claim, measure_values(claim.measure, net), measure_values(claim.measure, changed))


def measure_values(measure: Measure, runs: Sequence[_Measured]) -> tuple[float, ...]:
    """Return the values of a measure, one for each run.

    Args:
        measure: A key of MEASURES.
        runs: What `_measure_run` returned for each run, and "first_rate": the epochs before the learning rate changes.
    """
    if measure == "epochs":
        return tuple(float(epochs_to_converge(run["curve"][: run["first_rate"]])) for run in runs)
    if measure == "early":
        return tuple(to_percent(statistics.mean(run["curve"][: max(1, len(run["curve"]) // _EARLY)])) for run in runs)
    if measure == "overfitting":
        return tuple(to_percent(run["centre"] - run["training"]) for run in runs)
    return tuple(to_percent(run["top1" if measure == "error" else "training"]) for run in runs)


def epochs_to_converge(curve: Sequence[float]) -> int:
    """Return the epochs until an error is within a point of the lowest: from then on it hardly improves."""
    target = min(curve) + _POINT
    return next(epoch for epoch, error in enumerate(curve, 1) if error <= target)


def first_rate_epochs(recipe: Recipe) -> int:
    """Return the epochs before the first change of the learning rate; all of them if no epoch is set for one."""
    changes = [change.epoch for change in recipe.changes if change.learning_rate is not None]
    return min(recipe.epochs, max(1, math.ceil(min(changes, default=recipe.epochs))))


def _read_all(experiment: Experiment, names: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield the name, the seed and the measures of each finished run of these variants."""
    for name in names:
        for path in sorted((experiment.folder / MEASURES_FOLDER).glob(f"{name}-[0-9]*/measures.json")):
            variant, _, seed = path.parent.name.rpartition("-")
            if variant == name:
                yield name, int(seed), json.loads(path.read_text(encoding="utf-8"))


def _read_measures(experiment: Experiment, names: Sequence[str]) -> dict[str, list[_Measured]]:
    """Return the measures of the finished runs of each variant; without those that diverged."""
    runs: dict[str, list[_Measured]] = {name: [] for name in names}
    for name, seed, measures in _read_all(experiment, names):
        if "diverged" not in measures:
            first_rate = first_rate_epochs(Recipe.from_json(measures.pop("recipe")))
            runs[name].append(measures | {"seed": seed, "first_rate": first_rate})
    return runs


def _diverged(experiment: Experiment, names: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """Yield the name, the seed and the message of each run that diverged."""
    for name, seed, measures in _read_all(experiment, names):
        if "diverged" in measures:
            yield name, seed, measures["diverged"]

"""Section 7's last paragraph: ImageNet's Fall 2009 release, 10,184 classes, half of the pictures to test on.

    alexnet reproduce fall2009 --data FALL2009

    alexnet reproduce fall2009 --data FALL2009 --more ILSVRC2012     as the program did: from a net trained on that

FALL2009 is the folder of the archives (docs/data.md), or a store that is prepared from it with --held-out 0 --test
0.5.
Expected: 67.4 / 40.9 % with ten views. Not run here on Fall 2009; on Caltech-101 at 64 pixels, half of it held out,
with --recipe tiny --seeds 3: 73.6 / 51.0 %.
Duration: 91 epochs of 4.5 million pictures, about 14 hours per epoch on two cores.
"""

from dataclasses import replace
from typing import Any

from alexnet.architecture import Full
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import FALL2009
from alexnet.experiments.result import ExperimentResult, ResultRow
from alexnet.experiments.table2 import pretraining_recipe, use_program_recipes
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named

DATASET = FALL2009


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos", "alexnet-2012-run")


def list_trainings(experiment: Experiment) -> dict[str, Recipe]:
    """Return the recipe of each net that the experiment trains, by the name of its run."""
    base = base_recipe(experiment)
    recipe = pretraining_recipe(base)
    if experiment.pretraining_stores and use_program_recipes(experiment):
        recipe = recipe_named("alexnet-2012-fall2009")
    elif not experiment.stand_in:  # for so many classes the program had a linear layer before the output
        recipe = replace(recipe, net=replace(recipe.net, linear=Full(units=2048)))
    return {f"conv6-{seed}": replace(recipe, seed=seed) for seed in range(experiment.seeds or 1)}


def run(experiment: Experiment) -> ExperimentResult:
    """Train the net with conv6 on one half, and evaluate it on the other with ten views."""
    if len(experiment.pretraining_stores) > 1:
        raise ValueError(f"pretraining_data must be one store; got {len(experiment.pretraining_stores)}")
    measures = ("top-1 error (%)", "top-5 error (%)")
    result = ExperimentResult("Fall 2009, half to test", experiment.describe_data(), measures)
    result.rows.append(ResultRow("others (Mensink and others 2012)", (78.1, 60.9)))
    trainings = list_trainings(experiment)
    experiment.net_count = len(trainings) + len(experiment.pretraining_stores)
    start: dict[str, Any] = {}
    if experiment.pretraining_stores:
        base = base_recipe(experiment)
        (store,) = experiment.pretraining_stores
        start = {"start_from": experiment.train("first-0", base, store=store), "take": tuple(base.net.convs())}
    runs = [experiment.train(name, recipe, **start) for name, recipe in trainings.items()]
    errors = [experiment.evaluate([run], 10) for run in runs]
    result.rows.append(experiment.error_row("CNN with conv6", (67.4, 40.9), errors))
    train, test = len(experiment.store.split("train")), len(experiment.store.validation())
    result.notes.append(f"{train:,} pictures to train on, {test:,} to test on.")
    if experiment.pretraining_stores:
        path = experiment.pretraining_stores[0].path
        result.notes.append(f"The convolutions start from a net trained on {path}; the program's was of ILSVRC-2012.")
    else:
        result.notes.append(
            "The program began with a net trained on ILSVRC-2012; here the start values are drawn, as no store to "
            "pre-train on was given."
        )
    return result

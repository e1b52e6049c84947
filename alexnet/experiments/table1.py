"""Table 1: top-1 and top-5 error on ILSVRC-2010's test set, with ten views and (footnote e) with one.

    alexnet reproduce table1 --data ILSVRC2010

ILSVRC2010 is the folder of the archives as they are downloaded (docs/data.md), or a store that is prepared from it.
Expected: 37.5 / 17.0 % with ten views, 39.0 / 18.3 % with one. Not run here on ILSVRC-2010; on Caltech-101 at 64 pixels
with --recipe tiny --seeds 3 the ten views take 3.6 points off the top-1 error.
Duration: 93 epochs of 1.26 million pictures and 96 of the one-GPU net, 3.8 hours per epoch on two cores.
"""

from dataclasses import replace

from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2010
from alexnet.experiments.result import ExperimentResult, ResultRow, format_settings
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named

DATASET = ILSVRC2010
_OTHER_METHODS = {"sparse coding (others)": (47.1, 28.2), "SIFT + FVs (others)": (45.7, 25.7)}


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos", "alexnet-2012-run-2010")


def list_trainings(experiment: Experiment) -> dict[str, Recipe]:
    """Return the recipe of each net that the experiment trains, by the name of its run."""
    base = base_recipe(experiment)
    trainings = {f"cnn-{seed}": replace(base, seed=seed) for seed in range(experiment.seeds or 1)}
    if experiment.recipe is None and not experiment.stand_in:
        # Section 4.2 compares Table 1's net with this one.
        trainings["half-0"] = recipe_named("alexnet-2012-half")
    return trainings


def run(experiment: Experiment) -> ExperimentResult:
    """Train the net, and evaluate it with ten views and with one."""
    trainings = list_trainings(experiment)
    base = trainings["cnn-0"]
    experiment.net_count = len(trainings)
    measures = ("top-1 error (%)", "top-5 error (%)")
    result = ExperimentResult("Table 1: ILSVRC-2010", experiment.describe_data(), measures)
    result.rows = [ResultRow(name, paper) for name, paper in _OTHER_METHODS.items()]
    split = experiment.test_split()
    half = trainings.pop("half-0", None)
    runs = [experiment.train(name, recipe) for name, recipe in trainings.items()]
    for name, views, paper in (("CNN, ten views", 10, (37.5, 17.0)), ("CNN, one view (footnote e)", 1, (39.0, 18.3))):
        errors = [experiment.evaluate([run], views, split=split) for run in runs]
        result.rows.append(experiment.error_row(name, paper, errors))
    if half is not None:
        errors = [experiment.evaluate([experiment.train("half-0", half)], 10, split=split)]
        settings = format_settings(base, half)
        result.rows.append(
            experiment.error_row("CNN on one GPU, half the kernels (4.2)", (39.2, 18.2), errors, settings)
        )
    return result

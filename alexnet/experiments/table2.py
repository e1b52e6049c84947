"""Table 2: errors on ILSVRC-2012's validation set of one net, of five averaged, of pre-trained ones and of all seven.

    alexnet reproduce table2 --data STORE --more FALL2009 --more FALL2011

FALL2009 and FALL2011 are the larger sets to pre-train on, one after the other as in the program: ImageNet's Fall 2009
release, 10,184 classes, and its Fall 2011 release, 22 thousand. One alone is possible. Without any the rows marked *
say "not measured". Five nets are trained, with seeds 0 to 4. Two more, with conv6, are trained on the larger sets from
the convolutions of the first, and fine-tuned on STORE; one is also fine-tuned after the first larger set alone.
Expected: 40.7 / 18.2 % for one net, 38.1 / 16.4 % for five, 39.0 / 16.6 % for a pre-trained one, 36.7 / 15.4 % for all
seven. Not run here on ILSVRC-2012; on 20 categories of Caltech-101 with --recipe tiny the order is the same.
Duration: five times 91 epochs of 1.28 million pictures, 3.9 hours per epoch on two cores; then two pre-trainings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import FALL2009, ILSVRC2012
from alexnet.experiments.result import ExperimentResult, ResultRow
from alexnet.net_variants import with_conv6
from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named

DATASET = ILSVRC2012
_NETS, PRETRAINED_NETS = 5, 2
_PRETRAINING_RECIPES = ("alexnet-2012-fall2009", "alexnet-2012-fall2011")


def pretraining_recipe(base: Recipe) -> Recipe:
    """Return the recipe of a net with conv6 over its last pooling, to be trained on a larger set (7)."""
    return replace(base, net=with_conv6(base.net))


def finetuning_recipe(pretrained: Recipe) -> Recipe:
    """Return the recipe for the same net on the smaller set: a tenth of the rate, but at first all of it for fc8."""
    rate, early = pretrained.learning_rate, max(1, pretrained.epochs // 6)
    changes = (
        Change(epoch=0, learning_rate=rate, layers=("fc8",)),
        Change(epoch=early, learning_rate=rate / 10, layers=("fc8",)),
    )
    return replace(pretrained, learning_rate=rate / 10, schedule="changes", warmup=0, changes=changes)


def use_program_recipes(experiment: Experiment) -> bool:
    """Return whether the nets have the rates of the program's own runs: on the paper's pictures, by default."""
    return experiment.recipe is None and not experiment.stand_in


def _chain(experiment: Experiment, base: Recipe) -> list[Recipe]:
    """Return the recipe of each pre-training, one for each store, and then that of the fine-tuning."""
    count = len(experiment.pretraining_stores)
    if use_program_recipes(experiment):
        is_fall2009 = len(experiment.pretraining_stores[0].classes) == FALL2009.classes
        last = "alexnet-2012-finetune-fall2009" if count == 1 and is_fall2009 else "alexnet-2012-finetune"
        return [*map(recipe_named, _PRETRAINING_RECIPES[:count]), recipe_named(last)]
    first = pretraining_recipe(base)
    convs = dict.fromkeys(first.net.convs(), 0.1)  # trained already, so a tenth of the rate, as in the program
    second = replace(first, rate_factors=first.rate_factors | convs)
    return [*(first, second)[:count], finetuning_recipe(first)]


def pretrain_and_finetune(experiment: Experiment, base: Recipe, first: Path, seed: int) -> Path:
    """Train a net on the larger sets, with the convolutions of a first net as start values, and fine-tune it.

    Returns:
        The folder of the fine-tuned run.
    """
    *pretrainings, finetuning = _chain(experiment, base)
    pretrained, layers = first, tuple(base.net.convs())
    for number, (recipe, store) in enumerate(zip(pretrainings, experiment.pretraining_stores, strict=True)):
        name = f"pretrained-{seed}" if number == 0 else f"pretrained-again-{seed}"
        pretrained = experiment.train(name, replace(recipe, seed=seed), store=store, start_from=pretrained, take=layers)
        layers = (*base.net.convs(), "conv6")
    layers = (*layers, *base.net.hidden())
    return experiment.train(f"finetuned-{seed}", replace(finetuning, seed=seed), start_from=pretrained, take=layers)


def _finetune_after_first(experiment: Experiment, base: Recipe, seed: int) -> Path:
    """Fine-tune the net that was pre-trained on the first of two larger sets only (146 by Fall 2009 alone)."""
    recipe = _chain(experiment, base)[-1]
    if use_program_recipes(experiment):
        recipe = recipe_named("alexnet-2012-finetune-fall2009")
    layers = (*base.net.convs(), "conv6", *base.net.hidden())
    pretrained = experiment.folder / f"pretrained-{seed}"
    return experiment.train(f"finetuned-first-{seed}", replace(recipe, seed=seed), start_from=pretrained, take=layers)


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos", "alexnet-2012-run")


def run(experiment: Experiment) -> ExperimentResult:
    """Train up to seven nets, and average them as the table does."""
    base = base_recipe(experiment)
    split = experiment.store.validation().name
    measures = (f"top-1 error, {split} (%)", f"top-5 error, {split} (%)")
    result = ExperimentResult("Table 2: ILSVRC-2012", experiment.describe_data(), measures)
    larger = experiment.pretraining_stores
    if len(larger) > len(_PRETRAINING_RECIPES):
        raise ValueError(f"pretraining_data must be at most {len(_PRETRAINING_RECIPES)} stores; got {len(larger)}")
    for store in larger:
        experiment.check_store_size([base], store)
    first_count = experiment.seeds or _NETS
    experiment.net_count = first_count + ((len(larger) + 1) * PRETRAINED_NETS + len(larger) - 1 if larger else 0)
    runs = [experiment.train(f"cnn-{seed}", replace(base, seed=seed)) for seed in range(first_count)]

    def errors(averaged: Sequence[Path]) -> Mapping[str, Any]:
        return experiment.evaluate(averaged, 10)

    def paper_of_average(top1: float, top5: float) -> tuple[float | None, float | None]:
        return (top1, top5) if len(runs) == _NETS else (None, None)  # the paper has no average of fewer

    result.rows = [
        experiment.error_row("1 CNN", (40.7, 18.2), [errors([run]) for run in runs]),
        experiment.error_row(f"{len(runs)} CNNs", paper_of_average(38.1, 16.4), [errors(runs)]),
    ]
    result.notes.append(
        "The paper's top-5 errors on the test set, which only the contest can measure (alexnet submit): SIFT + FVs "
        "26.2 %, 5 CNNs 16.4 %, 7 CNNs* 15.3 %."
    )
    result.write(experiment.folder)
    if not larger:
        result.rows += [
            ResultRow("1 CNN*", (39.0, 16.6)),
            ResultRow(f"{_NETS + PRETRAINED_NETS} CNNs*", (36.7, 15.4)),
        ]
        result.notes.append("Nets marked * are pre-trained on a larger set, which was not given.")
        return result
    pretrained = [pretrain_and_finetune(experiment, base, runs[0], _NETS + n) for n in range(PRETRAINED_NETS)]
    together = [*runs, *pretrained]
    result.rows += [
        experiment.error_row("1 CNN*", (39.0, 16.6), [errors([run]) for run in pretrained]),
        experiment.error_row(f"{len(together)} CNNs*", paper_of_average(36.7, 15.4), [errors(together)]),
    ]
    if len(larger) > 1:
        alone = _finetune_after_first(experiment, base, _NETS)
        result.rows.append(experiment.error_row("1 CNN*, the first set alone", (39.1, 16.88), [errors([alone])]))
    names = ", then ".join(f"{store.path}, {len(store.classes)} classes" for store in larger)
    result.notes.append(f"Pre-trained on {names}.")
    return result

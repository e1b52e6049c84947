"""Table 2: errors on ILSVRC-2012's validation set of one net, of five averaged, of pre-trained ones and of all seven.

    alexnet reproduce table2 --data STORE --more STORE2

STORE2 has the larger set to pre-train on: all of ImageNet's Fall 2011 release, 22 thousand classes. Without it the rows
marked * say "not measured". Five nets are trained, with seeds 0 to 4. Two more, with conv6, are trained on STORE2 from
the convolutions of the first, and fine-tuned on STORE.
Expected: 40.7 / 18.2 % for one net, 38.1 / 16.4 % for five, 39.0 / 16.6 % for a pre-trained one, 36.7 / 15.4 % for all
seven. Not run here on ILSVRC-2012; on 20 categories of Caltech-101 with --recipe tiny the order is the same.
Duration: five times 91 epochs of 1.28 million pictures, 3.9 hours per epoch on two cores; then two pre-trainings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012
from alexnet.experiments.result import ExperimentResult, ResultRow
from alexnet.net_variants import with_conv6
from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named

DATASET = ILSVRC2012
_NETS, _PRETRAINED_NETS = 5, 2


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


def pretrain_and_finetune(experiment: Experiment, base: Recipe, first: Path, seed: int) -> Path:
    """Train a net on the larger set, with the convolutions of a first net as start values, and fine-tune it.

    Returns:
        The folder of the fine-tuned run.
    """
    use_named = experiment.recipe is None and not experiment.stand_in
    pretraining = recipe_named("alexnet-2012-fall2009") if use_named else pretraining_recipe(base)
    finetuning = recipe_named("alexnet-2012-finetune") if use_named else finetuning_recipe(pretraining)
    convs = tuple(base.net.convs())
    # The program trained on the Fall 2009 release first, and then on the Fall 2011 release; with both sets, use
    # train --from. For one set, the rates are those of the first training, where conv6 is new.
    pretrained = experiment.train(
        f"pretrained-{seed}",
        replace(pretraining, seed=seed),
        store=experiment.pretraining_store,
        start_from=first,
        take=convs,
    )
    layers = (*convs, "conv6", *base.net.hidden())
    return experiment.train(f"finetuned-{seed}", replace(finetuning, seed=seed), start_from=pretrained, take=layers)


def run(experiment: Experiment) -> ExperimentResult:
    """Train up to seven nets, and average them as the table does."""
    base = experiment.base_recipe("photos", "alexnet-2012-run")
    split = experiment.store.validation().name
    measures = (f"top-1 error, {split} (%)", f"top-5 error, {split} (%)")
    result = ExperimentResult("Table 2: ILSVRC-2012", experiment.describe_data(), measures)
    if experiment.pretraining_store is not None:
        experiment.check_store_size([base], experiment.pretraining_store)
    first_count = experiment.seeds or _NETS
    experiment.net_count = first_count + (2 * _PRETRAINED_NETS if experiment.pretraining_store is not None else 0)
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
    larger = experiment.pretraining_store
    if larger is None:
        result.rows += [
            ResultRow("1 CNN*", (39.0, 16.6)),
            ResultRow(f"{_NETS + _PRETRAINED_NETS} CNNs*", (36.7, 15.4)),
        ]
        result.notes.append("Nets marked * are pre-trained on a larger set, which was not given.")
        return result
    pretrained = [pretrain_and_finetune(experiment, base, runs[0], _NETS + n) for n in range(_PRETRAINED_NETS)]
    together = [*runs, *pretrained]
    result.rows += [
        experiment.error_row("1 CNN*", (39.0, 16.6), [errors([run]) for run in pretrained]),
        experiment.error_row(f"{len(together)} CNNs*", paper_of_average(36.7, 15.4), [errors(together)]),
    ]
    result.notes.append(f"Pre-trained on {larger.path.resolve().name}, {len(larger.classes)} classes.")
    return result

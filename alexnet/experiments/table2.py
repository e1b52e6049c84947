"""Table 2: errors on ILSVRC-2012's validation set of one net, of five averaged, of pre-trained ones and of all seven.

    alexnet reproduce table2 --data STORE --more STORE2

STORE2 holds the larger set to pre-train on: all of ImageNet's Fall 2011 release, 22 thousand classes. Without it the
rows marked * say "not measured". Five nets are trained from seeds 0 to 4; two more, with conv6, are trained on STORE2
from the convolutions of the first, and fine-tuned on STORE.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet.experiments.lab import ILSVRC2012, Experiment, ExperimentResult, ResultRow
from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named, with_conv6

DATA = ILSVRC2012
NETS, PRETRAINED = 5, 2


def pretraining(base: Recipe) -> Recipe:
    """A net like another, with conv6 over its last pooling, to be trained on a larger set (7)."""
    return replace(base, net=with_conv6(base.net))


def finetuning(pretrained: Recipe) -> Recipe:
    """The same net on the smaller set: a tenth of the rate, all of it for the output layer at first."""
    rate, early = pretrained.learning_rate, max(1, pretrained.epochs // 6)
    changes = (
        Change(epoch=0, learning_rate=rate, layers=("fc8",)),
        Change(epoch=early, learning_rate=rate / 10, layers=("fc8",)),
    )
    return replace(pretrained, learning_rate=rate / 10, schedule="changes", warmup=0, changes=changes)


def pretrain_and_finetune(lab: Experiment, base: Recipe, first: Path, seed: int) -> Path:
    """A net pre-trained on the larger set, from the convolutions of a first net, and fine-tuned on the smaller."""
    of_program = lab.recipe is None and not lab.stand_in
    pre = recipe_named("alexnet-2012-fall2009") if of_program else pretraining(base)
    fine = recipe_named("alexnet-2012-finetune") if of_program else finetuning(pre)
    convs = tuple(base.net.convs())
    # The program went over the Fall 2009 release first and the Fall 2011 release then; whoever has both can do so with
    # train --from. In one go it is the rates of the first, at which conv6 is new.
    pre_run = lab.trained(f"pretrained-{seed}", replace(pre, seed=seed), store=lab.more, start_from=first, take=convs)
    kept = (*convs, "conv6", *base.net.hidden())
    return lab.trained(f"finetuned-{seed}", replace(fine, seed=seed), start_from=pre_run, take=kept)


def run(lab: Experiment) -> ExperimentResult:
    """Train up to seven nets, and average them as the table does."""
    base = lab.base("photos", "alexnet-2012-run")
    part = lab.store.validation().name
    measures = (f"top-1 error, {part} (%)", f"top-5 error, {part} (%)")
    finding = ExperimentResult("Table 2: ILSVRC-2012", lab.data(), measures)
    if lab.more is not None:
        lab.check([base], lab.more)
    five = [lab.trained(f"cnn-{seed}", replace(base, seed=seed)) for seed in range(lab.seeds or NETS)]

    def average(runs: Sequence[Path]) -> tuple[float, float | None]:
        return lab.pair(lab.errors(runs, 10))

    singles = tuple(average([run]) for run in five)
    as_paper = len(five) == NETS  # an average of fewer is not the paper's
    finding.rows = [ResultRow("1 CNN", (40.7, 18.2), singles)]
    finding.rows.append(ResultRow(f"{len(five)} CNNs", (38.1, 16.4) if as_paper else (None, None), (average(five),)))
    finding.notes.append(
        "The paper's top-5 errors on the test set, which only the contest can tell (alexnet submit): SIFT + FVs "
        "26.2 %, 5 CNNs 16.4 %, 7 CNNs* 15.3 %."
    )
    finding.write(lab.folder)
    if lab.more is None:
        finding.rows += [ResultRow("1 CNN*", (39.0, 16.6)), ResultRow(f"{NETS + PRETRAINED} CNNs*", (36.7, 15.4))]
        finding.notes.append("Nets marked * are pre-trained on a larger set, which was not given (--more).")
        return finding
    two = [pretrain_and_finetune(lab, base, five[0], NETS + n) for n in range(PRETRAINED)]
    finding.rows.append(ResultRow("1 CNN*", (39.0, 16.6), tuple(average([run]) for run in two)))
    finding.rows.append(
        ResultRow(
            f"{len(five) + len(two)} CNNs*", (36.7, 15.4) if as_paper else (None, None), (average([*five, *two]),)
        )
    )
    finding.notes.append(f"Pre-trained on {lab.more.path.resolve().name}, {len(lab.more.classes)} classes.")
    return finding

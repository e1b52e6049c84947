"""What response normalisation is worth on CIFAR-10 (section 4.3: 13 % test error without it, 11 % with it).

    alexnet reproduce cifar-normalisation --data STORE               some 520 epochs for each net and seed
    alexnet reproduce cifar-normalisation --data STORE --epochs 26   a twentieth as long

The first wants a store prepared with --val-batch 5, whose pictures are folded in when their error stops falling; how
long that takes differs from net to net. With --epochs, or without such a store, all nets train on the whole set from
the start, as many epochs each, and the rate falls when 50/52 and 51/52 of them are done, as the program's did.

The paper's two numbers are taken to be the 2012 program's nets "13%" and "11%", which differ in more than the
normalisation; so the third row is the net of 11 % with its normalisation alone switched off.
"""

from dataclasses import replace

from alexnet.checked import require
from alexnet.experiments.lab import CIFAR10, Experiment, ExperimentResult, ResultRow, percent
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named

DATA = replace(CIFAR10, options=" --val-batch 5")
FIRST_EPOCHS = 350  # on batches 1 to 4, as the program took


def with_fixed_schedule(recipe: Recipe) -> Recipe:
    """The program's epochs, some 350 and 150 and twice 10, counted from the start on the whole training set."""
    if not recipe.folds_in_validation:
        return recipe
    changes = tuple(replace(change, epoch=change.epoch + FIRST_EPOCHS) for change in recipe.changes)
    return replace(recipe, schedule="changes", changes=changes, epochs=recipe.epochs + FIRST_EPOCHS)


def run(lab: Experiment) -> ExperimentResult:
    """Train the nets at equal schedules, and compare their test errors."""
    with_it = lab.base("cifar10-11pct")
    require(with_it.net.normalise is not None, "net.normalise", "set, to be left out", None)
    without_it = replace(with_it, net=replace(with_it.net, normalise=None))
    nets: list[tuple[str, Recipe, float | None]] = [("with normalisation", with_it, None)]
    if lab.recipe is None:
        nets = [
            ("with normalisation (11%)", with_it, 11.0),
            ("the net without normalisation (13%)", recipe_named("cifar10-13pct"), 13.0),
        ]
    nets.append(("the same net without it", without_it, None))
    fixed = lab.epochs is not None or "val" not in lab.store.splits
    if fixed:
        nets = [(name, with_fixed_schedule(recipe), paper) for name, recipe, paper in nets]
    finding = ExperimentResult("Normalisation on CIFAR-10 (4.3)", lab.data(), ("test error (%)",))
    for name, recipe, paper in nets:
        ours = []
        for seed in range(lab.seeds or 1):
            folder = f"{name.split(' (')[0].replace(' ', '-')}-{seed}"
            trained = lab.trained(folder, replace(recipe, seed=seed))
            ours.append((percent(lab.errors([trained], split=lab.tested())["top1_error"]),))
        how = "net.normalise=null" if "the same net" in name else ""
        finding.rows.append(ResultRow(name, (paper,), tuple(ours), how))
        finding.write(lab.folder)
    if fixed:
        count = len(lab.store.split("train"))
        finding.notes.append(f"{count:,} pictures are trained on from the start; nothing is folded in.")
    if lab.epochs is not None:
        finding.notes.append(f"The schedule is shortened to {lab.epochs} epochs; the paper's was not.")
    return finding

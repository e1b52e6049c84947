"""Section 7's last paragraph: ImageNet's Fall 2009 release, 10,184 classes, half of the pictures to test on.

alexnet prepare FALL2009 STORE --held-out 0.5
alexnet reproduce fall2009 --data STORE          the net with conv6
"""

from dataclasses import replace

from alexnet.architecture import Full
from alexnet.experiments.lab import FALL2009, Experiment, ExperimentResult, ResultRow
from alexnet.experiments.table2 import pretraining

DATA = FALL2009


def run(lab: Experiment) -> ExperimentResult:
    """Train the net with conv6 on one half, and measure it on the other with ten views."""
    base = lab.base("photos", "alexnet-2012-run")
    recipe = pretraining(base)
    if not lab.stand_in:  # so many classes that the program put a linear layer before them
        recipe = replace(recipe, net=replace(recipe.net, linear=Full(units=2048)))
    finding = ExperimentResult("Fall 2009, half to test", lab.data(), ("top-1 error (%)", "top-5 error (%)"))
    finding.rows.append(ResultRow("others (Mensink and others 2012)", (78.1, 60.9)))
    ours = []
    for seed in range(lab.seeds or 1):
        found = lab.errors([lab.trained(f"conv6-{seed}", replace(recipe, seed=seed))], 10)
        ours.append(lab.pair(found))
    finding.rows.append(ResultRow("CNN with conv6", (67.4, 40.9), tuple(ours)))
    train, test = len(lab.store.split("train")), len(lab.store.validation())
    finding.notes.append(f"{train:,} pictures to train on, {test:,} to test on.")
    finding.notes.append("The program began with a net trained on ILSVRC-2012; here the start values are drawn.")
    return finding

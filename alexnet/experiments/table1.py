"""Table 1: top-1 and top-5 error on ILSVRC-2010's test set, with ten views and (footnote e) with one.

    alexnet reproduce table1 --data STORE          93 epochs of the 2012 program's net

The store is prepared from a folder with ILSVRC-2010's train/, val/ and test/.
"""

from dataclasses import replace

from alexnet.experiments.lab import ILSVRC2010, Experiment, ExperimentResult, ResultRow, format_settings
from alexnet.recipes import recipe_named

DATA = ILSVRC2010
OTHERS = {"sparse coding (others)": (47.1, 28.2), "SIFT + FVs (others)": (45.7, 25.7)}


def run(lab: Experiment) -> ExperimentResult:
    """Train the net, and measure it with ten views and with one."""
    base = lab.base("photos", "alexnet-2012-run-2010")
    finding = ExperimentResult("Table 1: ILSVRC-2010", lab.data(), ("top-1 error (%)", "top-5 error (%)"))
    finding.rows = [ResultRow(name, paper) for name, paper in OTHERS.items()]
    runs = [lab.trained(f"cnn-{seed}", replace(base, seed=seed)) for seed in range(lab.seeds or 1)]
    for name, views, paper in (("CNN, ten views", 10, (37.5, 17.0)), ("CNN, one view (footnote e)", 1, (39.0, 18.3))):
        found = [lab.errors([run], views, split=lab.tested()) for run in runs]
        finding.rows.append(ResultRow(name, paper, tuple(map(lab.pair, found))))
    # The net that Table 1 is compared with in section 4.2.
    half = recipe_named("alexnet-2012-half") if lab.recipe is None and not lab.stand_in else None
    if half is not None:
        found = [lab.errors([lab.trained("half-0", half)], 10, split=lab.tested())]
        ours = tuple(map(lab.pair, found))
        how = format_settings(base, half)
        finding.rows.append(ResultRow("CNN on one GPU, half the kernels (4.2)", (39.2, 18.2), ours, how))
    return finding

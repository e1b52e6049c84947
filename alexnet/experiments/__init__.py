"""One short file per claim of the paper: a list of nets that differ in one thing, and a table or a figure."""

import importlib
from pathlib import Path
from typing import Any

from alexnet.data.store.store import Store
from alexnet.experiments.lab import Experiment, ExperimentResult, PaperDataset
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named

EXPERIMENTS = {
    "figure1": "alexnet.experiments.figure1",
    "cifar-normalisation": "alexnet.experiments.cifar_normalisation",
    "ablations": "alexnet.experiments.ablations",
    "table1": "alexnet.experiments.table1",
    "table2": "alexnet.experiments.table2",
    "fall2009": "alexnet.experiments.fall2009",
    "pretraining": "alexnet.experiments.pretraining",
    "figure2": "alexnet.experiments.figure2",
    "figure3": "alexnet.experiments.figure3",
    "figure4": "alexnet.experiments.figure4",
}


def reproduce(
    name: str,
    folder: str | Path,
    data: str | Path | None = None,
    *,
    more: str | Path | None = None,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> ExperimentResult:
    """Do an experiment of the paper, or go on with it, and write down what is found.

    Args:
        name: One of EXPERIMENTS.
        folder: Where the nets, table, figure and figures' numbers go: FOLDER/NAME. What is finished there is not done
            again.
        data: The store to do it on. Where it is not the set that the paper used, the result is called a stand-in.
        more: A store of a larger set to pre-train on, for table2.
        recipe: What the nets differ from, in place of the experiment's own.
        epochs: Shorten every training to this many epochs, its schedule in proportion.
        seeds: How often each net is trained, from seed 0 on; by default what the experiment can afford.
        device: Where; the first GPU or else the CPU by default.
        workers: Threads that make batches.

    Returns:
        What was found; also in FOLDER/NAME/finding.json and finding.md.

    Raises:
        ValueError: No such experiment, or a store or recipe that it cannot use.
        FileNotFoundError: No store given, or none there; the message says what to get.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}; got {name!r}")
    experiment: Any = importlib.import_module(EXPERIMENTS[name])
    wanted: PaperDataset | None = experiment.DATA
    if data is None and wanted is not None:
        raise FileNotFoundError(f"{name} needs a store (--data) {wanted.needed()}; or any other, as a stand-in")
    lab = Experiment(
        Path(folder) / name,
        Store(data) if data is not None and wanted is not None else None,
        wanted,
        more=Store(more) if more is not None else None,
        recipe=recipe,
        epochs=epochs,
        seeds=seeds,
        device=device,
        workers=workers,
    )
    finding: ExperimentResult = experiment.run(lab)
    finding.notes += lab.without_top5(finding)
    if lab.named is not None:
        finding.notes.append(f"The recipe: `{lab.named}`, and what a row says that it differs in.")
    given = {"data": data, "more": more, "epochs": epochs, "seeds": seeds}
    finding.command = " ".join(
        ["alexnet reproduce", name, *(f"--{option} {value}" for option, value in given.items() if value is not None)]
    )
    if recipe is not None:
        finding.command += f" --recipe {next((n for n in RECIPES if recipe_named(n) == recipe), '(one of its own)')}"
    finding.write(lab.folder)
    return finding


def describe_experiments() -> dict[str, str]:
    """The experiments' names, and what each shows."""
    return {
        name: (importlib.import_module(module).__doc__ or "").splitlines()[0] for name, module in EXPERIMENTS.items()
    }

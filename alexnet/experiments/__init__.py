"""The experiments: a short file for each figure, table or claim of the paper."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet.checked import require, require_one_of
from alexnet.data.prepare.on_demand import are_pictures, open_training_store
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.store import Store
from alexnet.experiments.experiment import Experiment, remove_empty_folders
from alexnet.experiments.paper_archives import PaperArchives, are_archives
from alexnet.experiments.paper_datasets import PaperDataset
from alexnet.experiments.result import ExperimentResult
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.utils.files import local_path

# Arguments of `reproduce` that an experiment has no use for; _PRETRAINING has those with one for `pretraining_data`.
UNUSED_ARGUMENTS = {"figure2": ("data", "epochs", "seeds", "device", "workers"), "figure4": ("seeds",)}
_PRETRAINING = ("table2", "fall2009")
_WITH_ONLY = ("claims", "overfitting")  # the experiments that train the nets of `only`
EXPERIMENTS = {
    "figure1": "alexnet.experiments.figure1",
    "cifar-normalisation": "alexnet.experiments.cifar_normalisation",
    "claims": "alexnet.experiments.claims",
    "overfitting": "alexnet.experiments.overfitting",
    "dropout": "alexnet.experiments.dropout",
    "ablations": "alexnet.experiments.ablations",
    "table1": "alexnet.experiments.table1",
    "table2": "alexnet.experiments.table2",
    "fall2009": "alexnet.experiments.fall2009",
    "pretraining": "alexnet.experiments.pretraining",
    "figure2": "alexnet.experiments.figure2",
    "figure3": "alexnet.experiments.figure3",
    "figure4": "alexnet.experiments.figure4",
    "codes": "alexnet.experiments.codes",
}


def reproduce(
    name: str,
    folder: str | Path,
    data: str | Path | None = None,
    *,
    pretraining_data: str | Path | Sequence[str | Path] | None = None,
    recipe: Recipe | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    only: Sequence[str] | None = None,
    deadline: float | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> ExperimentResult:
    """Run an experiment of the paper, or resume it, and write its result.

    Args:
        name: One of EXPERIMENTS.
        folder: The folder to work in. Nets, table and figures are written to FOLDER/NAME; what is finished there is not
            done again.
        data: The store to use, or the folder of ImageNet's archives, from which the store is prepared in
            FOLDER/stores. If it is not the set that the paper used, the result calls it a stand-in.
        pretraining_data: A store or archives of a set to pre-train on, or several, to be used one after the other: for
            table2 larger sets, for fall2009 ILSVRC-2012.
        recipe: The recipe to vary, in place of the experiment's own.
        epochs: The number of epochs that every longer training is shortened to, its schedule in proportion.
        seeds: How often each net is trained, from seed 0 on; by default the experiment's own number.
        only: The names of the nets to train, for claims and overfitting; None for all.
        deadline: The time on the monotonic clock at which trainings stop; None for never.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        workers: The number of threads that load batches.

    Returns:
        The result; it is also in FOLDER/NAME/finding.json and finding.md.

    Raises:
        ValueError: There is no such experiment, or it cannot use the store or the recipe.
        OutOfTimeError: The deadline has stopped a training.
        FileNotFoundError: No store is given, or there is none; the message says what to get.
    """
    require_one_of("experiment", name, EXPERIMENTS)
    folder = local_path(folder)
    more = [pretraining_data] if isinstance(pretraining_data, (str, Path)) else list(pretraining_data or ())
    _check_use(
        name,
        {
            "data": data,
            "pretraining_data": pretraining_data,
            "epochs": epochs,
            "seeds": seeds,
            "device": device,
            "workers": workers,
        },
    )
    module: Any = importlib.import_module(EXPERIMENTS[name])
    dataset: PaperDataset | None = module.DATASET
    require(only is None or name in _WITH_ONLY, "only", f"used with {' or '.join(_WITH_ONLY)}", only)
    if data is None and dataset is not None:
        raise FileNotFoundError(
            f"data must be given for {name}: a store {dataset.instructions()}; or any other, as a stand-in"
        )
    stores = folder / "stores"
    with remove_empty_folders(folder / name):
        experiment = Experiment(
            folder / name,
            None,
            dataset,
            recipe=recipe,
            epochs=epochs,
            seeds=seeds,
            only=only,
            deadline=deadline,
            device=device,
            workers=workers,
        )
        if data is not None and dataset is not None:
            experiment.use_store(_open_pictures(experiment, module, dataset, data, stores))
            if more:
                experiment.pretraining_stores = [
                    _open_pretraining_pictures(experiment, dataset, location, stores) for location in more
                ]
        result: ExperimentResult = module.run(experiment)
    result.notes += experiment.missing_top5_notes(result)
    if experiment.recipe_name is not None:
        differences = ", with the differences that a row names" if any(row.settings for row in result.rows) else ""
        result.notes.append(f"The recipe: `{experiment.recipe_name}`{differences}.")
    names = None if only is None else ",".join(only)
    locations = " --more ".join(map(str, more)) or None
    options = {"data": data, "more": locations, "only": names, "epochs": epochs, "seeds": seeds}
    result.command = " ".join(
        ["alexnet reproduce", name, *(f"--{option} {value}" for option, value in options.items() if value is not None)]
    )
    if recipe is not None:
        result.command += f" --recipe {next((n for n in RECIPES if recipe_named(n) == recipe), '(one of its own)')}"
    result.write(experiment.folder)
    return result


def _check_use(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError if an argument is given for which an experiment has no use."""
    unused = (*UNUSED_ARGUMENTS.get(name, ()), *(() if name in _PRETRAINING else ("pretraining_data",)))
    for argument in unused:
        value = arguments[argument]
        if value is not None:
            raise ValueError(f"{argument} must be left out for {name}, which has no use for it; got {value}")


def _open_pictures(experiment: Experiment, module: Any, dataset: PaperDataset, data: str | Path, stores: Path) -> Store:
    """Return the store of an experiment; from archives it is prepared.

    Args:
        experiment: The experiment, without a store yet.
        module: Its module.
        dataset: The set that the paper used.
        data: The store or the archives.
        stores: The folder for stores that are prepared.
    """
    size = dataset.size if experiment.recipe is None else experiment.recipe.store_size
    if not are_archives(data):
        source = open_source(data) if are_pictures(data) else None
        if source is not None:
            counts = {split: len(pictures) for split, pictures in source.splits.items()}
            experiment.stand_in = not dataset.has_counts(len(source.classes), counts)
            module.base_recipe(experiment)  # before minutes of preparing
        return open_training_store(data, experiment.folder, size, source)
    archives = PaperArchives(Path(data), dataset)
    experiment.stand_in = not dataset.has_counts(archives.classes, archives.counts)
    module.base_recipe(experiment)
    trainings = module.list_trainings(experiment) if hasattr(module, "list_trainings") else {}
    trainings = {name: experiment.shorten(recipe) for name, recipe in trainings.items()}
    return archives.prepare(stores, size, trainings, experiment.device)


def _open_pretraining_pictures(experiment: Experiment, dataset: PaperDataset, data: str | Path, stores: Path) -> Store:
    """Return the store of the larger set to pre-train on; from archives it is prepared."""
    if not are_archives(data):
        return open_training_store(data, experiment.folder, experiment.store.size)
    larger = dataclasses.replace(dataset, held_out=None, test=None, train_per_class=None)
    return PaperArchives(Path(data), larger).prepare(stores, experiment.store.size, {}, experiment.device)


def describe_experiments() -> dict[str, str]:
    """Return for each experiment, by name, a line that says what it shows."""
    return {
        name: (importlib.import_module(module).__doc__ or "").splitlines()[0] for name, module in EXPERIMENTS.items()
    }

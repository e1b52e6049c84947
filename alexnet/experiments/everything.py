"""All experiments that the stores at hand allow, the most valuable first, on one page: `alexnet reproduce all`."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.checked import require
from alexnet.data.store.format import STATISTICS_FILE
from alexnet.data.store.location import StoreURL
from alexnet.data.store.store import Store
from alexnet.experiments import UNUSED_ARGUMENTS, describe_experiments, reproduce
from alexnet.experiments.experiment import OutOfTimeError
from alexnet.experiments.findings_page import write_page
from alexnet.experiments.paper_datasets import CIFAR10, ILSVRC2012
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.utils.console import format_error

# The most valuable first. Those that use nets of an earlier one come right after it: equal nets are trained once.
ORDER = (
    "figure2",
    "figure3",
    "figure4",
    "table1",
    "claims",
    "overfitting",
    "dropout",
    "codes",
    "table2",
    "pretraining",
    "figure1",
    "cifar-normalisation",
    "fall2009",
)
_ON_CIFAR10 = ("figure1", "cifar-normalisation")
_WITHOUT_STORE = ("figure2",)
_STAND_IN_RECIPES = {64: "tiny-imagenet", 256: "photos"}  # by the size of a store's pictures


@dataclass(frozen=True)
class _PlannedExperiment:
    """An experiment to run.

    Args:
        name: A key of EXPERIMENTS.
        store: The store to use; None if it needs none.
        recipe: The recipe to vary; None for the experiment's own.
    """

    name: str
    store: Path | StoreURL | None
    recipe: Recipe | None


def find_stores(folder: Path) -> list[Store]:
    """Return the stores in a folder, by name; the folder itself may be one.

    Raises:
        FileNotFoundError: There is none.
    """
    paths = [path.parent for path in sorted([*folder.glob(STATISTICS_FILE), *folder.glob(f"*/{STATISTICS_FILE}")])]
    if not paths:
        raise FileNotFoundError(f"{folder} must have stores in it; there is none: make one with alexnet prepare")
    return [Store(path) for path in paths]


def plan_experiments(stores: Sequence[Store]) -> list[_PlannedExperiment]:
    """Return the experiments that these stores allow, in ORDER.

    ILSVRC-2012, or else the store with the most training pictures of a size that has a recipe, is used for all
    experiments on photographs; CIFAR-10 for those on it.
    """
    photographs = [store for store in stores if not CIFAR10.matches(store) and store.size in _STAND_IN_RECIPES]
    photographs.sort(key=lambda store: (ILSVRC2012.matches(store), len(store.split("train"))), reverse=True)
    cifar10 = [store for store in stores if CIFAR10.matches(store)]
    cifar10.sort(key=lambda store: "val" not in store.splits)  # one with a batch to fold in is the program's
    plan = []
    for name in ORDER:
        if name in _WITHOUT_STORE:
            plan.append(_PlannedExperiment(name, None, None))
        elif name in _ON_CIFAR10 and cifar10:
            plan.append(_PlannedExperiment(name, cifar10[0].path, None))
        elif name not in _ON_CIFAR10 and photographs:
            store = photographs[0]
            is_paper_set = ILSVRC2012.matches(store)
            recipe = None if is_paper_set else recipe_named(_STAND_IN_RECIPES[store.size])
            plan.append(_PlannedExperiment(name, store.path, recipe))
    return plan


def reproduce_all(
    folder: Path,
    stores: Path,
    *,
    minutes: float | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    run: Callable[..., object] = reproduce,
) -> Path:
    """Run all experiments that the stores allow, or resume them, until the time is over; write one page of results.

    An experiment that fails does not end the others: the page says why it has no result.

    Args:
        folder, epochs, seeds, device, workers: As for `reproduce`.
        stores: A store, or a folder of stores.
        minutes: The time to stop after; None for no limit. A training stops at a checkpoint, and the same command
            resumes it; measuring a finished net is not interrupted.
        run: The function that runs one experiment.

    Returns:
        The page.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: The time is not positive.
    """
    require(minutes is None or minutes > 0, "minutes", "above 0", minutes)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    plan = plan_experiments(find_stores(stores))
    folder.mkdir(parents=True, exist_ok=True)
    descriptions = describe_experiments()
    descriptions = {name: descriptions[name] for name in ORDER}
    states = dict.fromkeys(ORDER, "not possible: no store for it") | {planned.name: "not begun" for planned in plan}
    for planned in plan:
        if deadline is not None and time.monotonic() > deadline:
            states[planned.name] += ": the time was over"
            continue
        states[planned.name] = "begun"
        write_page(folder, descriptions, states)
        print(f"{planned.name}{f' on {planned.store}' if planned.store else ''}", file=sys.stderr)
        options = {"epochs": epochs, "seeds": seeds, "device": device, "workers": workers, "deadline": deadline}
        options = {key: value for key, value in options.items() if key not in UNUSED_ARGUMENTS.get(planned.name, ())}
        try:
            run(planned.name, folder, planned.store, recipe=planned.recipe, **options)
            states[planned.name] = "finished"
        except OutOfTimeError:
            states[planned.name] = "begun: the time is over; the same command resumes it"
        except (ValueError, OSError) as error:
            states[planned.name] = f"failed: {format_error(error, with_type=False)}"
    return write_page(folder, descriptions, states)

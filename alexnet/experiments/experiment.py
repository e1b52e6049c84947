"""What the experiments share: they train each net once, keep its predictions and measure its errors."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.checked import require
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.subset import StoreSubset
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.experiments.paper_datasets import PaperDataset
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.results.run_history import RunHistory
from alexnet.training.divergence import DivergenceError
from alexnet.training.inference import default_views
from alexnet.training.signals import stop_at
from alexnet.training.train import train
from alexnet.utils.files import unfinished_file
from alexnet.utils.signals import SignalInterrupt

_STORES_FOLDER = "stores"  # of an experiment that prepares some of the pictures
MEASURES_FOLDER = "measures"  # of an experiment whose nets are trained by several processes
_TOP5_CLASSES = 10  # with fewer classes, five guesses are more than half of them


class OutOfTimeError(Exception):
    """The time for the experiments is over; the same command resumes them."""


class Experiment:
    """The folder, the pictures and the budget of an experiment.

    Args:
        folder: The folder of the experiment; it is created.
        store: The pictures; None for an experiment that needs none.
        dataset: The set that the paper used; None for an experiment that needs no pictures.
        pretraining_stores: Larger sets to pre-train on, one after the other.
        recipe: The recipe to vary, in place of the experiment's own.
        epochs: The number of epochs that every longer training is shortened to.
        seeds: How often each net is trained; None for the experiment's own number.
        only: The names of the parts to do, of an experiment that has several; None for all.
        deadline: The time on the monotonic clock at which trainings stop; None for never.
        device, workers: As for `train`.

    Attributes:
        net_count: How many nets the experiment trains, once it has said so; for the messages.
        stand_in: Whether the pictures stand in for those that the paper used.
        recipe_name: The name of the experiment's own recipe, once `base_recipe` has chosen one; else None.
    """

    def __init__(
        self,
        folder: Path,
        store: Store | None,
        dataset: PaperDataset | None,
        *,
        pretraining_stores: Sequence[Store] = (),
        recipe: Recipe | None = None,
        epochs: int | None = None,
        seeds: int | None = None,
        only: Sequence[str] | None = None,
        deadline: float | None = None,
        device: str | None = None,
        workers: int | None = None,
    ) -> None:
        require(epochs is None or epochs >= 1, "epochs", "a whole number of at least 1", epochs)
        require(seeds is None or seeds >= 1, "seeds", "a whole number of at least 1", seeds)
        self.folder, self._store, self._dataset = folder, store, dataset
        self.pretraining_stores, self.recipe, self.epochs, self.seeds = pretraining_stores, recipe, epochs, seeds
        self.only, self._deadline = only, deadline
        self.device, self._workers = device, workers
        self.recipe_name: str | None = None
        self.net_count: int | None = None
        self._trained = 0
        self.stand_in = False
        if store is not None:
            self.use_store(store)
        _check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def use_store(self, store: Store) -> None:
        """Take these pictures."""
        self._store = store
        self.stand_in = self._dataset is not None and not self._dataset.matches(store)

    @property
    def store(self) -> Store:
        """The pictures."""
        assert self._store is not None, "an experiment without pictures must not use the store"
        return self._store

    def describe_data(self) -> str:
        """Return a description of the pictures, in a line."""
        pictures = f"{len(self.store.split('train')):,} pictures of {len(self.store.classes)} classes"
        dataset = self._dataset
        assert dataset is not None
        if not self.stand_in:
            return f"On {dataset.name}: {pictures}."
        line = f"On a stand-in for {dataset.name}, {self.store.path.resolve().name}: {pictures}."
        if dataset.train and len(self.store.classes) == dataset.classes:  # it may be the set, prepared otherwise
            validation = f", {dataset.val:,} in val/" if dataset.val else ""
            line += f" (The set itself has {dataset.train:,} to train on{validation}.)"
        return line

    def base_recipe(
        self, name: str, on_paper_data: str | None = None, *, least_epochs: int = 0, more_epochs: int = 0
    ) -> Recipe:
        """Return the recipe to vary: the one asked for, or else the experiment's own, which the result then names.

        Args:
            name: The experiment's own recipe.
            on_paper_data: The experiment's own recipe for the pictures that the paper used, if it is another.
            least_epochs: The epochs that a shorter recipe is lengthened to.
            more_epochs: By how many epochs the experiment's trainings are longer than the recipe.

        Raises:
            ValueError: The experiment's epochs shorten nothing.
        """
        name = name if self.stand_in else on_paper_data or name
        if self.recipe is None:
            self.recipe_name = name
        recipe = self.recipe or recipe_named(name)
        owner = self.recipe_name or "the recipe"
        if recipe.epochs < least_epochs:
            recipe, owner = recipe.with_epochs(least_epochs), "this experiment"
        self.check_epochs(recipe.epochs + more_epochs, owner)
        return recipe

    def check_epochs(self, length: int, owner: str) -> None:
        """Raise a ValueError if the epochs, which only shorten, are more than the `length` of what `owner` names."""
        if self.epochs is not None and self.epochs > length:
            raise ValueError(
                f"epochs must be at most {length}, as many as {owner} has, since it only shortens trainings; got "
                f"{self.epochs}: leave `epochs` out, or name another `recipe`"
            )

    def train(
        self, name: str, recipe: Recipe, *, full_length: bool = False, store: Store | None = None, **options: Any
    ) -> Path:
        """Train a net to its end, or do nothing if that was done before.

        A net that another experiment in the same folder has trained, or begun, is not trained twice.

        Args:
            name: The name of the run's folder.
            recipe: The recipe; a longer one is shortened to the experiment's epochs.
            full_length: Whether to train all epochs of the recipe.
            store: The pictures; by default the experiment's.
            options: Further options of `train`.

        Returns:
            The folder of the run.

        Raises:
            SignalInterrupt: A signal stopped the training; the same command resumes it.
            DivergenceError: The loss is not finite.
            OutOfTimeError: The deadline stopped the training; the same command resumes it.
            FolderInUseError: Another process trains the net.
        """
        if not full_length:
            recipe = self.shorten(recipe)
        self.check_store_size([recipe], store)
        run = self.folder / name
        store = store or self.store
        if not options and not run.exists():
            run = _run_of_another_experiment(self.folder.parent, recipe, store) or run
        self._trained += 1
        self.check_time()
        count = f"net {self._trained}{f' of {self.net_count}' if self.net_count else ''}: {name}"
        print(f"{count}, seed {recipe.seed}", file=sys.stderr)
        try:
            with stop_at(self._deadline):
                outcome = train(store, run, recipe, device=self.device, workers=self._workers, **options)
        except DivergenceError as error:
            print(f"{count} has diverged: {str(error).partition(': ')[0]}", file=sys.stderr)  # without the advice
            raise
        if not outcome.finished:
            self.check_time()
            raise SignalInterrupt(outcome.signal)
        return run

    def check_time(self) -> None:
        """Raise an OutOfTimeError if the deadline has passed."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise OutOfTimeError

    def shorten(self, recipe: Recipe) -> Recipe:
        """Return a recipe shortened to the experiment's epochs, if it has more."""
        return recipe if self.epochs is None or self.epochs >= recipe.epochs else recipe.with_epochs(self.epochs)

    def check_store_size(self, recipes: Iterable[Recipe], store: Store | None = None) -> None:
        """Check that recipes can be trained on a store, before the first of them is.

        Raises:
            ValueError: The size of the store's pictures is not the recipe's.
        """
        store = store or self.store
        for recipe in recipes:
            if recipe.store_size != store.size:
                raise ValueError(
                    f"store {store.path} must have pictures of the recipe's store_size {recipe.store_size}; got "
                    f"{store.size}: prepare another with `size={recipe.store_size}`, or name another recipe"
                )

    def prepare_subset(
        self, name: str, classes: Sequence[str], pictures: Mapping[str, tuple[Split, np.ndarray]]
    ) -> Store:
        """Return a store of some classes and pictures of the experiment's; it is prepared once.

        Args:
            name: The name of the store's folder.
            classes, pictures: As for `StoreSubset`.
        """
        path = self.folder / _STORES_FOLDER / name
        prepare(StoreSubset(self.store, classes, pictures), path, encoding="raw")
        return Store(path)

    def test_split(self) -> str:
        """Return the split to evaluate if the paper used its test pictures: "test" if there is one, else "val"."""
        return "test" if "test" in self.store.splits else self.store.validation().name

    def evaluate(
        self, runs: Sequence[Path], views: int | None = None, *, split: str | None = None, store: Store | None = None
    ) -> Mapping[str, Any]:
        """Evaluate finished runs, their predictions averaged.

        Args:
            runs: The folders of the runs.
            views: As for `evaluate`; by default the recipe's number, or 1 if the crops are as large as the pictures.
            split: "val", "test" or "train"; by default "val" if the store has it, else "test".
            store: The pictures; by default the experiment's.

        Returns:
            What `alexnet.results.evaluate.evaluate` returns.
        """
        store = store or self.store
        views = default_views(RunHistory.read(runs[0]).recipe) if views is None else views
        split = split or store.validation().name
        files = [self._save_predictions(run, views, split, store) for run in runs]
        return evaluate(files, store.path, views=views, split=split)

    def _save_predictions(self, run: Path, views: int, split: str, store: Store) -> Path:
        """Return the file of a finished run's predictions; it is written once."""
        path = self.folder / "predictions" / f"{run.name}, {split}, {views} views"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            evaluate(run, store.path, views=views, split=split, save=path, device=self.device)
        return path

    def error_row(
        self, name: str, paper: tuple[float | None, ...], results: Sequence[Mapping[str, Any]], settings: str = ""
    ) -> ResultRow:
        """Return a row of top-1 and top-5 errors.

        Args:
            name, paper, settings: As for `ResultRow`.
            results: What `evaluate` returned, for each seed.
        """
        measured = tuple(self.top1_and_top5(errors) for errors in results)
        return ResultRow(name, paper, measured, settings, results[0]["images"] if results else None)

    def top1_and_top5(self, errors: Mapping[str, Any]) -> tuple[float, float | None]:
        """Return the top-1 and the top-5 error in percent; no top-5 error if five guesses are most of the classes."""
        meaningful = len(self.store.classes) >= _TOP5_CLASSES
        return to_percent(errors["top1_error"]), to_percent(errors["top5_error"]) if meaningful else None

    def missing_top5_notes(self, result: ExperimentResult) -> list[str]:
        """Return a note that says why the table has no measured top-5 error; empty if it has one."""
        if self._store is None or "top-5" not in " ".join(result.measures):
            return []
        classes = len(self._store.classes)
        if classes >= _TOP5_CLASSES:
            return []
        return [
            f"No top-5 error here: five guesses name more than half of {classes} classes; a store of at least "
            f"{_TOP5_CLASSES} has one."
        ]


@contextmanager
def remove_empty_folders(folder: Path) -> Iterator[None]:
    """Remove a folder, and those above it, at the end if they are new and empty: a start that failed leaves none."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in new:
            with suppress(OSError):  # it has contents, or was never made
                path.rmdir()


def _run_of_another_experiment(folder: Path, recipe: Recipe, store: Store) -> Path | None:
    """Return a run with the same recipe and store, of several the one with the most epochs; None if there is none.

    Args:
        folder: The folder of the experiments.
        recipe, store: What is to be trained.
    """
    runs: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("*/*/metrics.jsonl")):
        try:
            history = RunHistory.read(path.parent)
        except (ValueError, OSError):
            continue  # it has just begun, or is none of ours
        starts_anew = not history.start.get("taken") and not history.origin
        if starts_anew and history.start.get("store") == str(store.path.resolve()) and history.recipe == recipe:
            runs.append((len(history.epochs), path.parent))
    return max(runs, key=lambda run: run[0])[1] if runs else None


def _check_folder(folder: Path) -> None:
    """Check that a folder is new, empty, or one of an experiment, so that no file of the user's is replaced."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder for the experiment; it is a file: name another `folder`")
    paths = set(folder.iterdir()) if folder.exists() else set()
    finding = folder / "finding.json"
    # A command that was killed may have left the first of its files, unfinished.
    begun = {finding, unfinished_file(finding), folder / MEASURES_FOLDER, folder / _STORES_FOLDER}
    if not paths or paths & begun:
        return
    if not any(folder.glob("*/recipe.json")):
        raise FileExistsError(
            f"{folder} must be a new or empty folder, or one of an experiment; it holds {min(paths).name}: "
            "name another `folder`"
        )


def training_errors(run: Path) -> list[float]:
    """Return the training error of each epoch of a run, measured during training, as a fraction."""
    return [float(line["train_error"]) for line in RunHistory.read(run).epochs]

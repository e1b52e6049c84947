"""What the experiments share: nets trained once and kept, their errors, and a table with the paper's numbers."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.checked import require
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe, recipe_differences
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.results.run_history import RunHistory
from alexnet.training.inference import default_views
from alexnet.training.train import train
from alexnet.utils.files import write_atomic


@dataclass(frozen=True)
class PaperDataset:
    """The set of pictures that the paper used for a claim.

    Args:
        name: Its name.
        classes: Number of classes.
        train: Number of training pictures; None where it depends on how they are divided.
        files: Which files to get, and where from.
        size: Side of the stored squares, in pixels.
        val: Number of its validation pictures, if it has such.
        batch: Number of training pictures that may be set aside as "val".
        options: Further ones of `alexnet prepare`.
    """

    name: str
    classes: int
    train: int | None
    files: str
    size: int = 256
    val: int | None = None
    batch: int = 0
    options: str = ""

    def needed(self) -> str:
        """What to get and do, in a line."""
        return f"prepared from {self.name} ({self.files}) with alexnet prepare --size {self.size}{self.options}"

    def matches(self, store: Store) -> bool:
        """Whether a store is this set, by its numbers of classes and pictures."""
        train, val = (len(store.split(name)) if name in store.splits else 0 for name in ("train", "val"))
        if len(store.classes) != self.classes:
            return False
        if self.train is None:  # half of each class to test on
            return abs(train - val) <= self.classes
        if self.val is not None:
            return (train, val) == (self.train, self.val)
        return train == self.train or (train, val) == (self.train - self.batch, self.batch)


TOP5_CLASSES = 10  # the fewest of which a top-5 error says something

CIFAR10 = PaperDataset(
    "CIFAR-10", 10, 50_000, "cifar-10-binary.tar.gz, https://www.cs.toronto.edu/~kriz/cifar.html", 32, batch=10_000
)
FOLDERS = "unpacked, a folder per class in train/, val/ and test/ where there is one"
ILSVRC2010 = PaperDataset(
    "ILSVRC-2010", 1000, 1_261_406, f"its archives, https://image-net.org/challenges/LSVRC/2010, {FOLDERS}", val=50_000
)
ILSVRC2012 = PaperDataset(
    "ILSVRC-2012",
    1000,
    1_281_167,
    f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, https://image-net.org/download, {FOLDERS}",
    val=50_000,
)
CALTECH101 = PaperDataset(
    "Caltech-101",
    101,
    3030,
    "101_ObjectCategories without its BACKGROUND_Google, https://data.caltech.edu/records/mzrjq-6wc02, 30 pictures a "
    "class to train on",
    options=" --train-per-class 30",
)
FALL2009 = PaperDataset(
    "ImageNet's Fall 2009 release",
    10_184,
    None,
    "its 10,184 archives, https://image-net.org/download, half of the pictures to test on",
    options=" --held-out 0.5",
)


@dataclass(frozen=True)
class ResultRow:
    """A line of a table.

    Args:
        name: What it is of.
        paper: The paper's numbers, in the order of the table's measures; None where it gives none.
        ours: Ours, for each seed; empty where not measured here, None where a measure says nothing.
        how: What makes it: the settings in which its recipe differs.
    """

    name: str
    paper: tuple[float | None, ...]
    ours: tuple[tuple[float | None, ...], ...] = ()
    how: str = ""

    def spread(self, place: int) -> str:
        """Our mean of a measure, with the standard deviation over seeds where there are several; a count as it is.

        "-" where the measure says nothing of these pictures.
        """
        values = [value for seed in self.ours if (value := seed[place]) is not None]
        if not values:
            return "-" if self.ours else "not measured"
        if len(values) == 1 and isinstance(values[0], int):
            return str(values[0])
        deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{deviation}"


@dataclass
class ExperimentResult:
    """What an experiment found.

    Args:
        title: What it shows, with the paper's section or figure.
        data: The store's description; says so where it is a stand-in.
        measures: What the columns measure, with units.
        rows: The table.
        notes: What else a reader must know.
        figures: Files of pictures, within the experiment's folder.
        numbers: Whatever the figure was drawn from.
        command: What made it.
    """

    title: str
    data: str
    measures: tuple[str, ...]
    rows: list[ResultRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def markdown(self) -> str:
        """The table, with notes and figures, as Markdown."""
        heads = ["", *(f"{m}, {who}" for m in self.measures for who in ("paper", "here")), "seeds", "differs in"]
        lines = [f"# {self.title}", "", *([f"    {self.command}", ""] if self.command else [])]
        lines += [self.data, "", _line(heads), _line(["---"] * len(heads))]
        for row in self.rows:
            cells = [row.name]
            for place, of_paper in enumerate(row.paper):
                cells += ["-" if of_paper is None else str(round(of_paper, 2)), row.spread(place)]
            lines.append(_line([*cells, str(len(row.ours)), f"`{row.how}`" if row.how else ""]))
        lines += ["", *(f"- {note}" for note in self.notes)]
        lines += ["", *(f"![{Path(name).stem}]({name})" for name in self.figures)]
        return "\n".join(lines).rstrip() + "\n"

    def write(self, folder: Path) -> None:
        """Write finding.md and finding.json."""
        write_atomic(folder / "finding.md", self.markdown().encode())
        write_atomic(folder / "finding.json", json.dumps(dataclasses.asdict(self), indent=1).encode())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


class TrainingInterrupted(KeyboardInterrupt):
    """A signal has ended a training; the same experiment goes on from there.

    Args:
        signal: Its number.
    """

    def __init__(self, signal: int | None) -> None:
        super().__init__()
        self.signal = signal or 2


class Experiment:
    """Where an experiment is done: its folder, its pictures, and how much work may go into it.

    Args:
        folder: Of the experiment; made.
        store: The pictures; None for an experiment that needs none.
        wanted: The set the paper used, if any.
        more: A larger set to pre-train on.
        recipe: What the nets differ from, in place of the experiment's own.
        epochs: What every training is shortened to.
        seeds: How often each net is trained.
        device, workers: As for `train`.
    """

    def __init__(
        self,
        folder: Path,
        store: Store | None,
        wanted: PaperDataset | None,
        *,
        more: Store | None = None,
        recipe: Recipe | None = None,
        epochs: int | None = None,
        seeds: int | None = None,
        device: str | None = None,
        workers: int | None = None,
    ) -> None:
        require(epochs is None or epochs >= 1, "epochs", "a whole number of at least 1", epochs)
        require(seeds is None or seeds >= 1, "seeds", "a whole number of at least 1", seeds)
        self.folder, self._store, self.wanted, self.more = folder, store, wanted, more
        self.recipe, self.epochs, self.seeds, self.device, self.workers = recipe, epochs, seeds, device, workers
        self.named: str | None = None  # the recipe taken where none was asked for
        self.stand_in = store is not None and wanted is not None and not wanted.matches(store)
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def store(self) -> Store:
        """The pictures."""
        assert self._store is not None, "only an experiment without pictures has no store, and that asks for none"
        return self._store

    def data(self) -> str:
        """What the pictures are, in a line."""
        pictures = f"{len(self.store.split('train')):,} pictures of {len(self.store.classes)} classes"
        assert self.wanted is not None
        if not self.stand_in:
            return f"On {self.wanted.name}: {pictures}."
        line = f"On a stand-in for {self.wanted.name}, {self.store.path.resolve().name}: {pictures}."
        if self.wanted.train and len(self.store.classes) == self.wanted.classes:  # nearly it
            whole = f"{self.wanted.train:,} to train on" + (f", {self.wanted.val:,} in val/" if self.wanted.val else "")
            line += f" (The set itself has {whole}.)"
        return line

    def base(self, name: str, on_paper_s: str | None = None) -> Recipe:
        """What the nets differ from: the recipe asked for, or `name`, or another on the paper's own pictures.

        The finding will say which.
        """
        name = name if self.stand_in else on_paper_s or name
        if self.recipe is None:
            self.named = name
        return self.recipe or recipe_named(name)

    def trained(
        self, name: str, recipe: Recipe, *, whole: bool = False, store: Store | None = None, **options: Any
    ) -> Path:
        """The run of that name, trained to its end; where it is there already, nothing is done.

        Args:
            name: Of its folder.
            recipe: Shortened as the lab says, unless it is given with `whole`.
            whole: Whether the recipe's epochs stay as they are.
            store: The pictures; the lab's own by default.
            options: As for `train`.

        Raises:
            TrainingInterrupted: A signal stopped the training; the same experiment goes on from there.
        """
        if self.epochs is not None and not whole:
            recipe = shorten_schedule(recipe, self.epochs)
        self.check([recipe], store)
        run = self.folder / name
        outcome = train(store or self.store, run, recipe, device=self.device, workers=self.workers, **options)
        if not outcome.finished:
            raise TrainingInterrupted(outcome.signal)
        return run

    def check(self, recipes: Iterable[Recipe], store: Store | None = None) -> None:
        """Raise a ValueError unless the recipes can be trained on the store: told before the first is."""
        store = store or self.store
        for recipe in recipes:
            if recipe.store_size != store.size:
                raise ValueError(
                    f"store {store.path} must hold pictures of the recipe's store_size {recipe.store_size}; got "
                    f"{store.size}: prepare another with --size {recipe.store_size}, or name another --recipe"
                )

    def pair(self, found: Mapping[str, Any]) -> tuple[float, float | None]:
        """Top-1 and top-5 error in percent; no top-5 where five guesses name more than half of the classes."""
        few = len(self.store.classes) < TOP5_CLASSES
        return percent(found["top1_error"]), None if few else percent(found["top5_error"])

    def without_top5(self, finding: ExperimentResult) -> list[str]:
        """A line that says why the table has no top-5 error of ours, where it has none."""
        if self._store is None or len(self.store.classes) >= TOP5_CLASSES or "top-5" not in " ".join(finding.measures):
            return []
        return [
            f"No top-5 error here: five guesses name more than half of {len(self.store.classes)} classes; a store of "
            f"at least {TOP5_CLASSES} has one."
        ]

    def tested(self) -> str:
        """The part of the store to measure on where the paper used its test pictures: "test" where there are such."""
        return "test" if "test" in self.store.splits else self.store.validation().name

    def predictions(self, run: Path, views: int, split: str, store: Store | None = None) -> Path:
        """A file with a finished run's predictions; made once."""
        path = self.folder / "predictions" / f"{run.name}, {split}, {views} views"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            evaluate(run, (store or self.store).path, views=views, split=split, save=path, device=self.device)
        return path

    def errors(
        self, runs: Sequence[Path], views: int | None = None, *, split: str | None = None, store: Store | None = None
    ) -> Mapping[str, Any]:
        """What `evaluate` says of finished runs, their predictions averaged.

        Args:
            runs: Their folders.
            views: As for `evaluate`; by default as many as the recipe's pictures have.
            split: "val", "test" or "train"; "val" by default where the store has it, else "test".
            store: The pictures; the lab's own by default.
        """
        store = store or self.store
        views = default_views(RunHistory.read(runs[0]).recipe) if views is None else views
        split = split or store.validation().name
        files = [self.predictions(run, views, split, store) for run in runs]
        return evaluate(files, store.path, views=views, split=split)

    def training_errors(self, run: Path) -> list[float]:
        """The training error of each epoch of a run, as it went, as a fraction."""
        return [float(line["train_error"]) for line in RunHistory.read(run).epochs]


def shorten_schedule(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe whose whole schedule takes so many epochs, everything in it in proportion."""
    share = epochs / recipe.epochs
    return dataclasses.replace(
        recipe,
        epochs=epochs,
        warmup=recipe.warmup * share,
        patience=max(1, round(recipe.patience * share)),
        changes=tuple(dataclasses.replace(change, epoch=change.epoch * share) for change in recipe.changes),
    )


def format_settings(base: Recipe, other: Recipe) -> str:
    """Return the values of `--set` that turn one recipe into the other, separated by spaces."""
    return " ".join(f"{path}={json.dumps(value)}" for path, _, value in recipe_differences(base, other))


def percent(fraction: float) -> float:
    """A fraction in percent."""
    return 100 * fraction

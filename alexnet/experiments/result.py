"""The result of an experiment: a table with the paper's numbers beside ours, in finding.md and finding.json."""

import dataclasses
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.recipe import Recipe, recipe_differences
from alexnet.utils.files import write_atomic
from alexnet.utils.intervals import format_interval, format_percent


@dataclass(frozen=True)
class ResultRow:
    """A row of the table.

    Args:
        name: What was measured.
        paper: The paper's numbers, one for each measure of the table; None if the paper gives none.
        measured: Our numbers, a tuple for each seed; empty if nothing was measured, None for a measure that is
            meaningless.
        settings: The settings in which the recipe differs from the first row's, as for `--set`.
        images: The number of test pictures, if the measures are error rates; else None.
    """

    name: str
    paper: tuple[float | None, ...]
    measured: tuple[tuple[float | None, ...], ...] = ()
    settings: str = ""
    images: int | None = None

    def format_measured(self, measure: int) -> str:
        """Return our mean of a measure, with the standard deviation over the seeds if there are several.

        The error rate of a single net has its 95 % interval instead. A single whole number is a count and has no
        decimals. "-" stands for a measure that is meaningless.
        """
        values = [value for numbers in self.measured if (value := numbers[measure]) is not None]
        if not values:
            return "-" if self.measured else "not measured"
        if len(values) == 1 and isinstance(values[0], int):
            return str(values[0])
        if len(values) == 1 and self.images is not None:
            rate = values[0] / 100
            return f"{format_percent(rate, self.images)} ({format_interval(rate, self.images)})"
        deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{deviation}"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as finding.json has it."""
        contents = {"name": self.name, "paper": self.paper, "ours": self.measured, "how": self.settings}
        return contents if self.images is None else contents | {"images": self.images}


@dataclass
class ExperimentResult:
    """The result of an experiment.

    Args:
        title: The title, with the paper's section or figure.
        data: A description of the pictures; it says so if they stand in for the paper's.
        measures: The measures of the table, with units.
        rows: The rows of the table.
        notes: Notes below the table.
        figures: The names of picture files in the folder of the experiment.
        numbers: The numbers that the figures are drawn from.
        command: The command that made it.
    """

    title: str
    data: str
    measures: tuple[str, ...]
    rows: list[ResultRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def to_markdown(self) -> str:
        """Return the table, the notes and the figures as Markdown; columns without contents are left out."""
        lines = [f"# {self.title}", "", *([f"    {self.command}", ""] if self.command else [])]
        columns = [("", [row.name for row in self.rows])]
        for number, measure in enumerate(self.measures):
            paper = [row.paper[number] for row in self.rows]
            if any(value is not None for value in paper):
                columns.append((f"{measure}, paper", ["-" if v is None else str(round(v, 2)) for v in paper]))
            columns.append((f"{measure}, here", [row.format_measured(number) for row in self.rows]))
        columns.append(("seeds", [str(len(row.measured)) for row in self.rows]))
        if any(row.settings for row in self.rows):
            columns.append(("differs in", [f"`{row.settings}`" if row.settings else "" for row in self.rows]))
        lines += [self.data, "", _format_cells([heading for heading, _ in columns])]
        lines.append(_format_cells(["---"] * len(columns)))
        lines += [_format_cells(cells) for cells in zip(*(cells for _, cells in columns), strict=True)]
        lines += ["", *(f"- {note}" for note in [*self._spread_notes(), *self.notes])]
        lines += ["", *(f"![{Path(name).stem}]({name})" for name in self.figures)]
        return "\n".join(lines).rstrip() + "\n"

    def _spread_notes(self) -> list[str]:
        """Return notes that name the spreads in the table."""
        notes = []
        if any(len(row.measured) > 1 for row in self.rows):
            notes.append("a ± b: the mean and the standard deviation over the seeds.")
        counts = {row.images for row in self.rows if row.images is not None and len(row.measured) == 1}
        if counts:
            pictures = ", ".join(f"{count:,}" for count in sorted(counts))
            notes.append(f"a (b to c): the error of one net, and Wilson's 95 % interval for {pictures} test pictures.")
        return notes

    def write(self, folder: Path) -> None:
        """Write finding.json, by which the folder of an experiment is known, and finding.md."""
        contents = dataclasses.asdict(self) | {"rows": [row.to_dict() for row in self.rows]}
        write_atomic(folder / "finding.json", json.dumps(contents, indent=1).encode())
        write_atomic(folder / "finding.md", self.to_markdown().encode())


def _format_cells(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def format_settings(base: Recipe, recipe: Recipe) -> str:
    """Return the values of `--set` that turn `base` into `recipe`, separated by spaces."""
    return " ".join(f"{path}={json.dumps(value)}" for path, _, value in recipe_differences(base, recipe))


def to_percent(fraction: float) -> float:
    """Return a fraction in percent."""
    return 100 * fraction

"""Predictions on standard output: as text, JSON, JSON Lines or CSV; each is printed when it comes."""

import argparse
import csv
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.results.classifier import Prediction


class _Text:
    """The picture's name, then a line for each class."""

    is_text = True

    def __init__(self, views: int, guesses: int) -> None:
        self._views, self._guesses = views, guesses
        # A file's name need not be text in the terminal's encoding.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")

    def write(self, prediction: "Prediction", explanation: Path | None) -> None:
        """Print the prediction for a picture; errors are printed elsewhere.

        Args:
            prediction: The prediction; it may have more classes than are printed.
            explanation: The file that explains it, if there is one.
        """
        if prediction.error is None:
            lines = [f"  {probability:7.2%}  {name}" for name, probability in prediction.classes[: self._guesses]]
            if explanation is not None:
                lines.append(f"  why: {explanation}")
            print(prediction.name, *lines, sep="\n", flush=True)

    def end(self) -> None:
        """Print what comes after the last picture."""


class _JsonLines(_Text):
    """A JSON object in each line."""

    is_text = False

    def write(self, prediction: "Prediction", explanation: Path | None) -> None:
        print(_to_json(self._entry(prediction, explanation)), flush=True)

    def _entry(self, prediction: "Prediction", explanation: Path | None) -> dict[str, Any]:
        if prediction.error is not None:
            return {"image": prediction.name, "error": prediction.error}
        classes = prediction.classes[: self._guesses]
        named = [{"class": name, "probability": probability} for name, probability in classes]
        entry: dict[str, Any] = {"image": prediction.name, "views": self._views, "predictions": named}
        return entry | ({} if explanation is None else {"explanation": str(explanation)})


class _Json(_JsonLines):
    """One JSON list. It is printed entry by entry, so that it need not fit in memory."""

    _before = "["

    def write(self, prediction: "Prediction", explanation: Path | None) -> None:
        print(self._before, _to_json(self._entry(prediction, explanation)), sep="", end="")
        self._before = ", "

    def end(self) -> None:
        print("[]" if self._before == "[" else "]")


class _Csv(_Text):
    """A table with a column for each guess and one for its probability, and the reason where there is none."""

    is_text = False

    def __init__(self, views: int, guesses: int, explained: bool) -> None:
        super().__init__(views, guesses)
        self._explained = explained
        self._writer = csv.writer(sys.stdout, lineterminator="\n")
        columns = [f"{column}{number}" for number in range(1, guesses + 1) for column in ("guess", "probability")]
        self._header: list[str] | None = ["image", "views", *columns, *self._explanation_cell("explanation"), "error"]

    def write(self, prediction: "Prediction", explanation: Path | None) -> None:
        if self._header:
            self._writer.writerow(self._header)
            self._header = None
        classes = prediction.classes[: self._guesses]
        guesses = [cell for name, probability in classes for cell in (name, f"{probability:.6g}")]
        file = self._explanation_cell("" if explanation is None else str(explanation))
        if prediction.error is None:
            self._writer.writerow([prediction.name, self._views, *guesses, *file, ""])
        else:
            self._writer.writerow([prediction.name, "", *[""] * 2 * self._guesses, *file, prediction.error])
        sys.stdout.flush()

    def _explanation_cell(self, cell: str) -> list[str]:
        """Return the cell of the column of explanations, if the table has this column."""
        return [cell] if self._explained else []


def new_output(options: argparse.Namespace, views: int, guesses: int) -> _Text:
    """Return what prints predictions in the format that the options ask for.

    Args:
        options: The command's options json, jsonl, csv and explain.
        views: The number of views of each picture.
        guesses: The number of classes named for each picture.
    """
    if options.csv:
        return _Csv(views, guesses, options.explain is not None)
    if options.json:
        return _Json(views, guesses)
    return _JsonLines(views, guesses) if options.jsonl else _Text(views, guesses)


def _to_json(entry: dict[str, Any]) -> str:
    """Return an object as JSON; only what UTF-8 or the output's encoding cannot express is escaped."""
    text = json.dumps(entry, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(entry)
    return text

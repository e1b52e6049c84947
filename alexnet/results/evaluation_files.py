"""The files of `alexnet evaluate`: tables of the classes and the pictures, and the confusion matrix."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from alexnet.results.evaluation import Evaluation
from alexnet.results.predictions import PREDICTIONS_FILE
from alexnet.utils.files import SOFTWARE, FileKind, check_output, write_output

_ONLY_IN_RESULT = Path("-")  # in place of a file
_CLASS_COLUMNS = ("class", "support", "precision", "recall", "f1", "taken_for", "taken_for_images")
_CORNER = "class \\ taken for"  # of the table of the confusion matrix


@dataclass(frozen=True)
class EvaluationFiles:
    """The files to write.

    Args:
        paths: By the names of the options: "save" for the predictions, "per_class" and "predictions" for the tables of
            the classes and the pictures, "confusion" for the confusion matrix. The path - is for values that are only
            returned.
        force: Whether to replace files that an earlier call has written.
    """

    paths: Mapping[str, Path]
    force: bool = False

    def check(self) -> None:
        """Check, before anything is computed, that all files may be written.

        Raises:
            ValueError, FileExistsError, FileNotFoundError: As `check_output`; or two files have the same name.
        """
        files = {name: path for name, path in self.paths.items() if path != _ONLY_IN_RESULT or name == "save"}
        for name, path in files.items():
            check_output(path, _KINDS[name], force=self.force)
        if len({path.resolve() for path in files.values()}) < len(files):
            raise ValueError(f"the files to write must differ; got {', '.join(map(str, files.values()))}")

    def write(self, evaluation: Evaluation) -> dict[str, Any]:
        """Write the tables and the matrix that are asked for.

        Returns:
            Their values: per_class and predictions (a list of objects each), confusion and classes.
        """
        values: dict[str, Any] = {}
        if "per_class" in self.paths:
            values["per_class"] = evaluation.class_rows()
            self._write("per_class", _to_csv(_CLASS_COLUMNS, (row.values() for row in values["per_class"])))
        if "predictions" in self.paths:
            values["predictions"] = evaluation.picture_rows()
            self._write("predictions", _predictions_csv(values["predictions"], evaluation.guesses.shape[1]))
        if "confusion" in self.paths:
            values |= {"classes": list(evaluation.classes), "confusion": evaluation.confusion.tolist()}
            self._write("confusion", _confusion_file(evaluation, self.paths["confusion"].suffix.lower()))
        return values

    def _write(self, name: str, contents: bytes) -> None:
        path = self.paths[name]
        if path != _ONLY_IN_RESULT:
            write_output(path, contents, _KINDS[name], force=self.force)


def _confusion_file(evaluation: Evaluation, suffix: str) -> bytes:
    """Return the confusion matrix as PNG or CSV."""
    if suffix == ".png":
        from alexnet.results.evaluation_figures import draw_confusion
        from alexnet.results.figures import to_png

        figure = draw_confusion(evaluation.confusion, evaluation.classes)
        return to_png(figure, metadata={"Title": _KINDS["confusion"].name})
    rows = zip(evaluation.classes, evaluation.confusion.tolist(), strict=True)
    return _to_csv((_CORNER, *evaluation.classes), ((name, *counts) for name, counts in rows))


def _predictions_csv(rows: Sequence[dict[str, Any]], guesses: int) -> bytes:
    """Return the table of the pictures: a column for each guess and one for its probability."""
    columns = [f"{column}{number}" for number in range(1, guesses + 1) for column in ("guess", "probability")]
    values = (
        (row["image"], row["class"], *(v for p in row["predictions"] for v in (p["class"], f"{p['probability']:.6g}")))
        for row in rows
    )
    return _to_csv(("image", "class", *columns), values)


def _to_csv(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """Return a table as CSV in UTF-8; None is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return file.getvalue().encode()


# ---- Files that an earlier call has written -------------------------------------------------------------------------


def _begins_with(path: Path, columns: Sequence[str]) -> bool:
    """Return whether a file begins with these columns of a table."""
    start = _to_csv(columns, ()).rstrip(b"\n")
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _is_class_table(path: Path) -> bool:
    return _begins_with(path, _CLASS_COLUMNS)


def _is_prediction_table(path: Path) -> bool:
    return _begins_with(path, ("image", "class", "guess1", "probability1"))


def _is_confusion_matrix(path: Path) -> bool:
    if _begins_with(path, (_CORNER,)):
        return True
    try:
        with Image.open(path) as image:
            return (image.info.get("Software"), image.info.get("Title")) == (SOFTWARE, _KINDS["confusion"].name)
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


_KINDS = {
    "save": PREDICTIONS_FILE,
    "per_class": FileKind("a table of classes written by alexnet", (".csv",), _is_class_table),
    "predictions": FileKind("a table of predictions written by alexnet", (".csv",), _is_prediction_table),
    "confusion": FileKind("a confusion matrix written by alexnet", (".csv", ".png"), _is_confusion_matrix),
}

"""Which classes a net confuses: the confusion matrix, and what it says about each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassResult:
    """The result of one class.

    Args:
        name: The name of the class.
        pictures: The number of its pictures.
        wrong: How many of them the net takes for another class.
        taken_for: The class that they are most often taken for.
        times: How often.
    """

    name: str
    pictures: int
    wrong: int
    taken_for: str
    times: int

    @property
    def error(self) -> float:
        """The share of its pictures that are taken for another class."""
        return self.wrong / self.pictures


def confusion_matrix(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count how many pictures of each class are taken for each class.

    Args:
        predicted: (N,) int, the most probable class of each picture.
        labels: (N,) int, the correct class of each picture.
        classes: The number of classes.

    Returns:
        (classes, classes) int: a row for each correct class, a column for each predicted class.
    """
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_results(classes: Sequence[str], confusion: np.ndarray) -> list[ClassResult]:
    """Return the results of the classes that have pictures, the class with the highest error first.

    Args:
        classes: The class names.
        confusion: The confusion matrix.
    """
    results = []
    wrong = _without_diagonal(confusion)
    for name, row, wrong_row in zip(classes, confusion, wrong, strict=True):
        worst = int(wrong_row.argmax())
        if row.any():
            result = ClassResult(name, int(row.sum()), int(wrong_row.sum()), classes[worst], int(wrong_row[worst]))
            results.append(result)
    return sorted(results, key=lambda result: -result.error)


def frequent_confusions(classes: Sequence[str], confusion: np.ndarray) -> list[tuple[str, str, int, int]]:
    """Return all confusions, the most frequent first.

    Returns:
        For each the correct class, the predicted class, how often it happens, and the pictures of the correct class.
    """
    wrong = _without_diagonal(confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    pairs = (divmod(int(position), len(classes)) for position in order)
    return [(classes[i], classes[j], int(wrong[i, j]), int(confusion[i].sum())) for i, j in pairs]


def _without_diagonal(confusion: np.ndarray) -> np.ndarray:
    """Return a copy with zeros for the correct predictions."""
    return np.asarray(confusion * (1 - np.eye(len(confusion), dtype=int)))

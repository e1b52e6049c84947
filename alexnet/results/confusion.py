"""Which classes a net confuses: the confusion matrix, and what it says about each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassResult:
    """The result of one class.

    Args:
        name: The name of the class.
        support: The number of its pictures.
        predicted: The number of pictures, of any class, that the net takes for this class.
        correct: The number of its pictures that the net takes for this class.
        taken_for: The class that its other pictures are most often taken for; "" if all are taken for this class.
        taken_for_images: How many of them are.
    """

    name: str
    support: int
    predicted: int
    correct: int
    taken_for: str
    taken_for_images: int

    @property
    def wrong(self) -> int:
        """How many of its pictures are taken for another class."""
        return self.support - self.correct

    @property
    def recall(self) -> float | None:
        """The share of its pictures that are taken for this class; None if there are none."""
        return self.correct / self.support if self.support else None

    @property
    def precision(self) -> float | None:
        """The share of this class's pictures among those taken for it; None if there are none."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None if the class has no pictures and is never predicted."""
        total = self.support + self.predicted
        return 2 * self.correct / total if total else None


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
    """Return the results of all classes, in their order.

    Args:
        classes: The class names.
        confusion: The confusion matrix.
    """
    mistakes = _without_diagonal(confusion)
    columns = (confusion.sum(1), confusion.sum(0), confusion.diagonal(), mistakes.argmax(1), mistakes.max(1))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        ClassResult(name, support, predicted, correct, classes[other] if images else "", images)
        for name, (support, predicted, correct, other, images) in zip(classes, rows, strict=True)
    ]


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

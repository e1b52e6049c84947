"""Pictures that a net takes for mislabelled: it is confident of another class than theirs.

This is the rule of confident learning (Northcutt, Jiang and Chuang 2021) for the most probable class: a picture is
suspect if the net is at least as confident of another class as it is, on average, of the pictures of that class.
"""

from dataclasses import dataclass

import numpy as np

_LEAST_CONFIDENCE = 0.5  # a net that has learned little is never confident


@dataclass(frozen=True, eq=False)
class Guesses:
    """What a net says about pictures.

    Args:
        labels: (N,) int64, the classes of the pictures.
        label_probabilities: (N,) float32, how probable the net finds these.
        classes: (N,) int64, the most probable class of each.
        probabilities: (N,) float32, how probable the net finds it.
    """

    labels: np.ndarray
    label_probabilities: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_probabilities(cls, probabilities: np.ndarray, labels: np.ndarray) -> "Guesses":
        """Return the guesses of (N, classes) probabilities for pictures with labels (N,)."""
        classes, rows = probabilities.argmax(1), np.arange(len(labels))
        return cls(labels, probabilities[rows, labels], classes, probabilities[rows, classes])

    @classmethod
    def concatenate(cls, parts: "list[Guesses]") -> "Guesses":
        """Return the guesses of several parts, one after another."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def find_mislabelled(guesses: Guesses, classes: int) -> np.ndarray:
    """Return the positions of suspect pictures, the one first whose label and guess differ most in probability.

    Args:
        guesses: The guesses for all pictures.
        classes: The number of classes.

    Returns:
        (n,) int64.
    """
    counts = np.bincount(guesses.labels, minlength=classes)
    sums = np.bincount(guesses.labels, guesses.label_probabilities, minlength=classes)
    typical = sums / np.maximum(counts, 1)  # the mean confidence in a class, over its own pictures
    limits = np.maximum(typical, _LEAST_CONFIDENCE)[guesses.classes]
    suspect = np.flatnonzero((guesses.classes != guesses.labels) & (guesses.probabilities >= limits))
    margins = guesses.probabilities[suspect] - guesses.label_probabilities[suspect]
    return np.asarray(suspect[np.argsort(-margins, kind="stable")])

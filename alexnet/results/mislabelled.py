"""Pictures that a net takes for mislabelled: it finds another class far more probable than theirs.

The most suspect picture is that with the lowest probability of its label beside that of the guess. On labels that were
swapped on purpose this order found more of them among as many pictures than the difference of the two probabilities,
and than confident learning's limits for each class (docs/LOG.md).
"""

from dataclasses import dataclass

import numpy as np

_RATIO = 50.0  # how many times as probable as the label the guess must be


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


def find_mislabelled(guesses: Guesses) -> np.ndarray:
    """Return the positions (n,) int64 of suspect pictures, the most suspect first.

    Args:
        guesses: The guesses for all pictures.
    """
    with np.errstate(divide="ignore"):
        ratios = guesses.probabilities / guesses.label_probabilities
    suspect = np.flatnonzero(ratios >= _RATIO)
    return np.asarray(suspect[np.argsort(-ratios[suspect], kind="stable")])

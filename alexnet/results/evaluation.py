"""The predictions for a split, and what follows from them: errors, calibration, classes, pictures."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from alexnet.data.store.base import Split
from alexnet.results.calibration import calibration_bins, expected_calibration_error
from alexnet.results.confusion import class_results, confusion_matrix
from alexnet.results.hierarchical_error import hierarchical_errors
from alexnet.training.error_rates import error_rates, most_probable

_GUESSES = 5


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions for a split, and what follows from them, as docs/json.md describes it.

    Args:
        classes: The class names.
        split: The pictures.
        probabilities: (N, classes) float32.
    """

    classes: tuple[str, ...]
    split: Split
    probabilities: np.ndarray

    @cached_property
    def guesses(self) -> np.ndarray:
        """The five most probable classes of each picture (N, 5), the most probable first; fewer if there are fewer."""
        return most_probable(self.probabilities, _GUESSES)

    @cached_property
    def confusion(self) -> np.ndarray:
        """The confusion matrix (classes, classes): a row for each correct class."""
        return confusion_matrix(self.guesses[:, 0], self.split.labels, len(self.classes))

    def errors(self) -> dict[str, Any]:
        """Return the errors with their intervals, and the calibration."""
        rates = error_rates(torch.from_numpy(self.probabilities), torch.from_numpy(self.split.labels))
        bins = calibration_bins(self.probabilities, self.split.labels)
        return {
            "images": rates.images,
            "split": self.split.name,
            "top1_error": rates.top1_error,
            "top5_error": rates.top5_error,
            "top1_interval": list(rates.top1_interval),
            "top5_interval": list(rates.top5_interval),
            "macro_error": rates.macro_error,
            "macro_interval": list(rates.macro_interval or ()),
            "log_prob": rates.log_prob,
            "calibration_error": expected_calibration_error(bins),
            "calibration_bins": [asdict(part) for part in bins],
        }

    def hierarchical_errors(self, costs: np.ndarray | None) -> dict[str, Any]:
        """Return the hierarchical error with one guess and with five, and their intervals; nothing without costs.

        Args:
            costs: (classes, classes), the cost of each guess (row) for a correct class (column); None if not known.
        """
        values: dict[str, Any] = {}
        if costs is None:
            return values
        for guesses, (error, interval) in hierarchical_errors(self.guesses, self.split.labels, costs).items():
            values[f"top{guesses}_hierarchical_error"] = error
            values[f"top{guesses}_hierarchical_interval"] = interval and list(interval)
        return values

    def class_rows(self) -> list[dict[str, Any]]:
        """Return the result of each class."""
        return [
            {
                "class": result.name,
                "support": result.support,
                "precision": result.precision,
                "recall": result.recall,
                "f1": result.f1,
                "taken_for": result.taken_for or None,
                "taken_for_images": result.taken_for_images,
            }
            for result in class_results(self.classes, self.confusion)
        ]

    def picture_rows(self) -> list[dict[str, Any]]:
        """Return for each picture its name, its class and its guesses with their probabilities."""
        rows = []
        for index, guesses in enumerate(self.guesses.tolist()):
            predictions = [
                {"class": self.classes[label], "probability": float(self.probabilities[index, label])}
                for label in guesses
            ]
            label = self.classes[self.split.labels[index]]
            rows.append({"image": self.split.picture_name(index), "class": label, "predictions": predictions})
        return rows

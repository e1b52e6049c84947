"""Files of predictions, so that nets trained on different days can be averaged; and averages of nets (section 7)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.models.weight_files import check_checksums
from alexnet.training.inference import format_views
from alexnet.utils.checksums import sealed_header, with_checksums
from alexnet.utils.files import FileKind, write_output

_FORMAT = 1
_EM_STEPS = 200  # of expectation and maximisation; the weights of a few nets converge within some tens


@dataclass(frozen=True)
class Predictions:
    """The predictions of a net, or of an average of several, for one or more splits of a store.

    Args:
        nets: The runs whose nets made them.
        classes: The class names.
        views: The number of views asked for: 1, 9 or 10.
        distinct_views: How many of these views differ.
        pictures: For each split a digest of its pictures' names and labels, in order.
        probabilities: For each split (N, classes) float32.
    """

    nets: tuple[str, ...]
    classes: tuple[str, ...]
    views: int
    distinct_views: int
    pictures: Mapping[str, str]
    probabilities: Mapping[str, Tensor]

    def save(self, path: Path, *, force: bool = False) -> None:
        """Write a file that `load` reads: safetensors with JSON metadata.

        Args:
            path: The file.
            force: Whether it may replace a file of predictions. Another file is never replaced.
        """
        metadata = {
            "format": _FORMAT,
            "nets": self.nets,
            "classes": self.classes,
            "views": self.views,
            "differing": self.distinct_views,
            "pictures": dict(self.pictures),
        }
        tensors = {split: probabilities.contiguous() for split, probabilities in self.probabilities.items()}
        text = json.dumps(with_checksums(metadata, tensors))
        write_output(path, sealed_header(save(tensors, {"alexnet": text})), PREDICTIONS_FILE, force=force)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not one of predictions.
        """
        try:
            check_checksums(path)
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = json.loads((file.metadata() or {})["alexnet"])
                if metadata["format"] != _FORMAT or "pictures" not in metadata:
                    raise ValueError(f"its format is {metadata['format']}, this version reads {_FORMAT}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("not all of its probabilities are finite numbers")
            return cls(
                nets=tuple(metadata["nets"]),
                classes=tuple(metadata["classes"]),
                views=metadata["views"],
                distinct_views=metadata["differing"],
                pictures=metadata["pictures"],
                probabilities=tensors,
            )
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} must contain predictions that `alexnet evaluate` has saved; it cannot be read ({error}): "
                "write it again, or name a run"
            ) from error

    def check(self, path: Path, store: Store, splits: Sequence[str], views: int) -> None:
        """Check that the predictions are for these splits of a store, from this number of views.

        Raises:
            ValueError: They are not; the message names `path`, the file they were read from.
        """
        if self.classes != store.classes:
            raise ValueError(
                f"{path} must have the classes of store {store.path}; it has {len(self.classes)} "
                f"({self.classes[0]} ...), the store {len(store.classes)} ({store.classes[0]} ...): "
                "save predictions for this store"
            )
        for name in splits:
            if name not in self.probabilities:
                options = f"`split={splits[0]!r}`" + "".join(f" and `weights_on={other!r}`" for other in splits[1:])
                raise ValueError(
                    f"{path} must contain predictions for {name!r}; it has {', '.join(self.probabilities)}: "
                    f"save them with {options}"
                )
            if self.pictures[name] != picture_digest(store.split(name)):
                raise ValueError(
                    f"{path} must be for the pictures of {name!r} in store {store.path}; it is for others: save "
                    "predictions for this store"
                )
        if self.views != views:
            raise ValueError(
                f"{path} must be from {format_views(views)}, as asked for; it is from {format_views(self.views)}: use "
                f"`views={self.views}`"
            )


def _has_predictions(path: Path) -> bool:
    """Return whether a file is one of predictions, of any format; a checkpoint has other metadata."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {"nets", "views"} <= set(json.loads((file.metadata() or {})["alexnet"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return False


PREDICTIONS_FILE = FileKind("a file of predictions that `alexnet evaluate` has saved", (), _has_predictions)


def picture_digest(split: Split) -> str:
    """Return a digest of the names and labels of a split's pictures, in order."""
    digest = hashlib.sha256(split.labels.tobytes())
    for index in range(len(split)):
        digest.update(split.picture_name(index).encode() + b"\0")
    return digest.hexdigest()


def mixture_weights(probabilities: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Return the weights whose average of the nets gives the correct classes the highest mean log-probability.

    The problem is convex. It is solved by expectation and maximisation: the new weight of a net is the mean of its
    share in the probability that the average gives the correct class.

    Args:
        probabilities: For each net (N, classes).
        labels: (N,) int64.

    Returns:
        (nets,) float64, with sum 1.
    """
    correct = torch.stack([net.double().gather(1, labels[:, None])[:, 0] for net in probabilities])  # (nets, N)
    correct = correct.clamp_min(1e-30)
    weights = torch.full((len(probabilities),), 1 / len(probabilities), dtype=torch.float64)
    for _ in range(_EM_STEPS):
        shares = weights[:, None] * correct
        weights = (shares / shares.sum(0)).mean(1)
    return weights


def average(probabilities: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted mean of several nets' probabilities.

    Args:
        probabilities: For each net (N, classes) float32.
        weights: (nets,) float64, with sum 1.

    Returns:
        (N, classes) float32.
    """
    return (weights[:, None, None] * torch.stack(list(probabilities)).double()).sum(0).float()

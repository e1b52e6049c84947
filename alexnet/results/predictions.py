"""Predictions kept in files, so that nets trained on different days can be averaged; and their averages (section 7)."""

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
from alexnet.utils.files import write_atomic

FORMAT = 1
ROUNDS = 200  # of expectation and maximisation; the weights of a few nets settle within some tens


@dataclass(frozen=True)
class Predictions:
    """What a net, or an average of several, says of parts of a store.

    Args:
        nets: The runs it comes from.
        classes: The class names.
        views: Views averaged, as asked for.
        differing: How many of these differ.
        pictures: For each part a digest of its pictures' names and labels, in order.
        probabilities: For each part (N, classes) float32.
    """

    nets: tuple[str, ...]
    classes: tuple[str, ...]
    views: int
    differing: int
    pictures: Mapping[str, str]
    probabilities: Mapping[str, Tensor]

    def save(self, path: Path) -> None:
        """Write a file that `load` reads: safetensors with JSON metadata."""
        about = {
            "format": FORMAT,
            "nets": self.nets,
            "classes": self.classes,
            "views": self.views,
            "differing": self.differing,
            "pictures": dict(self.pictures),
        }
        tensors = {name: part.contiguous() for name, part in self.probabilities.items()}
        write_atomic(path, save(tensors, {"alexnet": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It holds something else.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["alexnet"])
                if about["format"] != FORMAT or "pictures" not in about:
                    raise ValueError(f"its format is {about['format']}, this version reads {FORMAT}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("not all of its probabilities are numbers")
            nets, classes, views = tuple(about["nets"]), tuple(about["classes"]), about["views"]
            return cls(nets, classes, views, about["differing"], about["pictures"], tensors)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} must hold predictions, as `alexnet evaluate --save` writes them; it cannot be read ({error}): "
                "make it anew, or name a run"
            ) from error

    def check(self, path: Path, store: Store, splits: Sequence[str], views: int) -> None:
        """Raise a ValueError unless these are predictions for those parts of a store, from so many views."""
        if self.classes != store.classes:
            raise ValueError(
                f"{path} must know the classes of store {store.path}; it knows {len(self.classes)} "
                f"({self.classes[0]} ...), the store has {len(store.classes)} ({store.classes[0]} ...): "
                "save predictions for this store"
            )
        for name in splits:
            if name not in self.probabilities:
                held = ", ".join(self.probabilities)
                how = f"--split {name}" if len(splits) == 1 else f"--split {splits[0]} --weights-on {splits[1]}"
                raise ValueError(f"{path} must hold predictions for {name!r}; it has {held}: save them with {how}")
            if self.pictures[name] != digest(store.split(name)):
                raise ValueError(
                    f"{path} must be of the pictures of {name!r} in store {store.path}; it is of others: save "
                    "predictions for this store"
                )
        if self.views != views:
            raise ValueError(f"{path} must be of {views} views, as asked for; it is of {self.views}: use --views")


def digest(split: Split) -> str:
    """A digest of a part's pictures' names and labels, in order."""
    found = hashlib.sha256(split.labels.tobytes())
    for index in range(len(split)):
        found.update(split.picture_name(index).encode() + b"\0")
    return found.hexdigest()


def mixture_weights(parts: Sequence[Tensor], labels: Tensor) -> Tensor:
    """The weights with which an average of nets gives the correct classes the highest mean log-probability.

    The problem is convex, and solved by expectation and maximisation: a net's weight becomes the mean of its share in
    what the average gives the correct class.

    Args:
        parts: For each net (N, classes) probabilities.
        labels: (N,) int64.

    Returns:
        (nets,) float64, which sum to 1.
    """
    right = torch.stack([part.double().gather(1, labels[:, None])[:, 0] for part in parts])  # (nets, N)
    right = right.clamp_min(1e-30)
    weights = torch.full((len(parts),), 1 / len(parts), dtype=torch.float64)
    for _ in range(ROUNDS):
        shares = weights[:, None] * right
        weights = (shares / shares.sum(0)).mean(1)
    return weights


def average(parts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The mean of nets' probabilities, (N, classes), with the weights given, (nets,) float64 that sum to 1."""
    return (weights[:, None, None] * torch.stack(list(parts)).double()).sum(0).float()

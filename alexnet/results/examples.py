"""Pictures with the net's guesses: how they are chosen, and what is shown of them (Figure 4, left)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alexnet.data.store.base import Split
from alexnet.training.checkpoint import Checkpoint
from alexnet.training.error_rates import most_probable
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.device import choose_device


@dataclass(frozen=True, eq=False)
class Example:
    """A picture and the net's guesses for it.

    Args:
        picture: (size, size, 3) uint8 RGB.
        name: The name of the picture in the store.
        correct: The name of its class.
        guesses: The most probable classes and their probabilities, the most probable first; five, or all if there are
            fewer.
    """

    picture: np.ndarray
    name: str
    correct: str
    guesses: tuple[tuple[str, float], ...]


def make_examples(
    split: Split, classes: Sequence[str], probabilities: np.ndarray, indices: np.ndarray
) -> list[Example]:
    """Return pictures of a split with the net's guesses.

    Args:
        split: The split.
        classes: The class names.
        probabilities: (len(indices), classes), the net's output for these pictures.
        indices: (n,) int, which pictures of the split.
    """
    return [
        Example(
            picture=split.image(int(index)),
            name=split.picture_name(int(index)),
            correct=classes[split.labels[index]],
            guesses=tuple((classes[label], float(row[label])) for label in guesses.tolist()),
        )
        for index, row, guesses in zip(indices, probabilities, most_probable(probabilities, 5), strict=True)
    ]


def predict_examples(
    checkpoint: Checkpoint, split: Split, indices: np.ndarray, device: str | torch.device | None
) -> list[Example]:
    """Return pictures of a split with the guesses of a net, from as many views as its recipe has.

    Args:
        checkpoint: The net.
        split: The split.
        indices: (n,) int, which pictures of the split.
        device: The device to compute on; None for the first GPU, or the CPU if there is none.
    """
    recipe = checkpoint.recipe
    net = checkpoint.net().to_channels_last(choose_device(device))
    pictures = [split.image(int(index)) for index in indices]
    probabilities = predict_pictures(net, pictures, checkpoint.statistics.mean, recipe, default_views(recipe))
    return make_examples(split, checkpoint.classes, probabilities.numpy(), indices)


def balanced_sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw pictures at random, of as many classes as possible: one of each class before a second of any.

    Args:
        labels: (N,) int.
        count: How many to draw; all if there are fewer.
        seed: The seed of the draw.

    Returns:
        The indices of the pictures, (count,) int.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    drawn: Counter[int] = Counter()
    rounds = []  # of each picture: how many of its class come before it
    for label in labels[shuffled].tolist():
        rounds.append(drawn[label])
        drawn[label] += 1
    return np.asarray(shuffled[np.argsort(rounds, kind="stable")[:count]])


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the `count` pictures for which a wrong class has the highest probability.

    Args:
        probabilities: (N, classes).
        labels: (N,) int.
        count: How many, at most.

    Returns:
        (n,) int, the most confident mistake first.
    """
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return np.asarray(wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")[:count]])

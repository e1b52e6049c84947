"""Weights of the classes in the loss, for training pictures that are unevenly divided among them."""

import numpy as np
import torch
from torch import Tensor

from alexnet.data.store.store import Store
from alexnet.recipe import Recipe


def class_weights(recipe: Recipe, store: Store) -> Tensor | None:
    """Return the factors on the losses of the pictures of each class that the recipe asks for; None for none.

    The factor of a class is inversely proportional to its number of training pictures. Its mean over the training
    pictures is 1, so that the learning rates mean the same (as `class_weight="balanced"` of scikit-learn).

    Returns:
        (classes,) float32.
    """
    if recipe.balance != "weights":
        return None
    labels = store.split("train").labels
    counts = np.bincount(labels, minlength=len(store.classes))
    return torch.from_numpy(len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).float()

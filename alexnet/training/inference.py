"""Predictions of a trained network: softmax outputs for the views of test pictures (section 5.1)."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import View, make_view_batch, select_views
from alexnet.data.store.base import Split
from alexnet.distributed.collectives import shard_rows
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.precision import autocast
from alexnet.utils.cores import available_cores
from alexnet.utils.memory import keep_freed_memory
from alexnet.utils.prefetch import prefetch

_CROPS_PER_BATCH = 128  # larger batches are no faster on a CPU, and take memory
_CROPS_PER_BATCH_ON_GPU = 1024


def default_views(recipe: Recipe) -> int:
    """Return the number of views to predict from: the recipe's, or 1 if crops are as large as the pictures."""
    return recipe.views if recipe.net.image_size < recipe.store_size else 1


def format_views(views: int) -> str:
    """Return a number of views as text: "one view", "10 views"."""
    return "one view" if views == 1 else f"{views} views"


def pictures_per_batch(device: torch.device, views: int) -> int:
    """Return how many pictures go through the network at a time, each with all its views."""
    return max(1, (_CROPS_PER_BATCH if device.type == "cpu" else _CROPS_PER_BATCH_ON_GPU) // views)


def mean_over_views(probabilities: Tensor) -> Tensor:
    """Return the mean of the softmax outputs over the views of each picture: the network's prediction (5.1).

    Args:
        probabilities: (N, views, classes), the softmax outputs of each view of each picture.

    Returns:
        (N, classes).
    """
    return probabilities.mean(1)


def predict_pictures(
    net: AlexNet,
    pictures: list[np.ndarray],
    mean: np.ndarray,
    recipe: Recipe,
    views: int,
    *,
    batch_size: int | None = None,
) -> Tensor:
    """Average the softmax outputs over the views of each picture (5.1).

    Args:
        net: The network, in evaluation mode.
        pictures: (size, size, 3) uint8 each; any number, since only few go through the network at a time.
        mean: (3, size, size), the mean activity.
        recipe: The network's recipe, for the crop and the precision.
        views: 1 for the centre; 10 for the corners, the centre, and their reflections; 9 for corners, edges, centre.
        batch_size: The number of pictures that go through the network at a time; by default `pictures_per_batch`.

    Returns:
        (N, classes) float32 on the CPU.
    """
    crop, device = recipe.net.image_size, net.device
    selected = select_views(views, len(pictures[0]), crop)
    centre = torch.from_numpy(centre_mean(mean, crop)).to(device)
    size = batch_size or pictures_per_batch(device, len(selected))
    batches = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    return torch.cat([mean_over_views(predict_views(net, batch, centre, recipe, selected)) for batch in batches])


def predict_batches(
    net: AlexNet, split: Split, mean: np.ndarray, recipe: Recipe, *, views: int = 1, shard: int = 0, num_shards: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predict a split batch by batch, in its order; threads read the next pictures while the network computes.

    Args:
        net: The network, on the device that is to compute.
        split: The pictures.
        mean: (3, size, size), the mean activity.
        recipe: The network's recipe.
        views: As for `predict_pictures`.
        shard, num_shards: Which shard of each batch to predict, from 0, and how many there are. All processes run
            equally many batches; the last shards may contain no picture that counts.

    Yields:
        Probabilities of each view (n, views, classes), the centre first, and labels (n,), on the CPU.
        `mean_over_views` makes the network's prediction of them.
    """
    crop, device = recipe.net.image_size, net.device
    selected = select_views(views, split.size, crop)
    centre = torch.from_numpy(centre_mean(mean, crop)).to(device)
    size = pictures_per_batch(device, len(selected)) * num_shards
    starts = range(0, len(split), size)

    def read(start: int) -> tuple[list[np.ndarray], Tensor]:
        rows, count = shard_rows(min(size, len(split) - start), shard, num_shards)
        rows += start
        return list(split.images(rows.tolist())), torch.from_numpy(split.labels[rows[:count]])

    net.eval()
    keep_freed_memory()  # saves a third of the time: glibc would map 140 MB anew for each batch
    # One thread reads faster than a CPU computes; a GPU would wait for one.
    workers = 1 if device.type == "cpu" else available_cores()
    with closing(prefetch(read, starts, workers=workers, buffer_size=workers)) as batches:
        for pictures, labels in batches:
            yield predict_views(net, pictures, centre, recipe, selected)[: len(labels)], labels


@torch.inference_mode()
def predict_views(
    net: AlexNet, pictures: list[np.ndarray], centre: Tensor, recipe: Recipe, views: list[View]
) -> Tensor:
    """Compute the softmax outputs for each view of each picture, all in one batch.

    Args:
        net: The network, in evaluation mode.
        pictures: N pictures, (size, size, 3) uint8 each.
        centre: (crop, crop, 3), the centre of the mean activity, on the network's device.
        recipe: The network's recipe, for the precision.
        views: The views of each picture.

    Returns:
        (N, views, classes) float32 on the CPU.
    """
    with autocast(centre.device, recipe):
        logits: Tensor = net(make_view_batch(pictures, views, centre))  # (N * views, classes)
    return logits.float().softmax(1).view(len(pictures), len(views), -1).cpu()

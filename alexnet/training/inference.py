"""A net's predictions for a set: softmax outputs averaged over views, and the errors they make (sections 3 and 5.1)."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import View, make_view_batch, mean_over_views, select_views
from alexnet.data.store.base import Split
from alexnet.distributed.collectives import shard_rows
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.precision import autocast
from alexnet.utils.memory import keep_freed_memory
from alexnet.utils.prefetch import available_cores, prefetch

CROPS = 128  # that go through the net together; larger batches are no faster on a CPU, and take memory
CROPS_ON_GPU = 1024


@dataclass(frozen=True)
class Errors:
    """How good predictions are (section 3).

    Args:
        images: Number of pictures.
        top1_error: Share whose correct class is not the most probable one.
        top5_error: Share whose correct class is not among the five most probable.
        log_prob: Mean negative natural logarithm of the correct class's probability.
    """

    images: int
    top1_error: float
    top5_error: float
    log_prob: float


def default_views(recipe: Recipe) -> int:
    """The number of views to predict from: the recipe's, or 1 where crops are as large as the pictures."""
    return recipe.views if recipe.net.image_size < recipe.store_size else 1


def format_views(views: int) -> str:
    """A number of views in words."""
    return "one view" if views == 1 else f"{views} views"


def probabilities(net: AlexNet, pictures: list[np.ndarray], mean: np.ndarray, recipe: Recipe, views: int) -> Tensor:
    """The mean of the softmax outputs over the views of each picture (5.1).

    Args:
        net: In evaluation mode.
        pictures: (size, size, 3) uint8 each; any number, as few go through the net at a time.
        mean: (3, size, size) mean activity.
        recipe: The net's; says crop and precision.
        views: 1 for the centre, 10 for the corners, the centre, and their reflections, 9 for corners, edges, centre.

    Returns:
        (N, classes) float32 on the CPU.
    """
    crop, device = recipe.net.image_size, net.fc8.weight.device
    wanted = select_views(views, len(pictures[0]), crop)
    centre = torch.from_numpy(centre_mean(mean, crop)).to(device)
    size = together(device, len(wanted))
    parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]
    return torch.cat([mean_over_views(outputs(net, part, centre, recipe, wanted)) for part in parts])


@torch.inference_mode()
def outputs(net: AlexNet, pictures: list[np.ndarray], centre: Tensor, recipe: Recipe, views: list[View]) -> Tensor:
    """The softmax outputs for each view of each picture, all in one batch.

    Args:
        net: In evaluation mode.
        pictures: (size, size, 3) uint8 each, as many as fit into memory at once with all their views.
        centre: (crop, crop, 3), the mean activity's centre, on the net's device.
        recipe: The net's; says the precision.
        views: Which.

    Returns:
        (N, views, classes) float32 on the CPU.
    """
    with autocast(centre.device, recipe):
        logits: Tensor = net(make_view_batch(pictures, views, centre))  # (N * views, classes)
    return logits.float().softmax(1).view(len(pictures), len(views), -1).cpu()


def together(device: torch.device, views: int) -> int:
    """The number of pictures that go through the net at a time, with all their views."""
    return max(1, (CROPS if device.type == "cpu" else CROPS_ON_GPU) // views)


def predictions(
    net: AlexNet, split: Split, mean: np.ndarray, recipe: Recipe, *, views: int = 1, shard: int = 0, num_shards: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """The predictions for a set, in its order; the next pictures are read while the net works.

    Args:
        net: Moved to where it is to work.
        split: The pictures.
        mean: (3, size, size) mean activity.
        recipe: The net's.
        views: As for `probabilities`.
        shard, num_shards: Which shard of the pictures that go through the net together is this process's, and how many
            there are: all processes make equally many passes, the last ones of them possibly on no picture that counts.

    Yields:
        Probabilities of each view (n, views, classes), the centre first, and labels (n,), on the CPU. The mean over the
        views is the net's prediction.
    """
    crop, device = recipe.net.image_size, net.fc8.weight.device
    wanted = select_views(views, split.size, crop)
    centre = torch.from_numpy(centre_mean(mean, crop)).to(device)
    size = together(device, len(wanted)) * num_shards
    starts = range(0, len(split), size)

    def read(start: int) -> tuple[list[np.ndarray], Tensor]:
        rows, count = shard_rows(min(size, len(split) - start), shard, num_shards)
        rows += start
        return list(split.images(rows.tolist())), torch.from_numpy(split.labels[rows[:count]])

    net.eval()
    keep_freed_memory()  # a third of the time, where glibc would map 140 MB anew for each batch
    # A thread reads faster than a CPU computes; a GPU would wait for one.
    workers = 1 if device.type == "cpu" else available_cores()
    with closing(prefetch(read, starts, workers=workers, buffer_size=workers)) as coming:
        for pictures, labels in coming:
            yield outputs(net, pictures, centre, recipe, wanted)[: len(labels)], labels


def errors(predicted: Tensor, labels: Tensor) -> Errors:
    """The errors of predictions (N, classes) for labels (N,)."""
    return mean_errors(tally(predicted, labels))


def tally(predicted: Tensor, labels: Tensor) -> Tensor:
    """Pictures, top-1 and top-5 errors and sum of log-probabilities: what may be added up over parts of a set.

    A class only counts as ahead of the correct one if it is strictly more probable, or equally so and earlier: ties
    are settled as by a stable sort, so that a net that says the same of every class is not taken for right.

    Args:
        predicted: (N, classes) probabilities, on the CPU.
        labels: (N,) int64.

    Returns:
        (4,) float64.
    """
    right = predicted.gather(1, labels[:, None])
    places = torch.arange(predicted.shape[1])
    # Asked this way round, so that NaN counts as ahead: a broken net is wrong about everything.
    behind = (predicted < right) | ((predicted == right) & (places >= labels[:, None]))
    rank = (~behind).sum(1)
    logarithms = right.double().clamp_min(1e-30).log()
    count = torch.tensor(len(labels))
    return torch.stack([count, (rank >= 1).sum(), (rank >= 5).sum(), logarithms.sum()]).double()


def mean_errors(sums: Tensor) -> Errors:
    """The errors of a set, from the sum of its parts' tallies (4,)."""
    count, top1, top5, logarithm = sums.tolist()
    return Errors(int(count), top1 / count, top5 / count, -logarithm / count)


def measure(
    net: AlexNet,
    split: Split,
    mean: np.ndarray,
    recipe: Recipe,
    *,
    views: int = 1,
    team: Team | None = None,
    step: int = 0,
) -> Errors:
    """The errors of one net on a set, each picture of which counts once, however many processes share the work.

    Args:
        net, split, mean, recipe, views: As for `predictions`.
        team: The processes, all of which must call this.
        step: That the net is of, for who watches over them.
    """
    team = team or Team()
    group, sums = team.data_group, torch.zeros(4, dtype=torch.float64)
    for predicted, labels in predictions(
        net, split, mean, recipe, views=views, shard=group.rank, num_shards=group.size
    ):
        team.watchdog.heartbeat(step, "validation")
        sums += tally(mean_over_views(predicted), labels)
    return mean_errors(team.all_reduce(sums * team.adds_metrics))

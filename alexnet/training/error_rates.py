"""Top-1 and top-5 error rates of predictions, and of a network on a split (section 3)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.data.store.base import Split
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.inference import mean_over_views, predict_batches
from alexnet.utils.intervals import mean_rate_interval, wilson_interval
from alexnet.utils.progress import Progress

# What the pictures of a split are called in messages, curves and reports.
_ADJECTIVES = {"train": "training", "val": "validation", "test": "test", "train+val": "training"}

_SORTED_ROWS = 4096  # pictures whose classes are sorted at a time: a sort of all would take 8 bytes for each number


@dataclass(frozen=True)
class ErrorRates:
    """How good predictions are (section 3).

    Args:
        images: Number of pictures.
        top1_error: Share of the pictures whose correct class is not the most probable one.
        top5_error: Share of the pictures whose correct class is not among the five most probable.
        log_prob: Mean negative natural logarithm of the correct class's probability.
        macro_error: Mean over the classes of the top-1 error of their pictures, without classes that have none; None if
            it was not measured (earlier versions).
        macro_interval: Its 95 % interval.
    """

    images: int
    top1_error: float
    top5_error: float
    log_prob: float
    macro_error: float | None = None
    macro_interval: tuple[float, float] | None = None

    @property
    def top1_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the top-1 error."""
        return wilson_interval(self.top1_error, self.images)

    @property
    def top5_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the top-5 error."""
        return wilson_interval(self.top5_error, self.images)

    def is_better_than(self, top1_error: float | None, log_prob: float | None) -> bool:
        """Return whether a net with these error rates is to be kept rather than one of an earlier epoch.

        The top-1 error decides; where it is the same, the log-probability, then the later epoch.

        Args:
            top1_error: The error of the other net on the same pictures; None if there is no other net.
            log_prob: Its mean negative log-probability; None if it is unknown.
        """
        if top1_error is None or self.top1_error != top1_error:
            return top1_error is None or self.top1_error < top1_error
        return log_prob is None or self.log_prob <= log_prob

    @classmethod
    def from_counts(cls, counts: Tensor) -> "ErrorRates":
        """Return the error rates of a split, from the sum of `_count_errors` over its batches."""
        images, top1, top5, log_prob = counts[:4].tolist()
        class_images, class_errors = counts[4:].chunk(2)
        present = class_images > 0
        macro = float((class_errors[present] / class_images[present]).mean())
        interval = mean_rate_interval(macro, class_images[present].tolist())
        return cls(int(images), top1 / images, top5 / images, -log_prob / images, macro, interval)


def split_adjective(split: str) -> str:
    """Return the word for the pictures of a split: "validation" for "val", but "test" for "test"."""
    return _ADJECTIVES.get(split, split)


def error_rates(probabilities: Tensor, labels: Tensor) -> ErrorRates:
    """Return the error rates of predictions (N, classes) for labels (N,)."""
    return ErrorRates.from_counts(_count_errors(probabilities, labels))


def most_probable(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the most probable classes of each picture; of equally probable ones the earlier, as `error_rates` does.

    Args:
        probabilities: (N, classes).
        count: The number of classes to return, at most all.

    Returns:
        (N, count) int64, the most probable first.
    """
    starts = range(0, max(1, len(probabilities)), _SORTED_ROWS)
    blocks = (probabilities[start : start + _SORTED_ROWS] for start in starts)
    return np.concatenate([np.argsort(-block, axis=1, kind="stable")[:, :count] for block in blocks])


def _count_errors(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Count pictures and errors, so that counts of several batches can be added up.

    Another class is ahead of the correct one only if it is strictly more probable, or equally probable and earlier:
    ties are broken as by a stable sort. So a network that gives all classes the same probability is not taken as right.

    Args:
        probabilities: (N, classes), on the CPU.
        labels: (N,) int64.

    Returns:
        (4 + 2 * classes,) float64: pictures, top-1 errors, top-5 errors, sum of the correct classes' log-probabilities;
        pictures of each class, top-1 errors of each class.
    """
    correct = probabilities.gather(1, labels[:, None])
    classes = torch.arange(probabilities.shape[1])
    # NaN compares as false, so it counts as ahead: a network that puts out NaN is wrong about everything.
    behind = (probabilities < correct) | ((probabilities == correct) & (classes >= labels[:, None]))
    rank = (~behind).sum(1)
    log_prob = correct.double().clamp_min(1e-30).log()
    count = torch.tensor(len(labels))
    totals = torch.stack([count, (rank >= 1).sum(), (rank >= 5).sum(), log_prob.sum()]).double()
    by_class = [labels.bincount(minlength=len(classes)), labels[rank >= 1].bincount(minlength=len(classes))]
    return torch.cat([totals, *by_class])


def measure_errors(
    net: AlexNet,
    split: Split,
    mean: np.ndarray,
    recipe: Recipe,
    *,
    views: int = 1,
    team: Team | None = None,
    step: int = 0,
    bar: Progress | None = None,
) -> ErrorRates:
    """Measure the error rates of a network on a split. Each picture counts once, however many processes share the work.

    Args:
        net, split, mean, recipe, views: As for `predict_batches`.
        team: The processes, all of which must call this.
        step: Number of the last training step, for the watchdog's messages.
        bar: Shows how many pictures have been measured.
    """
    team = team or Team()
    group = team.data_group
    predictions = predict_batches(net, split, mean, recipe, views=views, shard=group.rank, num_shards=group.size)
    return sum_errors(predictions, team, step, bar)


def sum_errors(
    predictions: Iterable[tuple[Tensor, Tensor]], team: Team, step: int = 0, bar: Progress | None = None
) -> ErrorRates:
    """Return the error rates over batches of predictions.

    Args:
        predictions: Probabilities (n, views, classes) and labels (n,) of this process's pictures.
        team, step, bar: As for `measure_errors`.
    """
    counts = torch.zeros((), dtype=torch.float64)
    for probabilities, labels in predictions:
        team.watchdog.report_progress(step, "validation")
        counts = counts + _count_errors(mean_over_views(probabilities), labels)
        if bar is not None:
            bar.update(len(labels) * team.data_group.size)
    return ErrorRates.from_counts(team.all_reduce(counts * team.adds_metrics))

"""The number of epochs that fit into a time, from the time of some first steps.

The steps are made with a net of their own, which is then discarded. So a training that was planned is, bit for bit,
that of the recipe with the planned number of epochs, and resuming it needs no plan.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from alexnet.checked import require
from alexnet.data.loading.loader import Batch, Loader
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.models.front import split_net
from alexnet.recipe import Recipe
from alexnet.training.activity_cache import can_keep_activities, room_for_activities
from alexnet.training.class_weights import class_weights
from alexnet.training.estimate import FORWARD_SHARE, synchronise
from alexnet.training.inference import default_views
from alexnet.training.precision import autocast
from alexnet.training.schedule import make_schedule
from alexnet.training.setup import build_net
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.step import EAGER_STEPS, Step
from alexnet.utils.console import count_of, format_duration

_USED_SHARE = 0.95  # of the time: other programs may need the cores, and the start takes some
_TIMED_STEPS = {"cpu": 6, "cuda": 20}


@dataclass(frozen=True)
class EpochTimes:
    """How long epochs take, in seconds.

    Args:
        first, later: The first epochs, and the others, for which the activities of frozen layers have been kept.
        first_count: The number of first epochs.
        end: What follows the last epoch: the errors and the figures of the report.
    """

    first: float
    later: float
    first_count: int
    end: float

    def of_training(self, epochs: int) -> float:
        """Return the time of a training."""
        first = min(epochs, self.first_count)
        return first * self.first + (epochs - first) * self.later + self.end

    def epochs_within(self, seconds: float) -> int:
        """Return how many epochs fit into a time; 0 if not one does."""
        seconds -= self.end
        if seconds < self.first_count * self.first:
            return max(0, math.floor(seconds / self.first))
        return self.first_count + math.floor((seconds - self.first_count * self.first) / self.later)


@dataclass(frozen=True)
class Rehearsal:
    """Some steps of a training, with a net of their own.

    Args:
        team: The processes, all of which must make the same calls.
        run, recipe, store, statistics: What is trained.
        start_from, take, micro_batch, cache_gb, graph: As for `train`.
        workers: Threads that make batches.
    """

    team: Team
    run: Path
    recipe: Recipe
    store: Store
    statistics: Statistics
    start_from: str | Path | None
    take: Sequence[str]
    micro_batch: int | None
    workers: int
    cache_gb: float
    graph: bool

    def measure(self) -> EpochTimes:
        """Make the steps, and return how long epochs take."""
        team, recipe = self.team, self.recipe
        net, _ = build_net(team, self.run, recipe, self.store, self.start_from, self.take)
        net.train()
        train, validation = self.store.split("train"), self.store.validation()
        size = make_schedule(recipe).image_size_in(recipe.epochs - 1)
        loader = Loader(
            train, self.statistics, recipe, image_size=size, workers=self.workers, device=team.device,
            shard=team.data_group.rank, num_shards=team.data_group.size,
        )  # fmt: skip
        with closing(_endless(loader)) as batches:
            step = self._new_step(net, None)
            seconds = _time_steps(lambda: step(next(batches)), team.device)
            head_seconds = self._time_head(net, next(batches))
        validation_share = FORWARD_SHARE * len(validation) / len(train)
        report = FORWARD_SHARE * default_views(recipe) * len(validation) * seconds / recipe.batch_size
        first = seconds * len(loader) * (1 + validation_share)
        if head_seconds is None:
            return EpochTimes(first, first, 0, report)
        return EpochTimes(first, min(first, head_seconds * len(loader)), recipe.augmentations or 0, report)

    def _time_head(self, net: AlexNet, batch: Batch) -> float | None:
        """Return the seconds of a step on the activities of frozen layers; None where they are not all kept."""
        recipe = self.recipe
        if recipe.augmentations is None or not can_keep_activities(recipe, self.cache_gb, self.team):
            return None
        front, head = split_net(net, recipe.frozen_front)
        with torch.no_grad(), autocast(self.team.device, recipe):
            activities = front(batch.images)
        rows = len(self.store.validation()) + recipe.augmentations * len(self.store.split("train"))
        if rows * activities[0].nbytes > room_for_activities(_existing(self.run), self.cache_gb):
            return None
        step = self._new_step(net, head)
        return _time_steps(lambda: step(batch, activities), self.team.device)

    def _new_step(self, net: AlexNet, head: nn.Module | None) -> Callable[..., object]:
        """Return a function that trains the net for a step on a batch; a head on activities instead of its pictures."""
        recipe, team = self.recipe, self.team
        optimiser = SGD(
            parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum, decay=recipe.decay
        )
        set_learning_rates(optimiser, make_schedule(recipe).rates_at(0))
        step = Step(
            net, optimiser, recipe, graph=self.graph, team=team,
            micro_batch=self.micro_batch or math.ceil(recipe.batch_size / team.data_group.size),
            class_weights=class_weights(recipe, self.store), head=head,
        )  # fmt: skip
        return lambda batch, activities=None: step(
            batch.images if activities is None else activities, batch.labels, batch.total
        )


def plan_epochs(rehearsal: Rehearsal, hours: float, *, progress: bool) -> Recipe:
    """Return a recipe with as many of its epochs as fit into a time, and its other times in proportion.

    Args:
        rehearsal: What is trained, and how.
        hours: The time.
        progress: Whether to say on standard error what was planned.

    Raises:
        ValueError: Not one epoch fits, or the schedule has no number of epochs.
    """
    team, recipe = rehearsal.team, rehearsal.recipe
    require(math.isfinite(hours) and hours > 0, "hours", "a finite number above 0", hours)
    require(not recipe.folds_in_validation, "hours", 'left out with schedule "fold", whose length is not known', hours)
    start_time = time.monotonic()
    times: EpochTimes = team.broadcast(rehearsal.measure())
    spent = time.monotonic() - start_time
    epochs: int = team.broadcast(times.epochs_within(_USED_SHARE * 3600 * hours - spent))
    if epochs < 1:
        least = math.ceil((times.of_training(1) + spent) / _USED_SHARE / 3.6) / 1000
        raise ValueError(
            f"hours must be at least {least:g} for one epoch, of about {format_duration(times.first)}; got {hours:g}: "
            "choose more, a smaller recipe, or fewer pictures"
        )
    planned = recipe if epochs >= recipe.epochs else recipe.with_epochs(epochs)
    if progress:
        share = f"{planned.epochs} of the recipe's {count_of(recipe.epochs, 'epoch')}"
        length = format_duration(times.of_training(planned.epochs))
        print(f"planned for {hours:g} h: {share}, about {length}", file=sys.stderr)
    return planned


def _time_steps(step: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a step, loading included."""
    for _ in range(EAGER_STEPS + 2 if device.type == "cuda" else 2):  # until all is compiled and captured
        step()
    synchronise(device)
    start_time = time.perf_counter()
    for _ in range(_TIMED_STEPS[device.type]):
        step()
    synchronise(device)
    return (time.perf_counter() - start_time) / _TIMED_STEPS[device.type]


def _endless(loader: Loader) -> Generator[Batch, None, None]:
    """Yield the batches of one epoch after the other."""
    for epoch in itertools.count():
        yield from loader.batches(epoch)


def _existing(folder: Path) -> Path:
    """Return a folder, or its nearest parent that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())

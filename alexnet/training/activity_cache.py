"""The activities of a frozen front, computed once for each picture and augmentation (fine-tuning, section 7).

Where the first layers of a net are frozen, their activities for a picture change with its augmentation only. With
`Recipe.augmentations` = N, epoch e has the augmentations of epoch e modulo N: the pictures go through the front in the
first N epochs, and not again. Validation pictures have one view, so they go through the front once.

The result is that of a training without the cache. It does not depend on where the training was stopped either: what
is kept for an augmentation was always computed in the batches of the first epoch that has it.
"""

import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.loader import Batch, Loader
from alexnet.data.loading.views import make_view_batch, select_views
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.models.front import split_net
from alexnet.recipe import Recipe
from alexnet.training.activity_file import ActivityFile
from alexnet.training.checkpointer import Checkpointer
from alexnet.training.inference import pictures_per_batch
from alexnet.training.precision import autocast
from alexnet.utils.console import format_bytes, note_once

_GIGABYTE = 10**9
_SHARE_OF_FREE_DISK = 0.5


class ActivityCache:
    """Batches of activities in place of batches of pictures, for the head of a net.

    Args:
        net: The net, with frozen layers, on its device.
        recipe: The recipe, with frozen first layers and a number of augmentations.
        store: The pictures.
        mean: (3, size, size), the mean activity that is subtracted.
        folder: A folder on the disk that keeps the activities.
        gigabytes: How much of the disk may be used; at most half of what is free. If it is not enough for all
            activities, the others are computed anew in each epoch.
        micro_batch: Pictures that go through the front at a time.

    Attributes:
        head: The layers after the front, to be trained on the batches.
    """

    def __init__(
        self,
        net: AlexNet,
        recipe: Recipe,
        store: Store,
        mean: np.ndarray,
        folder: Path,
        *,
        gigabytes: float,
        micro_batch: int,
    ) -> None:
        assert recipe.frozen_front
        assert recipe.augmentations is not None
        self._front, self.head = split_net(net, recipe.frozen_front)
        self._net, self._recipe, self._micro_batch = net, recipe, micro_batch
        self._device = net.device
        self._mean = torch.from_numpy(centre_mean(mean, recipe.net.image_size)).to(self._device)
        self._validation = len(store.validation())  # their rows are the first ones
        self._train = len(store.split("train"))
        side = recipe.net.image_size
        example = self._compute(torch.zeros(1, 3, side, side, device=self._device))
        self._shape, self._row_bytes = tuple(example.shape[1:]), example[0].nbytes
        limit = room_for_activities(folder, gigabytes)
        self._row_count = self._validation + recipe.augmentations * self._train
        self._kept_rows = min(self._row_count, int(limit / self._row_bytes))
        self._file = ActivityFile(folder, self._kept_rows, self._shape, example.dtype)
        self._shift_colours: bool | None = None

    def batches(
        self, loader: Loader, epoch: int, first_batch: int = 0, shift_colours: bool = True
    ) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch as `Loader.batches` does, with activities in place of pictures."""
        if shift_colours != self._shift_colours:  # other pictures from now on
            self._shift_colours = shift_colours
            self._file.filled[self._validation :] = False
        first_epoch = self._recipe.augmentation(epoch)
        if epoch != first_epoch:
            self._fill(loader, first_epoch, shift_colours)
        batches = loader.batch_draws(epoch, first_batch)
        missing = [indices[~self._file.has(self._rows(indices, epoch))] for indices in batches]
        with closing(loader.load([indices for indices in missing if len(indices)], epoch, shift_colours)) as loaded:
            for indices, missing_indices in zip(batches, missing, strict=True):
                computed = self._compute_next(loaded, epoch) if len(missing_indices) else None
                labels = torch.from_numpy(loader.split.labels[indices]).to(self._device)
                yield Batch(self._join(indices, missing_indices, computed, epoch), labels, indices, len(indices))

    def predict(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """Predict the validation pictures from their centres; batches as those of `predict_batches`."""
        assert len(split) == self._validation
        size, views = pictures_per_batch(self._device, 1), select_views(1, split.size, self._recipe.net.image_size)
        self._net.eval()
        for start in range(0, len(split), size):
            rows = np.arange(start, min(start + size, len(split)))
            if self._file.has(rows).all():
                activities = self._file.read(rows).to(self._device)
            else:
                activities = self._compute(make_view_batch(list(split.images(rows.tolist())), views, self._mean))
                self._file.write(rows, activities)
            with torch.inference_mode(), autocast(self._device, self._recipe):
                logits: Tensor = self.head(activities)
            yield logits.float().softmax(1)[:, None].cpu(), torch.from_numpy(split.labels[rows])

    def describe(self) -> str:
        """Return a line that says what is kept."""
        front, needed = self._recipe.frozen_front, format_bytes(self._row_count * self._row_bytes)
        line = (
            f"activities of {front[0]} to {front[-1]} are kept: of {self._recipe.augmentations} augmentations of "
            f"{self._train:,} pictures, and of {self._validation:,} validation pictures"
        )
        if self._kept_rows == self._row_count:
            return f"{line}, {needed}"
        return (
            f"{line}; only {format_bytes(self._kept_rows * self._row_bytes)} of {needed} fit (limit of "
            "the cache, free disk), the others are computed in each epoch"
        )

    def _rows(self, indices: np.ndarray, epoch: int) -> np.ndarray:
        """Return the rows of training pictures, as they are augmented in an epoch."""
        return self._validation + self._recipe.augmentation(epoch) * self._train + indices

    def _fill(self, loader: Loader, epoch: int, shift_colours: bool) -> None:
        """Compute what is missing of an epoch's activities, in its batches; after a resume, or a change of colours."""
        rows = [self._rows(indices, epoch) for indices in loader.batch_draws(epoch)]
        is_missing = [bool((~self._file.has(row) & (row < self._kept_rows)).any()) for row in rows]
        missing = [indices for indices, m in zip(loader.batch_draws(epoch), is_missing, strict=True) if m]
        with closing(loader.load(missing, epoch, shift_colours)) as loaded:
            for _ in missing:
                self._compute_next(loaded, epoch)

    def _compute_next(self, loaded: Iterator[tuple[Tensor, Tensor, np.ndarray]], epoch: int) -> Tensor:
        """Compute and keep the activities of the next pictures that a loader has loaded."""
        images, _, indices = next(loaded)
        activities = self._compute(images)
        self._file.write(self._rows(indices, epoch), activities)
        return activities

    @torch.no_grad()
    def _compute(self, images: Tensor) -> Tensor:
        """Compute the activities of centred pictures (n, 3, side, side), in micro-batches."""
        with autocast(self._device, self._recipe):
            return torch.cat([self._front(part) for part in images.split(self._micro_batch)])

    def _join(self, indices: np.ndarray, computed_indices: np.ndarray, computed: Tensor | None, epoch: int) -> Tensor:
        """Return the activities of a batch: those that have just been computed, and the others from the file."""
        if computed is not None and len(computed_indices) == len(indices):
            return computed
        is_kept = ~np.isin(indices, computed_indices)
        kept = self._file.read(self._rows(indices[is_kept], epoch)).to(self._device)
        if computed is None:
            return kept
        activities = torch.empty((len(indices), *self._shape), dtype=kept.dtype, device=self._device)
        activities = activities.to(memory_format=torch.channels_last) if activities.ndim == 4 else activities
        activities[torch.from_numpy(is_kept)], activities[torch.from_numpy(~is_kept)] = kept, computed
        return activities


def room_for_activities(folder: Path, gigabytes: float) -> float:
    """Return how many bytes of activities may be kept on the disk of a folder."""
    return min(gigabytes * _GIGABYTE, _SHARE_OF_FREE_DISK * shutil.disk_usage(folder).free)


def can_keep_activities(recipe: Recipe, gigabytes: float, team: Team) -> bool:
    """Return whether the activities of frozen layers can be kept, if the recipe has a number of augmentations."""
    if not recipe.frozen_front or not gigabytes or team.world_size > 1 or recipe.folds_in_validation:
        return False
    return recipe.balance != "sampling"  # a picture that is drawn twice in an epoch has two augmentations in it


def make_activity_cache(
    checkpointer: Checkpointer, gigabytes: float, *, micro_batch: int, progress: bool
) -> ActivityCache | None:
    """Return the cache of a training, or None where nothing is kept.

    Args:
        checkpointer: It has the run's folder, and what is trained.
        gigabytes, micro_batch: As for `ActivityCache`.
        progress: Whether to say on standard error what is kept.
    """
    recipe, store = checkpointer.recipe, checkpointer.store
    front = recipe.frozen_front
    if not can_keep_activities(recipe, gigabytes, checkpointer.team):
        return None
    if recipe.augmentations is None:
        if progress:
            note_once(
                f"in each epoch the pictures go through the frozen layers {front[0]} to {front[-1]}; "
                "augmentations=10 in the recipe gives each picture ten augmentations, whose activities are kept"
            )
        return None
    mean, folder = checkpointer.statistics.mean, checkpointer.run
    cache = ActivityCache(checkpointer.net, recipe, store, mean, folder, gigabytes=gigabytes, micro_batch=micro_batch)
    if progress:
        print(cache.describe(), file=sys.stderr)
    return cache

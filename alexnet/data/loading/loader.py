"""Shuffled training batches, which worker threads prepare while the network computes (section 5.1)."""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import (
    Augmentation,
    augment_picture,
    centre_mean,
    crop_picture,
    draw_augmentation,
    resized_mean,
)
from alexnet.data.loading.colour_shift import colour_deviation, colour_divisor
from alexnet.data.loading.sampler import balanced_draws, epoch_order
from alexnet.data.loading.transfer import HostBatch, prefetch_to_device
from alexnet.data.store.base import Split
from alexnet.data.store.statistics import Statistics
from alexnet.distributed.collectives import shard_rows
from alexnet.kernels.augment import crop_batch, transform_batch
from alexnet.recipe import Recipe
from alexnet.utils.prefetch import prefetch

_Arrays = tuple[Tensor, Tensor, np.ndarray]  # the images, labels and indices of a batch, or of a shard of it


@dataclass(frozen=True)
class Batch:
    """Pictures as the network takes them, and their labels.

    Attributes:
        images: (N, 3, crop, crop) float32, centred, in channels_last memory.
        labels: (N,) int64.
        indices: (N,) int64, the indices of the pictures in their split; always in host memory.
        total: The number of pictures of the full batch, of which this may be a shard.
    """

    images: Tensor
    labels: Tensor
    indices: np.ndarray
    total: int


class Loader:
    """Shuffled batches of augmented training pictures.

    The batches depend only on the recipe, not on the number of workers or the device. For a CPU, the workers augment
    the pictures. For a GPU, they only cut out the crops, which are copied to the GPU one batch ahead; the GPU does the
    rest.

    Args:
        split: The pictures.
        statistics: The statistics of the training pictures.
        recipe: Its seed, batch size and augmentation are used.
        image_size: The side of the training crops, in pixels; the network's by default. Smaller ones show the same part
            of the picture as the network's would.
        workers: The number of threads that prepare batches; 0 prepares each batch when it is asked for. (All slow
            steps run without Python's global lock. So threads are as fast as processes, without their copies.)
        buffer_size: The number of batches that are prepared ahead; raised to workers + 1 if it is less.
        device: The device of the batches; the CPU by default.
        shard, num_shards: Which shard of each batch to prepare, from 0, and the number of shards (`shard_rows`).

    Attributes:
        seconds_waited: The time that the caller has waited for batches.
        augments_on_device: Whether the device augments the crops; true for a GPU.
        mean_activity: (crop, crop, 3) float32, the mean activity that is subtracted.

    Raises:
        ValueError: The stored pictures are smaller than the network's input.
    """

    def __init__(
        self,
        split: Split,
        statistics: Statistics,
        recipe: Recipe,
        *,
        image_size: int | None = None,
        workers: int = 1,
        buffer_size: int = 3,
        device: torch.device | None = None,
        shard: int = 0,
        num_shards: int = 1,
    ) -> None:
        crop = recipe.net.image_size
        if split.size < crop:
            raise ValueError(
                f"the store's pictures must be at least as large as the net's input of {crop} pixels; "
                f"got {split.size}: prepare the store again with `size={recipe.store_size}`"
            )
        self.split, self.statistics, self.recipe = split, statistics, recipe
        self.workers = workers
        self.buffer_size = max(buffer_size, workers + 1)  # else some workers would have nothing to do
        self.device = device or torch.device("cpu")
        self.shard, self.num_shards = shard, num_shards
        self.augments_on_device = self.device.type == "cuda"
        self.seconds_waited = 0.0
        self._image_size = image_size or crop
        self.mean_activity = resized_mean(centre_mean(statistics.mean, crop), self._image_size)

    def __len__(self) -> int:
        """The number of batches of an epoch; the last one may be smaller."""
        return -(-len(self.split) // self.recipe.batch_size)

    def batches(self, epoch: int, first_batch: int = 0, shift_colours: bool = True) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch.

        An exception in a worker is raised here. Closing the generator ends the threads.

        Args:
            epoch: The number of the epoch, from 0. With the seed it decides the order and the augmentation.
            first_batch: The number of the first batch, to continue in the middle of an epoch.
            shift_colours: Whether to shift the colours and divide by the recipe's colour_divisor.
        """
        full_batches = self.batch_draws(epoch, first_batch)
        shards = [full[shard_rows(len(full), self.shard, self.num_shards)[0]] for full in full_batches]
        with closing(self.load(shards, epoch, shift_colours)) as loaded:
            for full in full_batches:
                images, labels, indices = next(loaded)
                yield Batch(images, labels, indices, len(full))

    def batch_draws(self, epoch: int, first_batch: int = 0) -> list[np.ndarray]:
        """Return the draws of each full batch of an epoch, from `first_batch` on.

        A draw is the index of a picture; with balanced sampling as in `balanced_draws`.
        """
        size, seed = self.recipe.batch_size, self.recipe.seed
        if self.recipe.balance == "sampling":
            order = balanced_draws(self.split.labels, seed=seed, epoch=epoch)
        else:
            order = epoch_order(len(self.split), seed=seed, epoch=epoch)
        return [order[start : start + size] for start in range(first_batch * size, len(order), size)]

    def load(
        self, draw_arrays: list[np.ndarray], epoch: int, shift_colours: bool = True
    ) -> Generator[_Arrays, None, None]:
        """Yield images, labels and indices for each array of draws, augmented as in an epoch.

        Args:
            draw_arrays: (n,) each, draws as of `batch_draws`.
            epoch, shift_colours: As for `batches`.
        """
        prepare = self._augment_on_device if self.augments_on_device else self._augment_on_cpu
        with closing(prepare(draw_arrays, epoch, shift_colours)) as prepared:
            for _ in draw_arrays:
                started = time.perf_counter()
                arrays = next(prepared)
                self.seconds_waited += time.perf_counter() - started
                yield arrays

    def _augment_on_cpu(
        self, shards: list[np.ndarray], epoch: int, shift_colours: bool
    ) -> Generator[_Arrays, None, None]:
        """Yield a batch for each array of draws; the workers do all steps."""
        crop, divisor = self._image_size, colour_divisor(self.recipe, shift_colours)

        def make_batch(draws: np.ndarray) -> _Arrays:
            augmentation = self._draw_augmentation(draws, epoch, shift_colours)
            indices = draws % len(self.split)
            images = np.empty((len(indices), crop, crop, 3), np.float32)
            for n, picture in enumerate(self.split.images(indices.tolist())):
                augment_picture(picture, augmentation, n, self.mean_activity, divisor, images[n])
            labels = torch.from_numpy(self.split.labels[indices])
            return torch.from_numpy(images).permute(0, 3, 1, 2), labels, indices

        return prefetch(make_batch, shards, workers=self.workers, buffer_size=self.buffer_size)

    def _augment_on_device(
        self, shards: list[np.ndarray], epoch: int, shift_colours: bool
    ) -> Generator[_Arrays, None, None]:
        """Yield a batch for each array of draws; the workers cut out crops, the device does the rest."""
        crop, pinned = self._image_size, self.device.type == "cuda"
        mean, divisor = torch.from_numpy(self.mean_activity).to(self.device), colour_divisor(self.recipe, shift_colours)

        def fill(batch: HostBatch) -> HostBatch:
            return self.fill_host_batch(batch, epoch, shift_colours)

        def transfer(batch: HostBatch) -> tuple[Tensor, Tensor]:
            crops, reflect, colour_shift, labels = batch.to(self.device)
            return transform_batch(crops, reflect, mean, colour_shift, divisor), labels

        # Memory is pinned here, in the thread of the caller. So no other thread calls CUDA, which would break the
        # capture of a CUDA graph that the caller may have begun.
        empty_batches = (HostBatch.empty(draws, crop, pinned) for draws in shards)
        with closing(prefetch(fill, empty_batches, workers=self.workers, buffer_size=self.buffer_size)) as filled:
            for batch, (images, labels) in prefetch_to_device(filled, transfer, self.device):
                yield images, labels, batch.draws % len(self.split)

    def fill_host_batch(self, batch: HostBatch, epoch: int, shift_colours: bool = True) -> HostBatch:
        """Write the crops, the augmentation and the labels of the batch's pictures into its tensors; return it."""
        crops, augmentation = batch.crops.numpy(), self._draw_augmentation(batch.draws, epoch, shift_colours)
        indices = batch.draws % len(self.split)
        addresses = self.split.memory_addresses(indices)
        if addresses is not None and (augmentation.side == crops.shape[1]).all():
            crop_batch(addresses, self.split.size, augmentation.top, augmentation.left, crops)
        else:
            for n, picture in enumerate(self.split.images(indices.tolist())):
                crop_picture(picture, augmentation, n, crops[n])
        batch.reflect.numpy()[:] = augmentation.reflect
        batch.colour_shift.numpy()[:] = augmentation.colour_shift
        batch.labels.numpy()[:] = self.split.labels[indices]
        return batch

    def _draw_augmentation(self, draws: np.ndarray, epoch: int, shift_colours: bool) -> Augmentation:
        """Draw the augmentation of the pictures as the recipe says."""
        recipe = self.recipe
        return draw_augmentation(
            draws,
            seed=recipe.seed,
            epoch=recipe.augmentation(epoch),
            size=self.split.size,
            crop=recipe.net.image_size,
            reflect=recipe.reflect,
            crop_area=recipe.crop_area,
            random_crops=recipe.crops == "random",
            colour_deviation=colour_deviation(recipe, shift_colours),
            statistics=self.statistics,
        )

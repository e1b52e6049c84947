"""From a prepared set to shuffled, resumable training batches, made while the device works (section 5.1)."""

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
    cut_crop,
    draw_augmentation,
    epoch_order,
)
from alexnet.data.loading.transfer import prefetch_to_device
from alexnet.data.store.base import Split
from alexnet.data.store.statistics import Statistics
from alexnet.distributed.collectives import shard_rows
from alexnet.kernels.augment import crop_batch, transform_batch
from alexnet.recipe import Recipe
from alexnet.utils.prefetch import prefetch

Made = tuple[Tensor, Tensor, np.ndarray]
"""Images, labels and indices of a batch, or of a part of it."""


@dataclass(frozen=True)
class Batch:
    """Pictures ready for the net, and where they come from.

    Attributes:
        images: (N, 3, crop, crop) float32, centred, in channels_last memory.
        labels: (N,) int64.
        indices: (N,) int64, the pictures' places in their set; in the computer's memory, wherever the others are.
        total: Pictures of the whole batch, of which this may be a part.
    """

    images: Tensor
    labels: Tensor
    indices: np.ndarray
    total: int


@dataclass(frozen=True)
class HostBatch:
    """What travels to a GPU: the bytes of a batch and what is to be done to them there; in pinned memory.

    Attributes:
        squares: (N, crop, crop, 3) uint8.
        reflect: (N,) bool.
        colour: (N, 3) float32, amounts to be added to R, G and B.
        labels: (N,) int64.
        indices: (N,) int64.
    """

    squares: Tensor
    reflect: Tensor
    colour: Tensor
    labels: Tensor
    indices: np.ndarray

    @classmethod
    def empty(cls, indices: np.ndarray, crop: int, pinned: bool) -> "HostBatch":
        """Room for the squares of some pictures; pinned memory is taken from torch's store of it, and goes back."""
        count = len(indices)

        def room(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=pinned)

        return cls(
            room(count, crop, crop, 3, dtype=torch.uint8),
            room(count, dtype=torch.bool),
            room(count, 3, dtype=torch.float32),
            room(count, dtype=torch.int64),
            indices,
        )

    def to(self, device: torch.device) -> tuple[Tensor, ...]:
        """The four tensors on a device, which may still be copying them."""
        tensors = (self.squares, self.reflect, self.colour, self.labels)
        return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


class Loader:
    """Training batches of a set, the same for the same recipe whatever the number of workers and the device.

    For a CPU the workers make the floats. For a GPU they only cut out bytes, which are sent one batch ahead; the GPU
    makes the floats.

    Args:
        split: The pictures.
        statistics: Of the training part: mean activity and colour components.
        recipe: Its seed, batch size and what is drawn for each picture.
        workers: Threads that make batches; 0 makes each when it is asked for. (Everything heavy runs without Python's
            lock, so threads do what processes would, without copies.)
        buffer_size: Batches made ahead, at least as many as there are workers and one.
        device: Where the batches are wanted.
        shard, num_shards: Which shard of each batch to make, from 0, and how many there are (`shard_rows`).

    Attributes:
        waited: Seconds the caller has waited for batches.
        augments_on_device: Whether bytes are sent to the device, to be made floats there: where it is a GPU.

    Raises:
        ValueError: The stored pictures are smaller than the net's input.
    """

    def __init__(
        self,
        split: Split,
        statistics: Statistics,
        recipe: Recipe,
        *,
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
                f"got {split.size}: prepare the store anew with size {recipe.store_size}"
            )
        self.split, self.statistics, self.recipe = split, statistics, recipe
        self.workers, self.buffer_size = (
            workers,
            max(buffer_size, workers + 1),
        )  # else more workers would have nothing to do
        self.device = device or torch.device("cpu")
        self.shard, self.num_shards = shard, num_shards
        self.augments_on_device = self.device.type == "cuda"
        self.seconds_waited = 0.0
        self._mean = centre_mean(statistics.mean, crop)

    def __len__(self) -> int:
        """Batches per epoch, the last one possibly short."""
        return -(-len(self.split) // self.recipe.batch_size)

    def batches(self, epoch: int, first_batch: int = 0, shift_colours: bool = True) -> Generator[Batch, None, None]:
        """The batches of an epoch, in an order drawn from the seed and the epoch.

        Args:
            epoch: Which epoch, from 0.
            first_batch: The number of the first batch wanted, to go on in the middle of an epoch.
            shift_colours: Whether to shift the colours, and divide by the recipe's colour_divisor.

        Yields:
            Batches; an exception in a worker is raised here. Closing the generator ends its threads.
        """
        size, seed = self.recipe.batch_size, self.recipe.seed
        indices = epoch_order(len(self.split), seed=seed, epoch=epoch)
        wholes = [indices[first : first + size] for first in range(first_batch * size, len(indices), size)]
        totals = [len(whole) for whole in wholes]
        parts = [whole[shard_rows(len(whole), self.shard, self.num_shards)[0]] for whole in wholes]

        make = self._sent if self.augments_on_device else self._made
        with closing(make(parts, epoch, shift_colours)) as made:
            for total in totals:
                began = time.perf_counter()
                images, labels, of = next(made)
                self.seconds_waited += time.perf_counter() - began
                yield Batch(images, labels, of, total)

    def _made(self, parts: list[np.ndarray], epoch: int, shift_colours: bool) -> Generator[Made, None, None]:
        """The images and labels of some pictures each, whose floats the workers make."""

        def make(indices: np.ndarray) -> Made:
            draws, divisor = self._draw(indices, epoch, shift_colours), self._divisor(shift_colours)
            crop = self.recipe.net.image_size
            images = np.empty((len(indices), crop, crop, 3), np.float32)
            for n, picture in enumerate(self.split.images(indices.tolist())):
                augment_picture(picture, draws, n, self._mean, divisor, images[n])
            labels = torch.from_numpy(self.split.labels[indices])
            return torch.from_numpy(images).permute(0, 3, 1, 2), labels, indices

        return prefetch(make, parts, workers=self.workers, buffer_size=self.buffer_size)

    def _sent(self, parts: list[np.ndarray], epoch: int, shift_colours: bool) -> Generator[Made, None, None]:
        """The same, whose bytes the workers cut out and whose floats the device makes."""
        crop, pinned = self.recipe.net.image_size, self.device.type == "cuda"
        mean = torch.from_numpy(self._mean).to(self.device)

        def cut(job: HostBatch) -> HostBatch:
            return self.fill_host_batch(job, epoch, shift_colours)

        def send(job: HostBatch) -> tuple[Tensor, Tensor]:
            squares, reflect, shift, labels = job.to(self.device)
            return transform_batch(squares, reflect, mean, shift, self._divisor(shift_colours)), labels

        # Memory is pinned here, in the caller's thread: then no other one calls CUDA, which would break the capture of
        # a CUDA graph that the caller may be at.
        jobs = (HostBatch.empty(part, crop, pinned) for part in parts)
        with closing(prefetch(cut, jobs, workers=self.workers, buffer_size=self.buffer_size)) as made:
            for job, (images, labels) in prefetch_to_device(made, send, self.device):
                yield images, labels, job.indices

    def _shifts(self, shift_colours: bool) -> bool:
        return shift_colours and self.recipe.colour_deviation > 0

    def _divisor(self, shift_colours: bool) -> float:
        return self.recipe.colour_divisor if self._shifts(shift_colours) else 1.0

    def _draw(self, indices: np.ndarray, epoch: int, shift_colours: bool) -> Augmentation:
        recipe = self.recipe
        return draw_augmentation(
            indices,
            seed=recipe.seed,
            epoch=epoch,
            size=self.split.size,
            crop=recipe.net.image_size,
            reflect=recipe.reflect,
            crop_area=recipe.crop_area,
            random_crops=recipe.crops == "random",
            colour_deviation=recipe.colour_deviation if self._shifts(shift_colours) else 0.0,
            statistics=self.statistics,
        )

    def fill_host_batch(self, job: HostBatch, epoch: int, shift_colours: bool = True) -> HostBatch:
        """Fill in what travels to a GPU, for the pictures and into the memory of `job`; returns it."""
        squares, draws = job.squares.numpy(), self._draw(job.indices, epoch, shift_colours)
        addresses = self.split.memory_addresses(job.indices)
        if addresses is not None and (draws.side == squares.shape[1]).all():
            crop_batch(addresses, self.split.size, draws.top, draws.left, squares)
        else:
            for n, picture in enumerate(self.split.images(job.indices.tolist())):
                cut_crop(picture, draws, n, squares[n])
        job.reflect.numpy()[:] = draws.reflect
        job.colour.numpy()[:] = draws.colour
        job.labels.numpy()[:] = self.split.labels[job.indices]
        return job

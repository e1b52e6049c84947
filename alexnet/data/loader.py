"""From a prepared set to shuffled, resumable training batches, made while the device works (section 5.1)."""

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alexnet.data.ahead import in_order
from alexnet.data.augment import centre_mean, draw, order, train_picture
from alexnet.data.store import Split, Statistics
from alexnet.recipe import Recipe


@dataclass(frozen=True)
class Batch:
    """Pictures ready for the net, and where they come from.

    Attributes:
        images: (N, 3, crop, crop) float32, centred, in channels_last memory.
        labels: (N,) int64.
        indices: (N,) int64, the pictures' places in their set.
    """

    images: Tensor
    labels: Tensor
    indices: np.ndarray


class Loader:
    """Training batches of a set, the same for the same recipe whatever the number of workers.

    Args:
        split: The pictures.
        statistics: Of the training part: mean activity and colour components.
        recipe: Its seed, batch size and what is drawn for each picture.
        workers: Threads that make batches; 0 makes each when it is asked for. (Everything heavy runs without Python's
            lock, so threads do what processes would, without copies.)
        ahead: Batches made ahead, at least as many as there are workers and one.

    Attributes:
        waited: Seconds the caller has waited for batches.

    Raises:
        ValueError: The stored pictures are smaller than the net's input.
    """

    def __init__(
        self, split: Split, statistics: Statistics, recipe: Recipe, *, workers: int = 1, ahead: int = 3
    ) -> None:
        crop = recipe.net.image_size
        if split.size < crop:
            raise ValueError(
                f"the store's pictures must be at least as large as the net's input of {crop} pixels; "
                f"got {split.size}: prepare the store anew with size {recipe.store_size}"
            )
        self.split, self.statistics, self.recipe = split, statistics, recipe
        self.workers, self.ahead = workers, max(ahead, workers + 1)  # else more workers would have nothing to do
        self.waited = 0.0
        self._mean = centre_mean(statistics.mean, crop)

    def __len__(self) -> int:
        """Batches per epoch, the last one possibly short."""
        return -(-len(self.split) // self.recipe.batch_size)

    def batches(self, epoch: int, start: int = 0, colour: bool = True) -> Generator[Batch, None, None]:
        """The batches of an epoch, in an order drawn from the seed and the epoch.

        Args:
            epoch: Which epoch, from 0.
            start: The number of the first batch wanted, to go on in the middle of an epoch.
            colour: Whether to shift the colours (and divide by the recipe's divisor, which makes up for the shift).

        Yields:
            Batches; an exception in a worker is raised here. Closing the generator ends its threads.
        """
        size, seed = self.recipe.batch_size, self.recipe.seed
        indices = order(len(self.split), seed=seed, epoch=epoch)
        parts = [indices[first : first + size] for first in range(start * size, len(indices), size)]

        def make(part: np.ndarray) -> Batch:
            return self._make(part, epoch, colour)

        with closing(in_order(make, parts, workers=self.workers, ahead=self.ahead)) as made:
            while True:
                began = time.perf_counter()
                batch = next(made, None)
                self.waited += time.perf_counter() - began
                if batch is None:
                    return
                yield batch

    def _make(self, indices: np.ndarray, epoch: int, colour: bool) -> Batch:
        recipe, crop = self.recipe, self.recipe.net.image_size
        shift = colour and recipe.colour_deviation > 0
        draws = draw(
            indices,
            seed=recipe.seed,
            epoch=epoch,
            size=self.split.size,
            crop=crop,
            reflect=recipe.reflect,
            crop_area=recipe.crop_area,
            colour_deviation=recipe.colour_deviation if shift else 0.0,
            statistics=self.statistics,
        )
        divisor = recipe.colour_divisor if shift else 1.0
        images = np.empty((len(indices), crop, crop, 3), np.float32)
        for n, index in enumerate(indices):
            train_picture(self.split.image(int(index)), draws, n, self._mean, divisor, images[n])
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(self.split.labels[indices]), indices
        )

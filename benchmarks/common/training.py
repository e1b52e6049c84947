"""The batches of this project's training step, and its arithmetic."""

from collections.abc import Iterator
from contextlib import closing
from itertools import count

import torch
from torch import Tensor

from alexnet.data.loading.loader import Batch, Loader
from alexnet.models.alexnet import AlexNet


def endless_batches(loader: Loader) -> Iterator[Batch]:
    """Yield a loader's full batches, epoch after epoch."""
    for epoch in count():
        with closing(loader.batches(epoch)) as batches:
            for batch in batches:
                if len(batch.labels) == loader.recipe.batch_size:
                    yield batch


def random_batch(batch_size: int, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random images (N, 3, 224, 224), channels_last, and labels (N,) on a device."""
    images = torch.randn(batch_size, 3, 224, 224, device=device).mul_(50).to(memory_format=torch.channels_last)
    return images, torch.randint(classes, (batch_size,), device=device)


def training_flop(net: AlexNet) -> float:
    """Return the FLOP of training on one picture: of the convolutions and the fully connected layers.

    Each layer computes its output and the gradients of its weights and its input; the first layer's input needs none.
    """
    sides = net.net.sides()
    total = 0.0
    for number, (name, layer) in enumerate(net.layers().items()):
        positions = sides[name][0] ** 2 if name in sides else 1
        total += (3 if number else 2) * 2 * layer.weight.numel() * positions
    return total

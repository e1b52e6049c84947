"""Other programs' nets that the benchmarks compare with, written with torch.nn, and a training step for them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.recipe import Recipe
from alexnet.training.precision import autocast


class TowerResponseNorm(nn.Module):
    """torch's LocalResponseNorm within each of two towers, with the paper's constants.

    torch divides alpha by the size of the window and the paper does not, so alpha is five times the paper's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, channels, height, width); the first half of the channels is the first tower."""
        return torch.cat([self.norm(tower) for tower in x.chunk(2, 1)], 1)


def torch_nn_alexnet(classes: int) -> nn.Module:
    """Return the paper's net as a user of torch would write it, from torch.nn's layers."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), TowerResponseNorm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), TowerResponseNorm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        nn.Linear(4096, classes),
    )


def torchvision_alexnet(classes: int) -> nn.Module:
    """Return torchvision.models.alexnet: one tower, 64-192-384-256-256 feature maps, no normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True)),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True)),
        nn.Linear(4096, classes),
    )


def make_peer_step(net: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe) -> Callable[[], None]:
    """Return a function that trains a net for one step with torch.optim.SGD, always on the same batch.

    Args:
        net: The net to train.
        images: (N, 3, 224, 224), on the device of the net.
        labels: (N,), on the same device.
        recipe: The recipe whose learning rate and precision are used.
    """
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with autocast(images.device, recipe):
            logits = net(images)
        optimiser.zero_grad()
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()

    return step

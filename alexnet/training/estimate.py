"""How long a training will take here, and how much disk, judged by a few of its steps."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.schedule import make_schedule
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.step import EAGER_STEPS, Step
from alexnet.utils.device import choose_device

_MEASURED_STEPS = {"cpu": 2, "cuda": 20}
FORWARD_SHARE = 1 / 3  # of a step's arithmetic: a backward pass is twice a forward one
_CHECKPOINTS = 2  # kept by default; each has weights and velocities


@dataclass(frozen=True)
class TrainingEstimate:
    """What a training will take.

    Args:
        seconds: The time of all epochs; the loading of batches and the evaluation at the end are not in it.
        disk_bytes: The size of the checkpoints.
    """

    seconds: float
    disk_bytes: int


def estimate_training(
    recipe: Recipe, classes: int, train_count: int, val_count: int, device: str | torch.device | None = None
) -> TrainingEstimate:
    """Make a few steps on random pictures, and estimate what all epochs will take.

    Args:
        recipe: The recipe; its epochs are taken as they are, although some schedules may end before.
        classes: The number of classes.
        train_count: The number of training pictures.
        val_count: The number of pictures on which the error is measured after each epoch.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
    """
    chosen = choose_device(device)
    with torch.random.fork_rng(devices=[chosen] if chosen.type == "cuda" else []):
        net = AlexNet(classes, recipe.net).to_channels_last(chosen)
        seconds_per_picture = _time_step(net, recipe) / recipe.batch_size
    pictures = train_count + FORWARD_SHARE * val_count
    parameters = sum(parameter.numel() for parameter in net.parameters())
    disk_bytes = 4 * parameters * (2 * _CHECKPOINTS + (1 if val_count else 0))
    return TrainingEstimate(recipe.epochs * pictures * seconds_per_picture, disk_bytes)


def make_train_step(net: AlexNet, recipe: Recipe) -> Callable[[Tensor, Tensor], object]:
    """Return a function that trains a net for one step on images and labels, as the training loop does."""
    optimiser = SGD(
        parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum, decay=recipe.decay
    )
    step, schedule = Step(net, optimiser, recipe), make_schedule(recipe)

    def train_step(images: Tensor, labels: Tensor) -> object:
        set_learning_rates(optimiser, schedule.rates_at(0))
        return step(images, labels)

    return train_step


def _time_step(net: AlexNet, recipe: Recipe) -> float:
    """Return the seconds of a step on a full batch of random pictures."""
    step, crop = make_train_step(net.train(), recipe), recipe.net.image_size
    images = torch.randn(recipe.batch_size, 3, crop, crop, device=net.device).mul_(50)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(net.classes, (recipe.batch_size,), device=net.device)
    steps = _MEASURED_STEPS[net.device.type]
    for _ in range(EAGER_STEPS + 2 if net.device.type == "cuda" else 1):  # until all is compiled and captured
        step(images, labels)
    synchronise(net.device)
    start = time.perf_counter()
    for _ in range(steps):
        step(images, labels)
    synchronise(net.device)
    return (time.perf_counter() - start) / steps


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has computed all that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

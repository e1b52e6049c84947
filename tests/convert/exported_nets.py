"""Nets and runs to export: small ones of every recipe's geometry, whose logits depend on the picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.architecture import Net
from alexnet.data.loading.augment import centre_mean
from alexnet.data.store.statistics import Statistics
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import Checkpoint, TrainState, load_best, save_checkpoint

NAMES = ("wren", "house sparrow", "jay, blue", "Grünfink", "robin", "crow", "owl")


def random_squares(count: int, side: int, seed: int = 0) -> list[np.ndarray]:
    """Return pictures (side, side, 3) uint8, each with a colour and a contrast of its own."""
    random = np.random.default_rng(seed)
    centres, deviations = random.uniform(60, 200, (count, 3)), random.uniform(5, 60, count)
    noise = random.normal(size=(count, side, side, 3))
    values = centres[:, None, None] + deviations[:, None, None, None] * noise
    return list(values.clip(0, 255).astype(np.uint8))


def to_pixels(squares: Sequence[np.ndarray]) -> Tensor:
    """Return pictures as (N, 3, side, side) float32 in 0..255."""
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float()


def random_mean(side: int, seed: int = 0) -> np.ndarray:
    """Return a mean activity (3, side, side) float32, different at each pixel."""
    return np.random.default_rng(seed).uniform(90, 150, (3, side, side)).astype(np.float32)


@torch.no_grad()
def lively_net(net: Net, classes: int = len(NAMES)) -> AlexNet:
    """Return a net in evaluation mode whose logits differ by about 1 from picture to picture."""
    torch.manual_seed(0)
    model = AlexNet(classes, replace(net, start="he")).eval()
    for layer in model.layers().values():
        assert layer.bias is not None
        nn.init.normal_(layer.bias, 0.0, 0.1)
    size = net.image_size
    outputs = model(to_pixels(random_squares(4, size, seed=1)) - 120)
    [*model.layers().values()][-1].weight /= outputs.std(0).mean()
    model.net = net
    return model


def narrow_net(net: Net) -> Net:
    """Return a net with few maps and units, its maps of the same sides."""
    convs = {name: replace(conv, maps=8 + 4 * int(name[-1])) for name, conv in net.convs().items()}
    return replace(net, **convs, **{name: replace(full, units=14) for name, full in net.hidden().items()})


def narrow_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe with a narrow net, which computes in float32."""
    return replace(recipe, net=narrow_net(recipe.net), precision="float32")


def write_run(run: Path, recipe: Recipe, classes: tuple[str, ...] = NAMES) -> Checkpoint:
    """Write a run of a net that was not trained: its recipe and its best checkpoint; return the checkpoint."""
    net = lively_net(recipe.net, len(classes))
    mean = random_mean(recipe.store_size)
    statistics = Statistics.from_covariance(mean, np.diag([900.0, 400.0, 100.0]), 10)
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    save_checkpoint(
        run / "checkpoints" / "best.safetensors",
        {f"net.{name}": tensor for name, tensor in net.state_dict().items()},
        recipe=recipe,
        classes=classes,
        statistics=statistics,
        state=TrainState(finished=True),
    )
    return load_best(run)


def crop_mean(checkpoint: Checkpoint) -> Tensor:
    """Return the mean activity of a checkpoint's crops, (3, side, side)."""
    mean = centre_mean(checkpoint.statistics.mean, checkpoint.recipe.net.image_size)
    return torch.from_numpy(mean).permute(2, 0, 1).contiguous()

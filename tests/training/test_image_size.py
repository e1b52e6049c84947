"""Smaller training crops at first (`Recipe.image_sizes`): the crops, the net, the schedule, the loop."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import small_recipe
from runs import assert_same_run
from torch import Tensor
from torch.nn import functional as F

from alexnet.architecture import Conv, Full, Net
from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.schedule import make_schedule
from alexnet.training.step import Step
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = replace(small_recipe(), image_sizes=(18, 20, 24))  # each for one of the three epochs


def two_layer_net(side: int) -> Net:
    """Return a net whose last feature maps have a quarter of the side of its pictures."""
    without = dict.fromkeys(("conv3", "conv4", "conv5", "fc7"))
    conv1 = Conv(maps=4, kernel=5, stride=2, padding=2, then=("activate", "pool"))
    return Net(image_size=side, conv1=conv1, conv2=Conv(maps=6), fc6=Full(units=8), start="he", **without)


def averaged(maps: np.ndarray, side: int) -> np.ndarray:
    """Resize maps (..., n, n) to (..., side, side): each value is the mean of the positions that its cell touches."""
    n = maps.shape[-1]
    cells = [slice(i * n // side, -(-(i + 1) * n // side)) for i in range(side)]
    rows = [[maps[..., row, column].mean((-2, -1)) for column in cells] for row in cells]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


@pytest.mark.parametrize("side", [12, 16, 20])
def test_the_maps_of_smaller_pictures_are_those_of_a_net_for_them_resized(side: int) -> None:
    torch.manual_seed(0)
    net, other = AlexNet(3, two_layer_net(24)).double(), AlexNet(3, two_layer_net(side)).double()
    other.convs.load_state_dict(net.convs.state_dict())
    pictures = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        maps = averaged(other.convs(pictures).numpy(), 6)
        logits = net.train()(pictures)
        expected = F.relu(torch.from_numpy(maps).flatten(1) @ net.hidden["fc6"][0].weight.T)  # type: ignore[index]
    torch.testing.assert_close(logits, expected @ net.fc8.weight.T)


def test_in_evaluation_only_pictures_of_the_net_s_own_size_are_taken() -> None:
    net = AlexNet(3, two_layer_net(24))
    net.train()(torch.zeros(1, 3, 16, 16))
    for side, training in ((16, False), (32, False), (32, True)):
        with pytest.raises(ValueError, match=rf"must have shape \(N, 3, 24, 24\); got \(1, 3, {side}, {side}\)"):
            net.train(training)(torch.zeros(1, 3, side, side))


@pytest.mark.parametrize("crop_area", [None, (0.3, 0.3)])
def test_smaller_crops_show_the_same_part_of_a_picture(store: Path, crop_area: tuple[float, float] | None) -> None:
    opened = Store(store)
    recipe = replace(RECIPE, crop_area=crop_area, crops="centre" if crop_area is None else "random", reflect=False)
    split, statistics = opened.split("train"), replace(opened.statistics, mean=np.zeros((3, 32, 32), np.float32))
    options: dict[str, Any] = {"epoch": 0, "shift_colours": False}
    small = [batch.images for batch in Loader(split, statistics, recipe, image_size=12).batches(**options)]
    usual = [batch.images for batch in Loader(split, statistics, recipe).batches(**options)]
    assert {tuple(images.shape[1:]) for images in small} == {(3, 12, 12)}
    for a, b in zip(torch.cat(small), torch.cat(usual), strict=True):
        resized = cv2.resize(b.permute(1, 2, 0).numpy(), (12, 12), interpolation=cv2.INTER_AREA)
        # The crops of 18 pixels are resized from the picture itself, not from 24 pixels; and pixels are whole numbers.
        difference = np.abs(a.permute(1, 2, 0).numpy() - resized)
        assert difference.mean() < (0.5 if crop_area is None else 6)


def test_the_mean_activity_is_resized_like_the_crops(store: Path) -> None:
    opened = Store(store)
    recipe = replace(RECIPE, crops="centre", reflect=False)
    options: dict[str, Any] = {"epoch": 0, "shift_colours": False}
    no_mean = replace(opened.statistics, mean=np.zeros((3, 32, 32), np.float32))
    centred, plain = (
        next(iter(Loader(opened.split("train"), statistics, recipe, image_size=12).batches(**options))).images
        for statistics in (opened.statistics, no_mean)
    )
    mean = (
        opened.statistics.mean[:, 4:28, 4:28].reshape(3, 12, 2, 12, 2).mean((2, 4))
    )  # the centre of 24 pixels, halved
    torch.testing.assert_close(plain - centred, torch.from_numpy(mean).expand(10, 3, 12, 12), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("sizes", "epochs", "expected"),
    [
        ((18, 20, 24), 6, [18, 18, 20, 20, 24, 24]),
        ((18, 24), 5, [18, 18, 24, 24, 24]),
        ((18, 20, 24), 1, [24]),
        ((20, 32), 2, [20, 24]),  # at most the net's own side
        ((), 2, [24, 24]),
    ],
)
def test_each_size_has_an_equal_part_of_the_epochs(sizes: tuple[int, ...], epochs: int, expected: list[int]) -> None:
    schedule = make_schedule(replace(RECIPE, image_sizes=sizes, epochs=epochs))
    assert [schedule.image_size_in(epoch) for epoch in range(epochs)] == expected


def test_with_frozen_layers_all_crops_have_the_net_s_size() -> None:
    assert make_schedule(replace(RECIPE, frozen=("conv1",))).image_size_in(0) == 24


def test_a_training_takes_the_sizes_of_its_schedule_and_resumes_to_the_same_bits(
    store: Path, tmp_path: Path, after_step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []

    def record(step: Step, images: Tensor, labels: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
        sides.append(images.shape[-1])
        return make_step(step, images, labels, total)

    make_step = Step.__call__
    monkeypatch.setattr(Step, "__call__", record)
    train(store, tmp_path / "uninterrupted", RECIPE, progress=False)
    assert sides == [18] * 5 + [20] * 5 + [24] * 5
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n in (7, 10) else None)
    while not train(store, tmp_path / "run", RECIPE, progress=False).finished:
        pass
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")
    assert sides[15:] == sides[:15]


LOCAL = replace(two_layer_net(24), conv2=Conv(maps=6, shared=False))


@pytest.mark.parametrize(
    ("net", "schedule", "side", "message"),
    [
        (RECIPE.net, "cosine", 0, "image_sizes must be whole numbers of at least 1; got 0"),
        (Net(), "changes", 20, "image_sizes must be large enough for the net's layers; got 20: .*"),
        (LOCAL, "cosine", 20, "image_sizes must be empty, since each position of conv2 has its own kernels; got 20"),
        (Net(), "plateau", 128, 'image_sizes must be empty with schedule "plateau", .*; got \\(128,\\)'),
    ],
)
def test_a_size_that_the_net_cannot_be_trained_on_is_refused(net: Net, schedule: Any, side: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe(net=net, store_size=256, schedule=schedule, image_sizes=(side,))

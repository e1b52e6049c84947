"""Padding and windows at the edges, from 224 to 55 (section 4.5, Figure 2), against explicit loops."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_nets import build_net, random_pictures
from torch import nn
from torch.nn import functional as F

from alexnet.architecture import Conv, Net
from alexnet.models.layers import Convolution

pytestmark = pytest.mark.usefixtures("one_thread")


def test_zeros_are_added_on_the_right_and_at_the_bottom_only() -> None:
    layer = Convolution(3, Net().conv1, towers=1, side=224)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        y = layer(torch.ones(1, 3, 224, 224))[0, 0]
    assert layer.right_bottom_padding == 3
    assert y.shape == (55, 55)
    inside, edge, corner = 3 * 11 * 11, 3 * 11 * 8, 3 * 8 * 8  # the last kernels reach 3 pixels past the picture
    expected = torch.full((55, 55), float(inside))
    expected[54, :] = expected[:, 54] = edge
    expected[54, 54] = corner
    assert torch.equal(y, expected)


def test_conv1_is_the_sum_over_its_window_written_as_loops() -> None:
    torch.manual_seed(0)
    conv = replace(Net().conv1, maps=4)
    layer = Convolution(3, conv, towers=1, side=224).double()
    x = random_pictures(1)
    with torch.no_grad():
        y = layer(x)[0].numpy()
        expected = F.conv2d(F.pad(x, (0, 3, 0, 3)), layer.weight, layer.bias, stride=4)[0].numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-11)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()  # type: ignore[union-attr]
    pixel = x[0].numpy()
    for row, column in [(0, 0), (54, 54), (54, 3), (20, 54)]:
        for k in range(4):
            total = bias[k]
            for channel in range(3):
                for i in range(11):
                    for j in range(11):
                        if 4 * row + i < 224 and 4 * column + j < 224:
                            total += weight[k, channel, i, j] * pixel[channel, 4 * row + i, 4 * column + j]
            assert y[k, row, column] == pytest.approx(total, rel=1e-11)


@pytest.mark.parametrize("side", range(7, 16))
@pytest.mark.parametrize("channels", [3, 6])  # over squares of the stride, and not
def test_rounded_down_a_convolution_is_torchs(side: int, channels: int) -> None:
    conv = Conv(maps=2, kernel=5, stride=3, padding=2, rounding="down")
    layer = Convolution(channels, conv, towers=1, side=side).double()
    assert layer.uses_squares == (channels == 3)
    x = random_pictures(1, side).repeat(1, channels // 3, 1, 1)
    with torch.no_grad():
        y, expected = layer(x), F.conv2d(x, layer.weight, layer.bias, stride=3, padding=2)
    assert y.shape[2] == layer.out_side
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(
    ("image_size", "padding", "rounding", "pool_roundings", "sides"),
    [
        (224, 0, "up", ("up", "up", "up"), [(55, 27), (27, 13), (13, 13), (13, 13), (13, 6)]),  # Figure 2
        (224, 2, "down", ("down", "down", "down"), [(55, 27), (27, 13), (13, 13), (13, 13), (13, 6)]),  # torchvision
        (227, 0, "down", ("up", "up", "up"), [(55, 27), (27, 13), (13, 13), (13, 13), (13, 6)]),  # Caffe
        (224, 0, "down", ("up", "up", "up"), [(54, 27), (27, 13), (13, 13), (13, 13), (13, 6)]),
        # What the model zoo of ONNX made of Caffe's:
        (224, 0, "down", ("down", "down", "up"), [(54, 26), (26, 12), (12, 12), (12, 12), (12, 6)]),
    ],
)
def test_the_sides_of_the_known_nets(
    image_size: int, padding: int, rounding: Any, pool_roundings: Any, sides: list[tuple[int, int]]
) -> None:
    net = Net(image_size=image_size, conv1=replace(Net().conv1, padding=padding))  # type: ignore[type-var]
    pools = dict(zip(("conv1", "conv2", "conv5"), pool_roundings, strict=True))
    convs: dict[str, Any] = {
        name: replace(conv, rounding=rounding, pool_rounding=pools.get(name, "up"))
        for name, conv in net.convs().items()
    }
    assert list(replace(net, **convs).sides().values()) == sides


@pytest.mark.parametrize("side", range(7, 16))
def test_an_output_side_is_1_plus_the_rounded_up_quotient(side: int) -> None:
    conv = Conv(maps=2, kernel=5, stride=3, padding=1)
    layer = Convolution(3, conv, towers=1, side=side).double()
    x = random_pictures(1, side)
    out = 1 + math.ceil((2 * 1 + side - 5) / 3)
    with torch.no_grad():
        y = layer(x)
        expected = F.conv2d(F.pad(x, (1, 9, 1, 9)), layer.weight, layer.bias, stride=3)[..., :out, :out]
    assert y.shape == (1, 2, out, out)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("side", "size", "stride"), [(8, 3, 2), (9, 3, 2), (8, 2, 2), (7, 2, 2), (7, 3, 3)])
def test_pooling_windows_reach_past_the_right_and_bottom_edge(kind: Any, side: int, size: int, stride: int) -> None:
    conv = Conv(maps=2, kernel=1, padding=0, then=("pool",), pooling=kind)
    without = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"))
    net = Net(image_size=side, conv1=conv, pool_size=size, pool_stride=stride, **without)
    model = build_net(net)
    x = random_pictures(1, side)
    with torch.no_grad():
        before, y = model.convs["conv1"][0](x)[0].numpy(), model.convs["conv1"](x)[0].numpy()
    out = 1 + math.ceil((side - size) / stride)
    assert y.shape == (2, out, out)
    pool = np.max if kind == "max" else np.mean  # of the positions within the map
    for row in range(out):
        for column in range(out):
            window = before[:, row * stride :, column * stride :][:, :size, :size]
            np.testing.assert_allclose(y[:, row, column], pool(window, axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("side", "size", "stride"), [(8, 3, 2), (9, 3, 2), (7, 2, 2), (7, 3, 3)])
def test_rounded_down_pooling_is_torchs(kind: Any, side: int, size: int, stride: int) -> None:
    conv = Conv(maps=2, kernel=1, padding=0, then=("pool",), pooling=kind, pool_rounding="down")
    without = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"))
    net = Net(image_size=side, conv1=conv, pool_size=size, pool_stride=stride, **without)
    model, x = build_net(net), random_pictures(1, side)
    pool = {"max": F.max_pool2d, "average": F.avg_pool2d}[kind]
    with torch.no_grad():
        y, expected = model.convs["conv1"](x), pool(model.convs["conv1"][0](x), size, stride)
    assert y.shape[2] == net.sides()["conv1"][1] == (side - size) // stride + 1
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("rounding", ["up", "down"])
@pytest.mark.parametrize(("side", "size", "stride"), [(1, 3, 2), (2, 3, 2), (2, 3, 1), (1, 2, 2), (2, 2, 2)])
def test_a_net_that_can_be_described_can_run(side: int, size: int, stride: int, rounding: Any) -> None:
    conv = Conv(maps=2, kernel=1, padding=0, then=("activate", "pool"), pool_rounding=rounding)
    without = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"))
    try:
        net = Net(image_size=side, conv1=conv, pool_size=size, pool_stride=stride, **without)
    except ValueError as error:
        assert f"{side}" in str(error)  # noqa: PT017
        return
    assert build_net(net)(random_pictures(1, side)).shape == (1, 5)

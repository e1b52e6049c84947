"""Variants of the net: layers left out, other constants, other layers."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_nets import SMALL_NET, build_net, layer_shapes, meta_net, narrow_net, random_pictures
from torch.nn import functional as F

from alexnet.architecture import Conv, Full, MapNorm, Net, ResponseNorm
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import alpha_over_window
from alexnet.net_variants import one_gpu_net, with_abs_tanh, with_logistic
from alexnet.recipes import recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")


def _rounded_down(net: Net) -> Net:
    """Return a net whose convolutions and poolings are rounded down."""
    convs: dict[str, Any] = {
        name: replace(conv, rounding="down", pool_rounding="down") for name, conv in net.convs().items()
    }
    return replace(net, **convs)


VARIANTS = {
    **{f"without {name}": replace(SMALL_NET, **{name: None}) for name in ("conv2", "conv3", "conv4", "conv5")},
    "without fc6": replace(SMALL_NET, fc6=None),
    "without fc7": replace(SMALL_NET, fc7=None),
    "without hidden layers": replace(SMALL_NET, fc6=None, fc7=None),
    "conv6": replace(SMALL_NET, conv6=Conv(maps=8, all_towers=True, bias=1.0, deviation=0.03)),
    "tanh": replace(SMALL_NET, activation="tanh"),
    "logistic": with_logistic(SMALL_NET),
    "magnitude of tanh": with_abs_tanh(SMALL_NET),
    "no normalisation": replace(SMALL_NET, normalise=None),
    "pooling 2, stride 2": replace(SMALL_NET, pool_size=2, conv2=replace(SMALL_NET.conv2, padding=1)),  # type: ignore[type-var]
    "one tower": one_gpu_net(SMALL_NET),
    "four towers": replace(SMALL_NET, towers=4),
    "no dropout": replace(SMALL_NET, fc6=Full(units=8), fc7=Full(units=8)),
    "map normalisation": replace(narrow_net(recipe_named("alexnet-2012-run").net), pixel_scale=1 / 64),
    "other constants": replace(SMALL_NET, normalise=ResponseNorm(size=3, k=1, alpha=0.1, beta=0.5)),
    "normalised before the activation": replace(
        SMALL_NET, activation="tanh", conv1=replace(SMALL_NET.conv1, then=("normalise", "activate", "pool"))
    ),
    "small pictures": recipe_named("tiny").net,
    "local layers": replace(recipe_named("cifar10-11pct").net, start="he", pixel_scale=1 / 64),
    "local layers in two towers": replace(SMALL_NET, conv5=replace(SMALL_NET.conv5, shared=False)),  # type: ignore[type-var]
    "rounded down": _rounded_down(SMALL_NET),
    "padded and rounded down": _rounded_down(replace(SMALL_NET, conv1=replace(SMALL_NET.conv1, padding=2))),  # type: ignore[type-var]
    "normalised over all towers": replace(SMALL_NET, normalise=ResponseNorm(all_towers=True)),
    "dropout as in torchvision": replace(SMALL_NET, conv_dropout=0.5, dropout_scaling="train", fc7=Full(units=8)),
    "wide map normalisation": replace(
        recipe_named("cifar10-18pct").net, normalise_map=MapNorm(size=5, alpha=0.1), start="he", pixel_scale=1 / 64
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_runs_forward_and_backward_through_every_layer(name: str) -> None:
    net = VARIANTS[name]
    torch.manual_seed(0)
    model = AlexNet(5, net)
    assert tuple(model.layers()) == net.layers()
    y = model(random_pictures(4, net.image_size).float())
    assert y.shape == (4, 5)
    F.cross_entropy(y, torch.arange(4)).backward()
    for layer, module in model.layers().items():
        for parameter in module.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all(), layer
            assert parameter.grad.any(), layer
    shapes = layer_shapes(model.eval(), random_pictures(1, net.image_size).float())
    sides = {name: (inner[1], last[1]) for name, (inner, last) in shapes.items() if name.startswith("conv")}
    assert sides == net.sides()


def test_conv6_reads_both_towers_pooled_maps() -> None:
    """Net 146 (section 7, 2012-source.md): 256 maps of 3 x 3 over the 6 x 6 maps of conv5."""
    net, x = meta_net(replace(Net(), conv6=Conv(maps=256, all_towers=True, bias=1.0, deviation=0.03)))
    assert tuple(net.layers()["conv6"].weight.shape) == (256, 256, 3, 3)
    assert layer_shapes(net, x)["conv6"] == ((256, 6, 6), (256, 6, 6))


def test_without_normalisation_nothing_but_normalisation_is_missing() -> None:
    net = narrow_net(Net())
    normalised, divided_by_1 = build_net(net), build_net(replace(net, normalise=ResponseNorm(k=1, alpha=0.0)))
    without = build_net(replace(net, normalise=None))
    x = random_pictures(1)
    torch.testing.assert_close(without(x), divided_by_1(x))
    assert not torch.allclose(without(x), normalised(x))


def test_two_conventions_of_alpha_differ_by_the_window() -> None:
    assert alpha_over_window(ResponseNorm(alpha_over_size=False)) == 1e-4
    assert alpha_over_window(ResponseNorm(alpha_over_size=True)) == 1e-4 / 5
    assert alpha_over_window(MapNorm()) == 1e-3 / 25
    net, x = narrow_net(Net()), random_pictures(1)
    divided = build_net(replace(net, normalise=ResponseNorm(alpha_over_size=True)))
    fifth = build_net(replace(net, normalise=ResponseNorm(alpha=1e-4 / 5)))
    assert torch.equal(divided(x), fifth(x))
    assert not torch.allclose(divided(x), build_net(net)(x), rtol=1e-6)

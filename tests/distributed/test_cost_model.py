"""The bytes that a step sends, against numbers computed by hand from Figure 2."""

from dataclasses import replace

import pytest
import torch

from alexnet.architecture import Net, ResponseNorm
from alexnet.distributed.cost_model import LayerSize, Traffic, connect_all_towers, layer_sizes, traffic
from alexnet.models.alexnet import AlexNet
from alexnet.recipes import RECIPES, recipe_named


def by_layer(rows: list[Traffic]) -> dict[str, Traffic]:
    return {row.layer: row for row in rows}


def test_two_towers_send_the_activations_of_figure_2() -> None:
    rows = by_layer(traffic(Net(), 1000, 128, "towers", 2))
    sent = {
        "conv3": 128 * 128 * 13 * 13,  # 128 pictures, half of the 256 pooled maps of 13 x 13
        "fc6": 128 * 128 * 6 * 6,
        "fc7": 128 * 2048,
        "fc8": 128 * 2048,
    }
    assert {name: row.forward for name, row in rows.items() if row.forward and name != "softmax"} == {
        name: 4 * count for name, count in sent.items()
    }
    assert all(row.backward == row.forward for name, row in rows.items() if name != "softmax")
    assert rows["softmax"] == Traffic(layer="softmax", forward=128 * (2 * 8 + 3 * 4), backward=0, gradients=0)
    assert all(row.gradients == 0 for row in rows.values())  # each process has its own weights
    half = by_layer(traffic(Net(), 1000, 128, "towers", 2, activity_bytes=2))
    assert half["conv3"].forward == 2 * sent["conv3"]
    assert half["softmax"] == rows["softmax"]


def test_with_all_towers_connected_every_convolution_gathers() -> None:
    rows = by_layer(traffic(connect_all_towers(Net()), 1000, 128, "towers", 2))
    assert [rows[f"conv{n}"].forward // 4 // 128 for n in range(1, 6)] == [
        0,  # it reads the picture
        48 * 27 * 27,
        128 * 13 * 13,
        192 * 13 * 13,
        192 * 13 * 13,
    ]
    assert rows["fc6"] == by_layer(traffic(Net(), 1000, 128, "towers", 2))["fc6"]


def test_data_parallelism_averages_every_gradient_and_sends_nothing_else() -> None:
    rows = by_layer(traffic(Net(), 1000, 128, "data", 4))
    assert all(row.forward == row.backward == 0 for row in rows.values())
    weights = 60_965_224  # the 2012 program's count, biases included
    assert sum(row.gradients for row in rows.values()) == 2 * 3 * 4 * weights // 4
    assert rows["conv1"].gradients == 2 * 3 * 4 * 34_944 // 4


def test_towers_combine_with_data_parallelism() -> None:
    rows = by_layer(traffic(Net(), 1000, 256, "towers", 8))  # four groups of 64 pictures
    assert rows["conv3"].forward == 4 * 64 * 128 * 13 * 13
    assert rows["fc7"].gradients == 2 * 3 * (4 * (4096 + 1) * 2048) // 4
    assert sum(row.gradients for row in rows.values()) == 2 * 3 * 4 * (60_965_224 // 2) // 4


def test_hybrid_gathers_pictures_and_sends_no_gradients_of_full_layers() -> None:
    rows = by_layer(traffic(Net(), 1000, 512, "hybrid", 4))
    assert rows["fc6"].forward == rows["fc6"].backward == 4 * 3 * 128 * 256 * 6 * 6
    assert rows["fc7"].forward == 4 * 3 * 512 * 1024
    assert rows["conv3"].forward == 0
    assert [rows[name].gradients for name in ("fc6", "fc7", "fc8")] == [0, 0, 0]
    assert rows["softmax"].forward == 512 * 3 * (2 * 8 + 2 * 3 * 4 // 4)
    data = by_layer(traffic(Net(), 1000, 512, "data", 4))
    assert all(rows[f"conv{n}"] == data[f"conv{n}"] for n in range(1, 6))


@pytest.mark.parametrize("scheme", ["data", "hybrid"])
@pytest.mark.parametrize("name", RECIPES)
def test_one_process_sends_nothing(name: str, scheme: str) -> None:
    net = recipe_named(name).net
    rows = traffic(net, 10, 128, scheme, 1)
    assert [row.layer for row in rows] == [*net.layers(), "softmax"]
    assert sum(row.total for row in rows) == 0


@pytest.mark.parametrize("name", RECIPES)
def test_layer_sizes_are_those_of_the_net(name: str) -> None:
    net = recipe_named(name).net
    with torch.device("meta"):
        modules = AlexNet(10, net).layers()
    assert {layer.name: layer.units * layer.parameters_per_unit for layer in layer_sizes(net, 10)} == {
        name: sum(weight.numel() for weight in module.parameters()) for name, module in modules.items()
    }


def test_the_arithmetic_of_the_net_is_the_published_one() -> None:
    forward = {layer.name: layer.multiplications for layer in layer_sizes(Net(), 1000)}
    assert forward["conv1"] == 55 * 55 * 96 * 11 * 11 * 3
    assert 2 * (3 * sum(forward.values()) - forward["conv1"]) == pytest.approx(4.13e9, rel=0.002)


def test_the_busiest_process_has_the_larger_shard() -> None:
    rows = by_layer(traffic(Net(), 21_841, 130, "hybrid", 4))
    assert rows["fc6"].forward == 4 * 3 * 33 * 256 * 6 * 6  # 33, 33, 33 and 31 pictures
    towers = by_layer(traffic(Net(), 21_841, 130, "towers", 4))
    assert towers["fc8"].gradients == 2 * (4 * 4097 * 10_921) // 2
    assert towers["conv3"].forward == 4 * 65 * 128 * 13 * 13


def test_locally_connected_layers_have_weights_for_each_position() -> None:
    net = recipe_named("cifar10-11pct").net
    sizes = {layer.name: layer for layer in layer_sizes(net, 10)}
    assert isinstance(sizes["conv3"], LayerSize)
    assert sizes["conv3"].parameters_per_unit == (64 * 9 + 1) * 6 * 6
    rows = by_layer(traffic(net, 10, 128, "data", 2))
    assert rows["conv3"].gradients == 4 * 64 * (64 * 9 + 1) * 6 * 6
    assert by_layer(traffic(net, 10, 128, "hybrid", 2))["fc8"].forward == 4 * 64 * 32 * 6 * 6


@pytest.mark.parametrize(
    ("net", "batch", "scheme", "processes", "message"),
    [
        (recipe_named("cifar10-18pct").net, 128, "hybrid", 11, "classes must be at least 11"),
        (recipe_named("cifar10-80sec").net, 128, "towers", 2, "net.towers must be at least 2"),
        (Net(), 128, "towers", 3, "processes must be a multiple of net.towers 2"),
        (Net(), 128, "model", 2, "scheme must be one of data, towers, hybrid; got 'model'"),
        (Net(), 128, "data", 0, "processes must be a whole number of at least 1"),
        (Net(), 3, "data", 4, "batch must be at least 4"),
        (Net(), 3, "towers", 8, "batch must be at least 4"),
        (Net(), 128, "hybrid", 3, "fc6.units must be divisible by the 3 processes"),
    ],
)
def test_a_scheme_that_does_not_suit_the_net_is_an_error(
    net: Net, batch: int, scheme: str, processes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        traffic(net, 10, batch, scheme, processes)


def test_an_activation_has_two_or_four_bytes() -> None:
    with pytest.raises(ValueError, match="activity_bytes must be 2 or 4; got 8"):
        traffic(Net(), 10, 128, "data", 2, activity_bytes=8)


def test_a_normalisation_over_all_towers_is_refused_where_they_are_apart() -> None:
    net = replace(Net(), normalise=ResponseNorm(all_towers=True))
    with pytest.raises(ValueError, match=r'net\.normalise\.all_towers must be false for scheme "towers"'):
        traffic(net, 1000, 128, "towers", 2)
    assert traffic(net, 1000, 128, "hybrid", 2) == traffic(Net(), 1000, 128, "hybrid", 2)
    without = replace(net, conv1=replace(net.conv1, then=("pool",)), conv2=replace(net.conv2, then=("pool",)))  # type: ignore[type-var]
    assert traffic(without, 1000, 128, "towers", 2)

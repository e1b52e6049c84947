"""Bytes sent in a step, against numbers computed by hand from Figure 2, and the model of scaling that rests on them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet.architecture import Net
from alexnet.distributed.cost_model import LayerSize, Traffic, every_layer_talks, layer_sizes, traffic
from alexnet.models.alexnet import AlexNet
from alexnet.recipes import RECIPES, recipe_named

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


def by_layer(rows: list[Traffic]) -> dict[str, Traffic]:
    return {row.layer: row for row in rows}


def test_two_towers_send_what_figure_2_says() -> None:
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
    assert rows["softmax"] == Traffic(layer="softmax", forward=128 * (2 * 8 + 3 * 4), backward=0, weights=0)
    assert all(row.weights == 0 for row in rows.values())  # each process has its own weights
    half = by_layer(traffic(Net(), 1000, 128, "towers", 2, activity_bytes=2))
    assert half["conv3"].forward == 2 * sent["conv3"]
    assert half["softmax"] == rows["softmax"]


def test_were_every_layer_to_talk() -> None:
    rows = by_layer(traffic(every_layer_talks(Net()), 1000, 128, "towers", 2))
    assert [rows[f"conv{n}"].forward // 4 // 128 for n in range(1, 6)] == [
        0,  # it reads the picture
        48 * 27 * 27,
        128 * 13 * 13,
        192 * 13 * 13,
        192 * 13 * 13,
    ]
    assert rows["fc6"] == by_layer(traffic(Net(), 1000, 128, "towers", 2))["fc6"]


def test_data_parallel_averages_every_weight_and_sends_nothing_else() -> None:
    rows = by_layer(traffic(Net(), 1000, 128, "data", 4))
    assert all(row.forward == row.backward == 0 for row in rows.values())
    weights = 60_965_224  # the 2012 program's count, biases included
    assert sum(row.weights for row in rows.values()) == 2 * 3 * 4 * weights // 4
    assert rows["conv1"].weights == 2 * 3 * 4 * 34_944 // 4


def test_towers_by_data() -> None:
    rows = by_layer(traffic(Net(), 1000, 256, "towers", 8))  # four groups of 64 pictures
    assert rows["conv3"].forward == 4 * 64 * 128 * 13 * 13
    assert rows["fc7"].weights == 2 * 3 * (4 * (4096 + 1) * 2048) // 4
    assert sum(row.weights for row in rows.values()) == 2 * 3 * 4 * (60_965_224 // 2) // 4


def test_the_successors_scheme_gathers_pictures_and_keeps_full_layers_where_they_are() -> None:
    rows = by_layer(traffic(Net(), 1000, 512, "hybrid", 4))
    assert rows["fc6"].forward == rows["fc6"].backward == 4 * 3 * 128 * 256 * 6 * 6
    assert rows["fc7"].forward == 4 * 3 * 512 * 1024
    assert rows["conv3"].forward == 0
    assert [rows[name].weights for name in ("fc6", "fc7", "fc8")] == [0, 0, 0]
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
def test_sizes_are_those_of_the_net(name: str) -> None:
    net = recipe_named(name).net
    with torch.device("meta"):
        layers = AlexNet(10, net).layers()
    assert {one.name: one.units * one.unit_parameters for one in layer_sizes(net, 10)} == {
        name: sum(weight.numel() for weight in layer.parameters()) for name, layer in layers.items()
    }


def test_the_net_has_the_arithmetic_that_is_known_of_it() -> None:
    forward = {one.name: one.products for one in layer_sizes(Net(), 1000)}
    assert forward["conv1"] == 55 * 55 * 96 * 11 * 11 * 3
    assert 2 * (3 * sum(forward.values()) - forward["conv1"]) == pytest.approx(4.13e9, rel=0.002)


def test_what_does_not_divide_goes_to_the_busiest() -> None:
    rows = by_layer(traffic(Net(), 21_841, 130, "hybrid", 4))
    assert rows["fc6"].forward == 4 * 3 * 33 * 256 * 6 * 6  # 33, 33, 33 and 31 pictures
    towers = by_layer(traffic(Net(), 21_841, 130, "towers", 4))
    assert towers["fc8"].weights == 2 * (4 * 4097 * 10_921) // 2
    assert towers["conv3"].forward == 4 * 65 * 128 * 13 * 13


def test_locally_connected_layers_have_weights_for_each_place() -> None:
    net = recipe_named("cifar10-11pct").net
    sizes = {one.name: one for one in layer_sizes(net, 10)}
    assert isinstance(sizes["conv3"], LayerSize)
    assert sizes["conv3"].unit_parameters == (64 * 9 + 1) * 6 * 6
    rows = by_layer(traffic(net, 10, 128, "data", 2))
    assert rows["conv3"].weights == 4 * 64 * (64 * 9 + 1) * 6 * 6
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
def test_what_does_not_fit_is_told(net: Net, batch: int, scheme: str, processes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        traffic(net, 10, batch, scheme, processes)


def test_activities_are_of_two_or_four_bytes() -> None:
    with pytest.raises(ValueError, match="activity_bytes must be 2 or 4; got 8"):
        traffic(Net(), 10, 128, "data", 2, activity_bytes=8)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What benchmarks/scaling.py prints and writes."""
    path = tmp_path_factory.mktemp("scaling") / "scaling.json"
    command = [sys.executable, str(SCRIPT), "--json", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout, json.loads(path.read_text(encoding="utf-8"))


def test_docs_have_the_tables_that_the_command_prints(predicted: tuple[str, dict[str, Any]]) -> None:
    text = (SCRIPT.parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert predicted[0].strip() in text


def test_the_model_starts_from_the_speed_given_and_counts_what_a_step_sends(
    predicted: tuple[str, dict[str, Any]],
) -> None:
    given, found = predicted[1]["given"], predicted[1]["predicted"]["ImageNet-1K"]
    each = found["batch of 128 a GPU"]
    assert each["data"]["1"]["speed"] == pytest.approx(given["speed"])
    # 1,024 GPUs, 25 MB at a time: each sends its ring's bytes, less what the convolutions' back pass hides.
    step = each["data"]["1024"]
    total = sum(row.weights for row in traffic(Net(), 1000, 128 * 1024, "data", 1024))
    forward = sum(2 * one.products for one in layer_sizes(Net(), 1000) if not one.full)
    conv1 = 2 * layer_sizes(Net(), 1000)[0].products
    hidden = given["overlap"] * 128 * (2 * forward - conv1) / predicted[1]["flop_per_s"]
    hop = 2 * (7 * given["nvlink_latency"] + 7 * given["network_latency"])
    buckets = -(-60_965_224 * 4 // 2**20 // 25)
    wire = total / min(given["nvlink"], 8 * given["network"])
    assert step["averaged"] == pytest.approx(max(0, buckets * (given["launch"] + hop) + wire - hidden))
    assert step["exchanged"] == 0


def test_a_scheme_that_does_not_fit_is_left_out(predicted: tuple[str, dict[str, Any]]) -> None:
    found = predicted[1]["predicted"]["ImageNet-1K"]
    assert "1024" not in found["batch of 128 a GPU"]["hybrid"]  # fewer classes than GPUs
    assert "256" not in found["batch of 128 over all GPUs"]["data"]  # fewer pictures than GPUs
    assert "256" in found["batch of 128 over all GPUs"]["towers"]

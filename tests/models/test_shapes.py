"""The shapes and numbers of parameters of the nets: Figure 2, and the 2012 program's files."""

import math

import pytest
import torch
from small_nets import count_parameters, layer_shapes, meta_net, random_pictures

from alexnet.architecture import Net
from alexnet.models.alexnet import AlexNet
from alexnet.net_variants import one_gpu_net
from alexnet.recipes import recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")
PAPER_COUNTS = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]


def test_every_layer_of_the_paper_s_net_has_the_shape_of_figure_2() -> None:
    net, x = meta_net()
    assert x[0].numel() == 150_528
    shapes = layer_shapes(net, x)
    assert shapes == {
        "conv1": ((96, 55, 55), (96, 27, 27)),
        "conv2": ((256, 27, 27), (256, 13, 13)),
        "conv3": ((384, 13, 13), (384, 13, 13)),
        "conv4": ((384, 13, 13), (384, 13, 13)),
        "conv5": ((256, 13, 13), (256, 6, 6)),
        "fc6": ((4096,), (4096,)),
        "fc7": ((4096,), (4096,)),
        "fc8": ((1000,), (1000,)),
    }
    neurons = [math.prod(computed) for computed, _ in shapes.values()]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(neurons) == 659_272  # "650,000 neurons"


def test_the_paper_s_net_runs_at_full_size() -> None:
    with torch.inference_mode():
        assert layer_shapes(AlexNet().eval(), random_pictures(1).float()) == layer_shapes(*meta_net())


@pytest.mark.parametrize("name", ["alexnet-2012-paper", "alexnet-2012-run", "photos"])
def test_the_two_tower_nets_have_60_965_224_parameters(name: str) -> None:
    net, _ = meta_net(recipe_named(name).net)
    assert count_parameters(net) == PAPER_COUNTS
    assert sum(p.numel() for p in net.parameters()) == 60_965_224
    assert not list(net.buffers())


def test_no_convolutional_layer_has_more_than_a_little_over_1_percent_of_the_parameters() -> None:
    assert max(PAPER_COUNTS[:5]) / sum(PAPER_COUNTS) < 0.015  # section 2 says "no more than 1%"; conv3 has 1.45


def test_the_kernels_have_the_sizes_of_section_4_5() -> None:
    net, _ = meta_net()
    shapes = {name: tuple(layer.weight.shape) for name, layer in net.layers().items()}
    assert shapes == {
        "conv1": (96, 3, 11, 11),
        "conv2": (256, 48, 5, 5),
        "conv3": (384, 256, 3, 3),
        "conv4": (384, 192, 3, 3),
        "conv5": (256, 192, 3, 3),
        "fc6": (4096, 9216),
        "fc7": (4096, 4096),
        "fc8": (1000, 4096),
    }


def test_the_cifar_nets_have_the_shapes_and_counts_of_their_files() -> None:
    net_80sec, x = meta_net(recipe_named("cifar10-80sec").net, classes=10)
    convs = {"conv1": ((32, 32, 32), (32, 16, 16)), "conv2": ((32, 16, 16), (32, 8, 8))}
    convs["conv3"] = ((64, 8, 8), (64, 4, 4))
    assert layer_shapes(net_80sec, x) == convs | {"fc6": ((64,), (64,)), "fc8": ((10,), (10,))}
    assert count_parameters(net_80sec) == [2432, 25_632, 51_264, 65_600, 650]
    net_18pct, x = meta_net(recipe_named("cifar10-18pct").net, classes=10)
    assert layer_shapes(net_18pct, x) == convs | {"fc8": ((10,), (10,))}
    assert count_parameters(net_18pct) == [2432, 25_632, 51_264, 10_250]


def test_the_cifar_nets_with_local_layers_have_the_shapes_and_counts_of_their_files() -> None:
    convs = {"conv1": ((64, 24, 24), (64, 12, 12)), "conv2": ((64, 12, 12), (64, 6, 6))}
    ends = {"conv4": ((32, 6, 6), (32, 6, 6)), "fc8": ((10,), (10,))}
    shared = [64 * (5 * 5 * 3 + 1), 64 * (5 * 5 * 64 + 1)]
    last = 10 * (32 * 6 * 6 + 1)
    net, x = meta_net(recipe_named("cifar10-13pct").net, classes=10)
    assert layer_shapes(net, x) == convs | {"conv3": ((32, 6, 6), (32, 6, 6))} | ends
    # 36 positions, each with its own kernels of 3 x 3 over all maps, and its own biases.
    assert count_parameters(net) == [*shared, 36 * 32 * (3 * 3 * 64 + 1), 36 * 32 * (3 * 3 * 32 + 1), last]
    assert count_parameters(net) == [4864, 102_464, 664_704, 332_928, 11_530]
    net, x = meta_net(recipe_named("cifar10-11pct").net, classes=10)
    assert layer_shapes(net, x) == convs | {"conv3": ((64, 6, 6), (64, 6, 6))} | ends
    assert count_parameters(net) == [*shared, 36 * 64 * (3 * 3 * 64 + 1), 36 * 32 * (3 * 3 * 64 + 1), last]
    assert count_parameters(net) == [4864, 102_464, 1_329_408, 664_704, 11_530]


def test_the_one_gpu_net_is_nearly_as_large() -> None:
    """Footnote b: half the kernels in every convolutional layer but the last."""
    net, x = meta_net(one_gpu_net(Net()))
    assert count_parameters(net) == [17_472, 153_728, 221_376, 331_968, 442_624, *PAPER_COUNTS[5:]]
    assert layer_shapes(net, x)["conv5"] == ((256, 13, 13), (256, 6, 6))

"""The nets of section 4 against Figure 2, explicit loops, and the same nets written out in torch.nn.functional."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_net
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.architecture import Conv, Full, MapNorm, Net, ResponseNorm
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import Convolution, Dropout
from alexnet.recipes import one_gpu_net, recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")


def narrow(net: Net) -> Net:
    """The same net with few maps and units, of the same sides: 224 -> 55 -> 27 -> 13 -> 6."""
    maps = {"conv1": 16, "conv2": 16, "conv3": 12, "conv4": 20, "conv5": 12, "conv6": 8}
    convs = {name: replace(conv, maps=maps[name], deviation=0.05) for name, conv in net.convs().items()}
    hidden = {name: replace(full, units=14, deviation=0.1) for name, full in net.hidden().items()}
    return replace(net, **convs, **hidden)


def pictures(count: int = 2, side: int = 224, seed: int = 0) -> Tensor:
    """Made-up centred pixels, (count, 3, side, side) float64."""
    generator = torch.Generator().manual_seed(seed)
    return 60 * torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def made(net: Net, classes: int = 5) -> AlexNet:
    """A net with seeded weights and uneven biases, in float64, not training."""
    torch.manual_seed(0)
    made = AlexNet(classes, net).double().eval()
    for layer in made.layers().values():
        assert layer.bias is not None
        nn.init.normal_(layer.bias, float(layer.bias.detach().mean()), 0.3)
    return made


def parameters(net: AlexNet) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of weight and bias by layer, for the plain nets."""
    copy = {name: (layer.weight, layer.bias) for name, layer in net.layers().items()}
    return {name: tuple(p.detach().clone().requires_grad_() for p in pair) for name, pair in copy.items()}  # type: ignore


# ---- Figure 2: shapes, neurons, parameters --------------------------------------------------------------------------


def outputs(net: AlexNet, x: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each layer by name: the shape of a picture's outputs as computed, and after its last step."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def seen(name: str, inner: bool) -> Callable[[Any, Any, Tensor], None]:
        def hook(_module: Any, _inputs: Any, y: Tensor) -> None:
            shape = tuple(y.shape[1:])
            shapes[name] = (shape, shape) if inner else (shapes[name][0], shape)

        return hook

    for name, layer in net.layers().items():
        layer.register_forward_hook(seen(name, True))
    for name, block in (*net.convs.items(), *net.hidden.items()):
        block.register_forward_hook(seen(name, False))
    net(x)
    return shapes


def on_meta(net: Net | None = None, classes: int = 1000) -> tuple[AlexNet, Tensor]:
    """A net without memory for its weights, and a picture for it: shapes alone."""
    with torch.device("meta"):
        made = AlexNet(classes, net)
        return made, torch.empty(1, 3, made.net.image_size, made.net.image_size)


def counts(net: AlexNet) -> list[int]:
    """Numbers of weights and biases, a layer each."""
    return [sum(p.numel() for p in layer.parameters()) for layer in net.layers().values()]


PAPER_COUNTS = [34_944, 307_456, 885_120, 663_936, 442_624, 37_752_832, 16_781_312, 4_097_000]


def test_every_layer_of_the_paper_s_net_has_the_shape_of_figure_2() -> None:
    net, x = on_meta()
    assert x[0].numel() == 150_528
    found = outputs(net, x)
    assert found == {
        "conv1": ((96, 55, 55), (96, 27, 27)),
        "conv2": ((256, 27, 27), (256, 13, 13)),
        "conv3": ((384, 13, 13), (384, 13, 13)),
        "conv4": ((384, 13, 13), (384, 13, 13)),
        "conv5": ((256, 13, 13), (256, 6, 6)),
        "fc6": ((4096,), (4096,)),
        "fc7": ((4096,), (4096,)),
        "fc8": ((1000,), (1000,)),
    }
    neurons = [math.prod(computed) for computed, _ in found.values()]
    assert neurons == [290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert sum(neurons) == 659_272  # "650,000 neurons"


def test_the_paper_s_net_runs_at_full_size() -> None:
    with torch.inference_mode():
        assert outputs(AlexNet().eval(), pictures(1).float()) == outputs(*on_meta())


@pytest.mark.parametrize("name", ["alexnet-2012-paper", "alexnet-2012-run", "photos"])
def test_the_two_tower_nets_have_60_965_224_parameters(name: str) -> None:
    net, _ = on_meta(recipe_named(name).net)
    assert counts(net) == PAPER_COUNTS
    assert sum(p.numel() for p in net.parameters()) == 60_965_224
    assert not list(net.buffers())


def test_no_convolutional_layer_has_more_than_a_little_over_1_percent_of_the_parameters() -> None:
    assert max(PAPER_COUNTS[:5]) / sum(PAPER_COUNTS) < 0.015  # section 2 says "no more than 1%"; conv3 has 1.45


def test_the_kernels_have_the_sizes_of_section_4_5() -> None:
    net, _ = on_meta()
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
    fast, x = on_meta(recipe_named("cifar10-80sec").net, classes=10)
    convs = {"conv1": ((32, 32, 32), (32, 16, 16)), "conv2": ((32, 16, 16), (32, 8, 8))}
    convs["conv3"] = ((64, 8, 8), (64, 4, 4))
    assert outputs(fast, x) == convs | {"fc6": ((64,), (64,)), "fc8": ((10,), (10,))}
    assert counts(fast) == [2432, 25_632, 51_264, 65_600, 650]
    good, x = on_meta(recipe_named("cifar10-18pct").net, classes=10)
    assert outputs(good, x) == convs | {"fc8": ((10,), (10,))}
    assert counts(good) == [2432, 25_632, 51_264, 10_250]


def test_the_cifar_nets_with_local_layers_have_the_shapes_and_counts_of_their_files() -> None:
    convs = {"conv1": ((64, 24, 24), (64, 12, 12)), "conv2": ((64, 12, 12), (64, 6, 6))}
    ends = {"conv4": ((32, 6, 6), (32, 6, 6)), "fc8": ((10,), (10,))}
    shared = [64 * (5 * 5 * 3 + 1), 64 * (5 * 5 * 64 + 1)]
    last = 10 * (32 * 6 * 6 + 1)
    net, x = on_meta(recipe_named("cifar10-13pct").net, classes=10)
    assert outputs(net, x) == convs | {"conv3": ((32, 6, 6), (32, 6, 6))} | ends
    # 36 places, each with its own kernels of 3 x 3 over all maps, and its own biases.
    assert counts(net) == [*shared, 36 * 32 * (3 * 3 * 64 + 1), 36 * 32 * (3 * 3 * 32 + 1), last]
    assert counts(net) == [4864, 102_464, 664_704, 332_928, 11_530]
    net, x = on_meta(recipe_named("cifar10-11pct").net, classes=10)
    assert outputs(net, x) == convs | {"conv3": ((64, 6, 6), (64, 6, 6))} | ends
    assert counts(net) == [*shared, 36 * 64 * (3 * 3 * 64 + 1), 36 * 32 * (3 * 3 * 64 + 1), last]
    assert counts(net) == [4864, 102_464, 1_329_408, 664_704, 11_530]


def test_the_one_gpu_net_is_nearly_as_large() -> None:
    """Footnote b: half the kernels in every convolutional layer but the last."""
    one, x = on_meta(one_gpu_net(Net()))
    assert counts(one) == [17_472, 153_728, 221_376, 331_968, 442_624, *PAPER_COUNTS[5:]]
    assert outputs(one, x)["conv5"] == ((256, 13, 13), (256, 6, 6))


# ---- Geometry -------------------------------------------------------------------------------------------------------


def test_zeros_are_added_on_the_right_and_at_the_bottom_only() -> None:
    layer = Convolution(3, Net().conv1, towers=1, side=224)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        y = layer(torch.ones(1, 3, 224, 224))[0, 0]
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
    x = pictures(1)
    with torch.no_grad():
        y = layer(x)[0].numpy()
        rest = F.conv2d(F.pad(x, (0, 3, 0, 3)), layer.weight, layer.bias, stride=4)[0].numpy()
    np.testing.assert_allclose(y, rest, rtol=1e-12, atol=1e-11)
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
def test_an_output_side_is_1_plus_the_rounded_up_quotient(side: int) -> None:
    conv = Conv(maps=2, kernel=5, stride=3, padding=1)
    layer = Convolution(3, conv, towers=1, side=side).double()
    x = pictures(1, side)
    out = 1 + math.ceil((2 * 1 + side - 5) / 3)
    with torch.no_grad():
        y = layer(x)
        enough = F.conv2d(F.pad(x, (1, 9, 1, 9)), layer.weight, layer.bias, stride=3)[..., :out, :out]
    assert y.shape == (1, 2, out, out)
    torch.testing.assert_close(y, enough)


@pytest.mark.parametrize("kind", ["max", "average"])
@pytest.mark.parametrize(("side", "size", "stride"), [(8, 3, 2), (9, 3, 2), (8, 2, 2), (7, 2, 2), (7, 3, 3)])
def test_pooling_windows_reach_past_the_right_and_bottom_edge(kind: Any, side: int, size: int, stride: int) -> None:
    conv = Conv(maps=2, kernel=1, padding=0, then=("pool",), pooling=kind)
    blank = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"))
    net = Net(image_size=side, conv1=conv, pool_size=size, pool_stride=stride, **blank)
    built = made(net)
    x = pictures(1, side)
    with torch.no_grad():
        before, y = built.convs["conv1"][0](x)[0].numpy(), built.convs["conv1"](x)[0].numpy()
    out = 1 + math.ceil((side - size) / stride)
    assert y.shape == (2, out, out)
    take = np.max if kind == "max" else np.mean  # of the places within the map
    for row in range(out):
        for column in range(out):
            window = before[:, row * stride :, column * stride :][:, :size, :size]
            np.testing.assert_allclose(y[:, row, column], take(window, axis=(1, 2)), rtol=1e-12)


@pytest.mark.parametrize(("side", "size", "stride"), [(1, 3, 2), (2, 3, 2), (2, 3, 1), (1, 2, 2), (2, 2, 2)])
def test_a_net_that_can_be_described_can_be_run(side: int, size: int, stride: int) -> None:
    conv = Conv(maps=2, kernel=1, padding=0, then=("activate", "pool"))
    blank = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"))
    try:
        net = Net(image_size=side, conv1=conv, pool_size=size, pool_stride=stride, **blank)
    except ValueError as error:
        assert f"{side}" in str(error)  # noqa: PT017
        return
    assert made(net)(pictures(1, side)).shape == (1, 5)


# ---- The same nets written out --------------------------------------------------------------------------------------


def plain_norm(x: Tensor, alpha: float) -> Tensor:
    """4.3's formula, map by map, over one tower's maps."""
    maps = x.shape[1]
    divided = []
    for i in range(maps):
        total = sum(x[:, j] ** 2 for j in range(max(0, i - 2), min(maps - 1, i + 2) + 1))
        divided.append(x[:, i] / (2 + alpha * total) ** 0.75)
    return torch.stack(divided, 1)


def plain_map_norm(x: Tensor, size: int, scale: float) -> Tensor:
    """The program's normalisation within each map: size x size places, zeros outside."""
    half, side = size // 2, x.shape[-1]
    padded = F.pad(x, (half,) * 4)
    total = sum(padded[:, :, i : i + side, j : j + side] ** 2 for i in range(size) for j in range(size))
    return x / (1 + scale / size**2 * total) ** 0.75


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def halves(w: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """A layer's kernels and biases on GPU 1 and on GPU 2."""
    half = len(w[0]) // 2
    return [(w[0][:half], w[1][:half]), (w[0][half:], w[1][half:])]


def plain_alexnet(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, run: bool, act: Callable = relu) -> Tensor:
    """Section 4, tower by tower, without any code of the package; `run`: as the program of 2012 was."""
    x = F.pad(x, (0, 3, 0, 3))
    towers = []
    for (w1, b1), (w2, b2) in zip(halves(w["conv1"]), halves(w["conv2"]), strict=True):
        y = F.conv2d(x, w1, b1, stride=4)
        y = act(F.max_pool2d(plain_norm(y, 1e-4 / 5), 3, 2)) if run else F.max_pool2d(plain_norm(act(y), 1e-4), 3, 2)
        y = act(F.conv2d(y, w2, b2, padding=2))
        y = plain_map_norm(plain_norm(y, 1e-4 / 5), 5, 0.001) if run else plain_norm(y, 1e-4)
        towers.append(F.max_pool2d(y, 3, 2))
    both = torch.cat(towers, 1)
    tops = []
    layers = zip(halves(w["conv3"]), halves(w["conv4"]), halves(w["conv5"]), strict=True)
    for (w3, b3), (w4, b4), (w5, b5) in layers:
        y = act(F.conv2d(both, w3, b3, padding=1))
        y = act(F.conv2d(y, w4, b4, padding=1))
        y = act(F.conv2d(y, w5, b5, padding=1))
        tops.append(F.max_pool2d(y, 3, 2))
    y = torch.cat(tops, 1).flatten(1)
    y = 0.5 * act(y @ w["fc6"][0].T + w["fc6"][1])
    y = 0.5 * act(y @ w["fc7"][0].T + w["fc7"][1])
    return y @ w["fc8"][0].T + w["fc8"][1]


def assert_same(net: AlexNet, plain: Callable[[dict[str, tuple[Tensor, Tensor]], Tensor], Tensor], x: Tensor) -> None:
    """The net's logits and the gradients of all its parameters and of the pictures are those of the plain net."""
    w = parameters(net)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = net(ours), plain(w, theirs)
    assert float(z.detach().std()) > 1e-3
    torch.testing.assert_close(y, z, rtol=1e-9, atol=1e-12)
    labels = torch.arange(len(x)) % y.shape[1]
    F.cross_entropy(y, labels).backward()
    F.cross_entropy(z, labels).backward()
    for name, layer in net.layers().items():
        for parameter, expected in zip((layer.weight, layer.bias), w[name], strict=True):
            assert expected.grad is not None
            assert expected.grad.any(), name
            assert parameter is not None
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-8, atol=1e-14, msg=name)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-14)


def test_the_paper_s_net_is_section_4_written_out() -> None:
    assert_same(made(narrow(Net())), lambda w, x: plain_alexnet(w, x, run=False), pictures())


def test_the_run_s_net_is_the_program_s_written_out() -> None:
    net = narrow(recipe_named("alexnet-2012-run").net)
    assert_same(made(net), lambda w, x: plain_alexnet(w, x, run=True), pictures())


def test_the_tanh_net_is_section_4_with_tanh() -> None:
    net = narrow(Net(activation="tanh", pixel_scale=1 / 64))
    plain = made(net)
    assert_same(plain, lambda w, x: plain_alexnet(w, x / 64, run=False, act=torch.tanh), pictures())


def plain_cifar(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, norms: bool) -> Tensor:
    """The nets "18%" (norms) and "80 seconds" of 2012-source.md."""
    x = relu(F.max_pool2d(F.conv2d(x, *w["conv1"], padding=2), 3, 2, ceil_mode=True))
    x = plain_map_norm(x, 3, 0.00005) if norms else x
    x = F.avg_pool2d(relu(F.conv2d(x, *w["conv2"], padding=2)), 3, 2, ceil_mode=True)
    x = plain_map_norm(x, 3, 0.00005) if norms else x
    x = F.avg_pool2d(relu(F.conv2d(x, *w["conv3"], padding=2)), 3, 2, ceil_mode=True).flatten(1)
    if "fc6" in w:
        x = relu(x @ w["fc6"][0].T + w["fc6"][1])
    return x @ w["fc8"][0].T + w["fc8"][1]


@pytest.mark.parametrize(("name", "norms"), [("cifar10-18pct", True), ("cifar10-80sec", False)])
def test_the_cifar_nets_are_their_files_written_out(name: str, norms: bool) -> None:
    net = recipe_named(name).net
    wider = {layer: replace(conv, deviation=0.05) for layer, conv in net.convs().items()}  # far from zero
    assert_same(made(replace(net, **wider), 10), lambda w, x: plain_cifar(w, x, norms=norms), pictures(2, 32))


def plain_local(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Kernels of 3 x 3 with zeros around, another set for each place: (row, column, map, kernel row, column, map)."""
    padded, side = F.pad(x, (1, 1, 1, 1)), x.shape[-1]
    rows = []
    for i in range(side):
        windows = [padded[:, :, i : i + 3, j : j + 3].permute(0, 2, 3, 1).flatten(1) for j in range(side)]
        rows.append(torch.stack([w @ weight[i, j].flatten(1).T + bias[i, j] for j, w in enumerate(windows)], 2))
    return torch.stack(rows, 2)


def plain_wide_norm(x: Tensor) -> Tensor:
    """Across nine maps with the 2012 program's constants for CIFAR-10."""
    maps = x.shape[1]
    sums = [(x[:, max(0, i - 4) : i + 5] ** 2).sum(1) for i in range(maps)]
    return x / (1 + 0.001 / 9 * torch.stack(sums, 1)) ** 0.75


def plain_translated(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, norms: bool) -> Tensor:
    """The nets "11%" (norms) and "13%" of 2012-source.md."""
    x = F.max_pool2d(relu(F.conv2d(x, *w["conv1"], padding=2)), 3, 2, ceil_mode=True)
    x = plain_wide_norm(x) if norms else x
    x = relu(F.conv2d(x, *w["conv2"], padding=2))
    x = F.max_pool2d(plain_wide_norm(x) if norms else x, 3, 2, ceil_mode=True)
    x = relu(plain_local(x, *w["conv3"]))
    x = relu(plain_local(x, *w["conv4"])).flatten(1)
    return x @ w["fc8"][0].T + w["fc8"][1]


@pytest.mark.parametrize(("name", "norms"), [("cifar10-11pct", True), ("cifar10-13pct", False)])
def test_the_cifar_nets_with_local_layers_are_their_files_written_out(name: str, norms: bool) -> None:
    net = recipe_named(name).net
    wider = {layer: replace(conv, maps=conv.maps // 2, deviation=0.05) for layer, conv in net.convs().items()}
    assert_same(made(replace(net, **wider), 10), lambda w, x: plain_translated(w, x, norms=norms), pictures(2, 24))


# ---- Two towers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["conv2", "conv3", "conv4", "conv5"])
@pytest.mark.parametrize("changed", [0, 1])
def test_a_tower_sees_the_other_in_conv3_only(layer: str, changed: int) -> None:
    built = made(narrow(Net()))
    block = built.convs[layer]
    channels = {"conv2": 16, "conv3": 16, "conv4": 12, "conv5": 20}[layer]
    x = torch.randn(2, channels, 13, 13, dtype=torch.float64)
    other = x.clone()
    other.unflatten(1, (2, -1))[:, changed] += 1
    with torch.no_grad():
        before, after = (block(maps).unflatten(1, (2, -1)) for maps in (x, other))
    assert not torch.equal(before[:, changed], after[:, changed])
    assert torch.equal(before[:, 1 - changed], after[:, 1 - changed]) is (layer != "conv3")


@pytest.mark.parametrize("name", ["alexnet-2012-paper", "alexnet-2012-run"])
@pytest.mark.parametrize("changed", [7, 8])  # the last map of tower 1 and the first of tower 2, of 16
def test_normalisation_stays_within_a_tower(name: str, changed: int) -> None:
    built = made(narrow(recipe_named(name).net))
    x = pictures(1)
    with torch.no_grad():
        before = built.convs["conv1"](x)
        built.layers()["conv1"].bias[changed] += 50  # type: ignore[index]
        after = built.convs["conv1"](x)
    differs = {i for i in range(16) if not torch.equal(before[:, i], after[:, i])}
    assert differs == ({5, 6, 7} if changed == 7 else {8, 9, 10})


def test_the_towers_never_meet_before_fc6_without_conv3_s_connection() -> None:
    """Ablation 150 of 2012-source.md."""
    net = narrow(Net())
    assert net.conv3 is not None
    built = made(replace(net, conv3=replace(net.conv3, all_towers=False)))
    x = pictures(1).requires_grad_()
    maps = x
    for block in built.convs.values():
        maps = block(maps)
    built.zero_grad()
    maps[:, :6].sum().backward()  # tower 1's six maps of conv5
    for name in built.convs:
        gradient = built.layers()[name].weight.grad
        assert gradient is not None
        one, two = gradient.unflatten(0, (2, -1))
        assert one.any(), name
        assert not two.any(), name


# ---- Dropout --------------------------------------------------------------------------------------------------------


def test_dropout_zeroes_without_scaling_and_multiplies_by_a_half_at_test_time() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.5), torch.randn(100, 1000, requires_grad=True)
    y = layer(x)
    kept = y != 0
    assert torch.equal(y, torch.where(kept, x, torch.zeros(())))
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(kept.double().mean(0).std()) == pytest.approx(0.05, abs=0.005)  # each output of each picture alone
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, kept.float())  # what is dropped takes no part in back-propagation
    assert not torch.equal(layer(x) != 0, kept)  # drawn anew every time
    assert torch.equal(layer.eval()(x), 0.5 * x)


@pytest.mark.parametrize("p", [0.1, 0.8])
def test_dropout_of_other_probabilities_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    layer, x = Dropout(p), torch.ones(1000, 1000)
    assert float(layer(x).mean()) == pytest.approx(1 - p, abs=0.005)
    assert torch.equal(layer.eval()(x), x * (1 - p))


def test_the_net_drops_out_of_the_first_two_full_layers_only() -> None:
    net, _ = on_meta()
    places = [name for name, module in net.named_modules() if isinstance(module, Dropout)]
    assert places == ["hidden.fc6.2", "hidden.fc7.2"]  # after the activation
    built = made(narrow(Net()))
    x = pictures(1)
    assert torch.equal(built(x), built(x))
    built.train()
    assert not torch.equal(built(x), built(x))


# ---- Start values ---------------------------------------------------------------------------------------------------

GAUSSIAN = dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), 0.01)
BIASES = {"conv1": 0, "conv2": 1, "conv3": 0, "conv4": 1, "conv5": 1, "fc6": 1, "fc7": 1, "fc8": 0}
STARTS = {
    "alexnet-2012-paper": (GAUSSIAN, BIASES),
    "alexnet-2012-run": (GAUSSIAN | dict.fromkeys(("conv3", "conv4", "conv5"), 0.03), BIASES),
    "cifar10-18pct": ({"conv1": 0.0001, "conv2": 0.01, "conv3": 0.01, "fc8": 0.01}, dict.fromkeys(BIASES, 0)),
    "cifar10-80sec": (
        {"conv1": 0.0001, "conv2": 0.01, "conv3": 0.01, "fc6": 0.1, "fc8": 0.1},
        dict.fromkeys(BIASES, 0),
    ),
    **{
        name: (
            {"conv1": 0.0001, "conv2": 0.01, "conv3": 0.04, "conv4": 0.04, "fc8": 0.01},
            dict.fromkeys(BIASES, 0),
        )
        for name in ("cifar10-13pct", "cifar10-11pct")
    },
    "tiny": (
        {
            "conv1": math.sqrt(2 / (3 * 7 * 7)),
            "conv2": math.sqrt(2 / (8 * 5 * 5)),
            "conv3": math.sqrt(2 / (32 * 3 * 3)),
            "conv4": math.sqrt(2 / (24 * 3 * 3)),
            "conv5": math.sqrt(2 / (24 * 3 * 3)),
            "fc6": math.sqrt(2 / (32 * 3 * 3)),
            "fc7": math.sqrt(2 / 128),
            "fc8": 0.01,
        },
        dict.fromkeys(BIASES, 0),
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_start_values_are_gaussian_with_the_recipe_s_deviations(name: str) -> None:
    deviations, biases = STARTS[name]
    net = recipe_named(name).net
    if name.startswith("alexnet"):  # what is drawn does not hang on the width here; the full layers take seconds
        net = replace(net, fc6=replace(net.fc6, units=64), fc7=replace(net.fc7, units=256))  # type: ignore[type-var]
    torch.manual_seed(0)
    layers = AlexNet(10, net).layers()
    assert layers.keys() == deviations.keys()
    for layer, deviation in deviations.items():
        weight, bias = layers[layer].weight.detach().double(), layers[layer].bias.detach()  # type: ignore[union-attr]
        error = 5 / math.sqrt(weight.numel())  # five standard errors
        assert float(weight.mean()) == pytest.approx(0, abs=error * deviation)
        assert float(weight.std()) == pytest.approx(deviation, rel=error)
        assert float((weight.abs() < deviation).double().mean()) == pytest.approx(0.6827, abs=error)
        assert torch.equal(bias, torch.full_like(bias, biases[layer]))


def test_start_draws_from_the_generator_it_is_given() -> None:
    net = AlexNet(5, narrow(Net()))
    state = torch.get_rng_state()
    net.reset_parameters(torch.Generator().manual_seed(3))
    first = {name: value.clone() for name, value in net.state_dict().items()}
    net.reset_parameters(torch.Generator().manual_seed(3))
    assert all(torch.equal(first[name], value) for name, value in net.state_dict().items())
    net.reset_parameters(torch.Generator().manual_seed(4))
    assert not torch.equal(first["fc8.weight"], net.fc8.weight)
    assert torch.equal(torch.get_rng_state(), state)


# ---- Variants -------------------------------------------------------------------------------------------------------

SMALL = replace(narrow(Net()), start="he", pixel_scale=1 / 64)
VARIANTS = {
    **{f"without {name}": replace(SMALL, **{name: None}) for name in ("conv2", "conv3", "conv4", "conv5")},
    "without fc6": replace(SMALL, fc6=None),
    "without fc7": replace(SMALL, fc7=None),
    "without hidden layers": replace(SMALL, fc6=None, fc7=None),
    "conv6": replace(SMALL, conv6=Conv(maps=8, all_towers=True, bias=1.0, deviation=0.03)),
    "tanh": replace(SMALL, activation="tanh"),
    "no normalisation": replace(SMALL, normalise=None),
    "pooling 2, stride 2": replace(SMALL, pool_size=2, conv2=replace(SMALL.conv2, padding=1)),  # type: ignore[type-var]
    "one tower": one_gpu_net(SMALL),
    "four towers": replace(SMALL, towers=4),
    "no dropout": replace(SMALL, fc6=Full(units=8), fc7=Full(units=8)),
    "map normalisation": replace(narrow(recipe_named("alexnet-2012-run").net), pixel_scale=1 / 64),
    "other constants": replace(SMALL, normalise=ResponseNorm(size=3, k=1, alpha=0.1, beta=0.5)),
    "normalised before the activation": replace(
        SMALL, activation="tanh", conv1=replace(SMALL.conv1, then=("normalise", "activate", "pool"))
    ),
    "small pictures": recipe_named("tiny").net,
    "local layers": replace(recipe_named("cifar10-11pct").net, start="he", pixel_scale=1 / 64),
    "local layers in two towers": replace(SMALL, conv5=replace(SMALL.conv5, shared=False)),  # type: ignore[type-var]
    "wide map normalisation": replace(
        recipe_named("cifar10-18pct").net, normalise_map=MapNorm(size=5, alpha=0.1), start="he", pixel_scale=1 / 64
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_runs_forward_and_back_through_every_layer(name: str) -> None:
    described = VARIANTS[name]
    torch.manual_seed(0)
    net = AlexNet(5, described)
    assert tuple(net.layers()) == described.layers()
    y = net(pictures(4, described.image_size).float())
    assert y.shape == (4, 5)
    F.cross_entropy(y, torch.arange(4)).backward()
    for layer, module in net.layers().items():
        for parameter in module.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all(), layer
            assert parameter.grad.any(), layer
    sides = outputs(net.eval(), pictures(1, described.image_size).float())
    assert {n: (a[1], b[1]) for n, (a, b) in sides.items() if n.startswith("conv")} == described.sides()


def test_conv6_reads_both_towers_pooled_maps() -> None:
    """Net 146 (section 7, 2012-source.md): 256 maps of 3 x 3 over the 6 x 6 maps of conv5."""
    net, x = on_meta(replace(Net(), conv6=Conv(maps=256, all_towers=True, bias=1.0, deviation=0.03)))
    assert tuple(net.layers()["conv6"].weight.shape) == (256, 256, 3, 3)
    assert outputs(net, x)["conv6"] == ((256, 6, 6), (256, 6, 6))


def test_without_normalisation_nothing_but_normalisation_is_missing() -> None:
    net = narrow(Net())
    with_it, without = made(net), made(replace(net, normalise=ResponseNorm(k=1, alpha=0.0)))
    bare = made(replace(net, normalise=None))
    x = pictures(1)
    torch.testing.assert_close(bare(x), without(x))
    assert not torch.allclose(bare(x), with_it(x))


def test_two_conventions_of_alpha_differ_by_the_window() -> None:
    net, x = narrow(Net()), pictures(1)
    divided = made(replace(net, normalise=ResponseNorm(alpha_over_size=True)))
    fifth = made(replace(net, normalise=ResponseNorm(alpha=1e-4 / 5)))
    assert torch.equal(divided(x), fifth(x))
    assert not torch.allclose(divided(x), made(net)(x), rtol=1e-6)


# ---- An ordinary module ---------------------------------------------------------------------------------------------


def test_the_logits_are_the_last_layer_of_the_features() -> None:
    net, x = made(narrow(Net())), pictures(3)
    assert net.features(x).shape == (3, 14)
    assert torch.equal(net(x), net.fc8(net.features(x)))


def test_pixels_are_scaled_before_the_first_layer() -> None:
    scaled, raw, x = made(replace(narrow(Net()), pixel_scale=0.25)), made(narrow(Net())), pictures(1)
    assert torch.equal(scaled(x), raw(0.25 * x))


def test_memory_format_changes_nothing_but_rounding() -> None:
    net, x = made(narrow(Net())), pictures()
    y = net(x)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), y, rtol=1e-10, atol=1e-12)


def test_bfloat16_autocast_is_near() -> None:
    net, x = AlexNet(5, SMALL).eval(), pictures().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), net(x), rtol=0.1, atol=0.02)


def test_a_state_dict_makes_the_same_net_again() -> None:
    one, x = made(narrow(Net())), pictures(1)
    names = [f"convs.conv{i}.0.{part}" for i in range(1, 6) for part in ("weight", "bias")]
    names += [f"hidden.{fc}.0.{part}" for fc in ("fc6", "fc7") for part in ("weight", "bias")]
    assert list(one.state_dict()) == [*names, "fc8.weight", "fc8.bias"]
    two = AlexNet(5, narrow(Net())).double().eval()
    assert not torch.equal(two(x), one(x))
    two.load_state_dict(one.state_dict())
    assert torch.equal(two(x), one(x))


def test_a_net_can_be_exported() -> None:
    net, x = AlexNet(5, SMALL).eval(), pictures().float()
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(exported.module()(x), net(x))
    more = pictures(3, seed=1).float()
    torch.testing.assert_close(exported.module()(more), net(more))


def test_a_net_can_be_compiled_whole_and_trained() -> None:
    torch.manual_seed(0)
    net, x = AlexNet(5, replace(VARIANTS["map normalisation"], start="he")).eval(), pictures().float()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    loss, expected = compiled(x).square().sum(), net(x).square().sum()
    torch.testing.assert_close(loss, expected)
    weights = list(net.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=f"^classes must be at least 2; got {classes}$"):
        AlexNet(classes)


def test_the_linear_layer_stands_between_the_hidden_layers_and_the_classes() -> None:
    net = AlexNet(10, replace(small_net(), linear=Full(units=6)))
    assert list(net.layers())[-3:] == ["fc7", "linear", "fc8"]
    assert tuple(net.fc8.weight.shape) == (10, 6)
    net.eval()
    x = torch.randn(2, 3, 24, 24)
    features = net.features(x)
    expected = (features @ net.linear.weight.T + net.linear.bias) @ net.fc8.weight.T + net.fc8.bias
    assert torch.allclose(net(x), expected, atol=1e-6)
    for wrong in (Full(), Full(units=6, dropout=0.5)):
        with pytest.raises(ValueError, match=r"linear\."):
            replace(small_net(), linear=wrong)

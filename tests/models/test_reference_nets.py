"""The nets against the same nets written out in torch.nn.functional, without code of the package."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_nets import build_net, narrow_net, random_pictures
from torch import Tensor
from torch.nn import functional as F

from alexnet.architecture import Conv, Full, Net, ResponseNorm
from alexnet.models.alexnet import AlexNet
from alexnet.net_variants import with_abs_tanh, with_logistic
from alexnet.recipes import recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")


def copy_parameters(net: AlexNet) -> dict[str, tuple[Tensor, Tensor]]:
    """Return copies of the weight and bias of each layer, for the reference nets."""
    copies = {name: (layer.weight, layer.bias) for name, layer in net.layers().items()}
    return {name: tuple(p.detach().clone().requires_grad_() for p in pair) for name, pair in copies.items()}  # type: ignore


def reference_norm(x: Tensor, alpha: float) -> Tensor:
    """Compute the formula of section 4.3, map by map, over the maps of one tower."""
    maps = x.shape[1]
    divided = []
    for i in range(maps):
        total = sum(x[:, j] ** 2 for j in range(max(0, i - 2), min(maps - 1, i + 2) + 1))
        divided.append(x[:, i] / (2 + alpha * total) ** 0.75)
    return torch.stack(divided, 1)


def reference_map_norm(x: Tensor, size: int, scale: float) -> Tensor:
    """Compute the program's normalisation within each map: size x size positions, zeros outside."""
    half, side = size // 2, x.shape[-1]
    padded = F.pad(x, (half,) * 4)
    total = sum(padded[:, :, i : i + side, j : j + side] ** 2 for i in range(size) for j in range(size))
    return x / (1 + scale / size**2 * total) ** 0.75


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def halves(w: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return a layer's kernels and biases on GPU 1 and on GPU 2."""
    half = len(w[0]) // 2
    return [(w[0][:half], w[1][:half]), (w[0][half:], w[1][half:])]


def reference_alexnet(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, run: bool, act: Callable = relu) -> Tensor:
    """Compute section 4, tower by tower, without code of the package; with `run` as the program of 2012 did."""
    x = F.pad(x, (0, 3, 0, 3))
    towers = []
    for (w1, b1), (w2, b2) in zip(halves(w["conv1"]), halves(w["conv2"]), strict=True):
        y = F.conv2d(x, w1, b1, stride=4)
        y = reference_norm(y, 1e-4 / 5) if run else reference_norm(act(y), 1e-4)
        y = F.max_pool2d(y, 3, 2)
        y = act(y) if run else y
        y = act(F.conv2d(y, w2, b2, padding=2))
        y = reference_map_norm(reference_norm(y, 1e-4 / 5), 5, 0.001) if run else reference_norm(y, 1e-4)
        towers.append(F.max_pool2d(y, 3, 2))
    both = torch.cat(towers, 1)
    outputs = []
    layers = zip(halves(w["conv3"]), halves(w["conv4"]), halves(w["conv5"]), strict=True)
    for (w3, b3), (w4, b4), (w5, b5) in layers:
        y = act(F.conv2d(both, w3, b3, padding=1))
        y = act(F.conv2d(y, w4, b4, padding=1))
        y = act(F.conv2d(y, w5, b5, padding=1))
        outputs.append(F.max_pool2d(y, 3, 2))
    y = torch.cat(outputs, 1).flatten(1)
    y = 0.5 * act(y @ w["fc6"][0].T + w["fc6"][1])
    y = 0.5 * act(y @ w["fc7"][0].T + w["fc7"][1])
    return y @ w["fc8"][0].T + w["fc8"][1]


def assert_same(
    net: AlexNet, reference: Callable[[dict[str, tuple[Tensor, Tensor]], Tensor], Tensor], x: Tensor
) -> None:
    """Check that the logits and all gradients, of parameters and pictures, are those of the reference net."""
    w = copy_parameters(net)
    leaf, reference_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits, expected_logits = net(leaf), reference(w, reference_leaf)
    assert float(expected_logits.detach().std()) > 1e-3
    torch.testing.assert_close(logits, expected_logits, rtol=1e-9, atol=1e-12)
    labels = torch.arange(len(x)) % logits.shape[1]
    F.cross_entropy(logits, labels).backward()
    F.cross_entropy(expected_logits, labels).backward()
    for name, layer in net.layers().items():
        for parameter, expected in zip((layer.weight, layer.bias), w[name], strict=True):
            assert expected.grad is not None
            assert expected.grad.any(), name
            assert parameter is not None
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-8, atol=1e-14, msg=name)
    torch.testing.assert_close(leaf.grad, reference_leaf.grad, rtol=1e-8, atol=1e-14)


def test_the_paper_s_net_is_section_4_written_out() -> None:
    assert_same(build_net(narrow_net(Net())), lambda w, x: reference_alexnet(w, x, run=False), random_pictures())


def test_the_run_s_net_is_the_program_s_written_out() -> None:
    net = narrow_net(recipe_named("alexnet-2012-run").net)
    assert_same(build_net(net), lambda w, x: reference_alexnet(w, x, run=True), random_pictures())


def test_the_tanh_net_is_section_4_with_tanh() -> None:
    net = narrow_net(Net(activation="tanh", pixel_scale=1 / 64))
    assert_same(build_net(net), lambda w, x: reference_alexnet(w, x / 64, run=False, act=torch.tanh), random_pictures())


def test_the_logistic_net_is_section_4_with_the_logistic_function() -> None:
    net = narrow_net(with_logistic(Net(pixel_scale=1 / 64)))

    def reference(w: dict[str, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        return reference_alexnet(w, x / 64, run=False, act=lambda y: 1 / (1 + (-y).exp()))

    assert_same(build_net(net), reference, random_pictures())


def reference_contrast_norm(x: Tensor) -> Tensor:
    """Compute Jarrett's normalisation of one tower: windows of 9 x 9 positions, cut off at the edges."""
    side = x.shape[-1]
    distances = torch.arange(side, dtype=torch.float64)[:, None] - torch.arange(side)
    line = torch.exp(-(distances**2) / (2 * 2.25**2)) * (distances.abs() <= 4)  # (position, position around)
    windows = torch.einsum("ik,jl->ijkl", line, line)
    windows = windows / windows.sum((2, 3), keepdim=True)
    v = x - torch.einsum("ijkl,nckl->nij", windows, x)[:, None] / x.shape[1]
    s = (torch.einsum("ijkl,nckl->nij", windows, v**2) / x.shape[1]).sqrt()[:, None]
    return v / torch.maximum(s, s.mean((1, 2, 3), keepdim=True))


def test_the_net_of_jarrett_s_stages_is_written_out() -> None:
    def stage(x: Tensor) -> Tensor:
        return F.avg_pool2d(reference_contrast_norm(x.tanh().abs()), 3, 2, ceil_mode=True)

    def reference(w: dict[str, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        x = F.pad(x / 64, (0, 3, 0, 3))
        towers = [stage(F.conv2d(x, *w1, stride=4)) for w1 in halves(w["conv1"])]
        towers = [stage(F.conv2d(y, *w2, padding=2)) for y, w2 in zip(towers, halves(w["conv2"]), strict=True)]
        both = torch.cat(towers, 1)
        outputs = []
        for w3, w4, w5 in zip(halves(w["conv3"]), halves(w["conv4"]), halves(w["conv5"]), strict=True):
            y = F.conv2d(both, *w3, padding=1).tanh().abs()
            y = F.conv2d(y, *w4, padding=1).tanh().abs()
            outputs.append(stage(F.conv2d(y, *w5, padding=1)))
        y = torch.cat(outputs, 1).flatten(1)
        for name in ("fc6", "fc7"):
            y = 0.5 * (y @ w[name][0].T + w[name][1]).tanh().abs()
        return y @ w["fc8"][0].T + w["fc8"][1]

    assert_same(build_net(narrow_net(with_abs_tanh(Net(pixel_scale=1 / 64)))), reference, random_pictures())


def reference_torchvision(w: dict[str, tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Compute torchvision's AlexNet: one tower, sides rounded down, no normalisation."""
    x = F.max_pool2d(relu(F.conv2d(x, *w["conv1"], stride=4, padding=2)), 3, 2)
    x = F.max_pool2d(relu(F.conv2d(x, *w["conv2"], padding=2)), 3, 2)
    for name in ("conv3", "conv4", "conv5"):
        x = relu(F.conv2d(x, *w[name], padding=1))
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for name in ("fc6", "fc7"):
        x = relu(x @ w[name][0].T + w[name][1])
    return x @ w["fc8"][0].T + w["fc8"][1]


def reference_caffe(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, pools_first: bool) -> Tensor:
    """Compute Caffe's AlexNet, or its CaffeNet, which pools first: groups, normalisation over all maps."""

    def normalise_and_pool(x: Tensor) -> Tensor:
        steps = [
            lambda y: F.local_response_norm(y, 5, 1e-4, 0.75, 1.0),
            lambda y: F.max_pool2d(y, 3, 2, ceil_mode=True),
        ]
        for step in reversed(steps) if pools_first else steps:
            x = step(x)
        return x

    x = normalise_and_pool(relu(F.conv2d(x, *w["conv1"], stride=4)))
    x = normalise_and_pool(relu(F.conv2d(x, *w["conv2"], padding=2, groups=2)))
    x = relu(F.conv2d(x, *w["conv3"], padding=1))
    x = relu(F.conv2d(x, *w["conv4"], padding=1, groups=2))
    x = relu(F.conv2d(x, *w["conv5"], padding=1, groups=2))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
    for name in ("fc6", "fc7"):
        x = relu(x @ w[name][0].T + w[name][1])
    return x @ w["fc8"][0].T + w["fc8"][1]


def test_torchvision_s_net_is_its_file_written_out() -> None:
    then: Any = {"then": ("activate", "pool"), "pool_rounding": "down"}
    net = Net(
        towers=1,
        conv1=Conv(maps=64, kernel=11, stride=4, padding=2, rounding="down", **then),
        conv2=Conv(maps=192, kernel=5, padding=2, **then),
        conv5=Conv(maps=256, **then),
        normalise=None,
        conv_dropout=0.5,
        fc7=Full(units=4096),
        dropout_scaling="train",
    )
    assert_same(build_net(narrow_net(net)), reference_torchvision, random_pictures())


@pytest.mark.parametrize("side", [224, 227])
@pytest.mark.parametrize("pools_first", [False, True])
def test_caffe_s_nets_are_their_files_written_out(side: int, pools_first: bool) -> None:
    net = narrow_net(Net(image_size=side, dropout_scaling="train"))
    then = ("activate", "pool", "normalise") if pools_first else ("activate", "normalise", "pool")
    net = replace(
        net,
        conv1=replace(net.conv1, then=then, rounding="down"),  # type: ignore[type-var]
        conv2=replace(net.conv2, then=then),  # type: ignore[type-var]
        normalise=ResponseNorm(k=1.0, alpha_over_size=True, all_towers=True),
    )
    assert_same(build_net(net), lambda w, x: reference_caffe(w, x, pools_first=pools_first), random_pictures(2, side))


def reference_cifar(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, norms: bool) -> Tensor:
    """Compute the nets "18%" (norms) and "80 seconds" of 2012-source.md."""
    x = relu(F.max_pool2d(F.conv2d(x, *w["conv1"], padding=2), 3, 2, ceil_mode=True))
    x = reference_map_norm(x, 3, 0.00005) if norms else x
    x = F.avg_pool2d(relu(F.conv2d(x, *w["conv2"], padding=2)), 3, 2, ceil_mode=True)
    x = reference_map_norm(x, 3, 0.00005) if norms else x
    x = F.avg_pool2d(relu(F.conv2d(x, *w["conv3"], padding=2)), 3, 2, ceil_mode=True).flatten(1)
    if "fc6" in w:
        x = relu(x @ w["fc6"][0].T + w["fc6"][1])
    return x @ w["fc8"][0].T + w["fc8"][1]


@pytest.mark.parametrize(("name", "norms"), [("cifar10-18pct", True), ("cifar10-80sec", False)])
def test_the_cifar_nets_are_their_files_written_out(name: str, norms: bool) -> None:
    net = recipe_named(name).net
    wider = {layer: replace(conv, deviation=0.05) for layer, conv in net.convs().items()}  # far from zero
    assert_same(
        build_net(replace(net, **wider), 10), lambda w, x: reference_cifar(w, x, norms=norms), random_pictures(2, 32)
    )


def reference_local(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve by kernels of 3 x 3 with zeros around, others for each position: (row, column, map, 3, 3, channel)."""
    padded, side = F.pad(x, (1, 1, 1, 1)), x.shape[-1]
    rows = []
    for i in range(side):
        windows = [padded[:, :, i : i + 3, j : j + 3].permute(0, 2, 3, 1).flatten(1) for j in range(side)]
        rows.append(torch.stack([w @ weight[i, j].flatten(1).T + bias[i, j] for j, w in enumerate(windows)], 2))
    return torch.stack(rows, 2)


def reference_wide_norm(x: Tensor) -> Tensor:
    """Normalise across nine maps with the 2012 program's constants for CIFAR-10."""
    maps = x.shape[1]
    sums = [(x[:, max(0, i - 4) : i + 5] ** 2).sum(1) for i in range(maps)]
    return x / (1 + 0.001 / 9 * torch.stack(sums, 1)) ** 0.75


def reference_local_cifar(w: dict[str, tuple[Tensor, Tensor]], x: Tensor, *, norms: bool) -> Tensor:
    """Compute the nets "11%" (norms) and "13%" of 2012-source.md."""
    x = F.max_pool2d(relu(F.conv2d(x, *w["conv1"], padding=2)), 3, 2, ceil_mode=True)
    x = reference_wide_norm(x) if norms else x
    x = relu(F.conv2d(x, *w["conv2"], padding=2))
    x = F.max_pool2d(reference_wide_norm(x) if norms else x, 3, 2, ceil_mode=True)
    x = relu(reference_local(x, *w["conv3"]))
    x = relu(reference_local(x, *w["conv4"])).flatten(1)
    return x @ w["fc8"][0].T + w["fc8"][1]


@pytest.mark.parametrize(("name", "norms"), [("cifar10-11pct", True), ("cifar10-13pct", False)])
def test_the_cifar_nets_with_local_layers_are_their_files_written_out(name: str, norms: bool) -> None:
    net = recipe_named(name).net
    wider = {layer: replace(conv, maps=conv.maps // 2, deviation=0.05) for layer, conv in net.convs().items()}
    assert_same(
        build_net(replace(net, **wider), 10),
        lambda w, x: reference_local_cifar(w, x, norms=norms),
        random_pictures(2, 24),
    )

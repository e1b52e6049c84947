"""The initial weights and biases of each recipe (section 6)."""

import math
from dataclasses import replace

import pytest
import torch
from small_nets import narrow_net

from alexnet.architecture import Conv, Net
from alexnet.models.alexnet import AlexNet
from alexnet.recipes import recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")


GAUSSIAN = dict.fromkeys(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), 0.01)
BIASES = {"conv1": 0, "conv2": 1, "conv3": 0, "conv4": 1, "conv5": 1, "fc6": 1, "fc7": 1, "fc8": 0}
INITIAL = {
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


@pytest.mark.parametrize("name", INITIAL)
def test_initial_weights_are_gaussian_with_the_deviations_of_the_recipe(name: str) -> None:
    deviations, biases = INITIAL[name]
    net = recipe_named(name).net
    if name.startswith("alexnet"):  # deviations do not depend on the width here; full layers take seconds
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


def test_reset_parameters_draws_from_the_generator_passed() -> None:
    net = AlexNet(5, narrow_net(Net()))
    state = torch.get_rng_state()
    net.reset_parameters(torch.Generator().manual_seed(3))
    first = {name: value.clone() for name, value in net.state_dict().items()}
    net.reset_parameters(torch.Generator().manual_seed(3))
    assert all(torch.equal(first[name], value) for name, value in net.state_dict().items())
    net.reset_parameters(torch.Generator().manual_seed(4))
    assert not torch.equal(first["fc8.weight"], net.fc8.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_centred_weights_have_mean_0_in_each_unit_but_in_the_first_layer() -> None:
    net = replace(narrow_net(Net()), start="centred", conv4=replace(narrow_net(Net()).conv4, shared=False))  # type: ignore[type-var]
    torch.manual_seed(0)
    layers = AlexNet(5, net).layers()
    torch.manual_seed(0)
    plain = AlexNet(5, replace(net, start="he")).layers()
    for name, layer in layers.items():
        weight, drawn = layer.weight.detach(), plain[name].weight.detach()
        units = drawn.flatten(3) if name == "conv4" else drawn.flatten(1)  # (row, column, unit, inputs), (unit, inputs)
        expected = drawn.view_as(units) - (units.mean(-1, keepdim=True) if name != "conv1" else 0)
        torch.testing.assert_close(weight.view_as(units), expected, rtol=0, atol=1e-6)
        assert not layer.bias.any()  # type: ignore[union-attr]


def test_blurred_kernels_have_the_covariance_of_blurred_noise() -> None:
    torch.manual_seed(0)
    conv1 = Conv(maps=2000, kernel=11, stride=4, padding=0, deviation=0.5, blur=1.2)
    without = dict.fromkeys(("conv2", "conv3", "conv4", "conv5", "fc6", "fc7"))
    net = AlexNet(2, Net(image_size=11, conv1=conv1, **without))  # type: ignore[arg-type]
    kernels = net.layers()["conv1"].weight.detach().double()
    assert float(kernels.mean()) == pytest.approx(0, abs=1e-3)
    for row, column in [(0, 0), (0, 1), (2, 0), (1, 2), (6, 0)]:
        products = kernels[..., : 11 - row, : 11 - column] * kernels[..., row:, column:]
        # The autocorrelation of a Gaussian is one of twice its variance: 1 / (4 pi s^2) exp(-d^2 / (4 s^2)).
        distance = row**2 + column**2
        expected = 0.5**2 / (4 * math.pi * 1.2**2) * math.exp(-distance / (4 * 1.2**2))
        assert float(products.mean()) == pytest.approx(expected, rel=0.02, abs=1e-4)
    edge, centre = kernels[..., 0, 0].std(), kernels[..., 5, 5].std()
    assert float(edge / centre) == pytest.approx(1, abs=0.05)  # nothing is missing beyond the edge

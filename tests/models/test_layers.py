"""The towers and the dropout of the net (sections 4.2 and 5.2)."""

from dataclasses import replace

import pytest
import torch
from small_nets import build_net, meta_net, narrow_net, random_pictures

from alexnet.architecture import Net
from alexnet.models.layers import Dropout
from alexnet.recipes import recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("layer", ["conv2", "conv3", "conv4", "conv5"])
@pytest.mark.parametrize("changed", [0, 1])
def test_a_tower_reads_the_other_in_conv3_only(layer: str, changed: int) -> None:
    model = build_net(narrow_net(Net()))
    block = model.convs[layer]
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
    model = build_net(narrow_net(recipe_named(name).net))
    x = random_pictures(1)
    with torch.no_grad():
        before = model.convs["conv1"](x)
        model.layers()["conv1"].bias[changed] += 50  # type: ignore[index]
        after = model.convs["conv1"](x)
    differs = {i for i in range(16) if not torch.equal(before[:, i], after[:, i])}
    assert differs == ({5, 6, 7} if changed == 7 else {8, 9, 10})


def test_without_the_connection_in_conv3_the_towers_are_separate_up_to_fc6() -> None:
    """Ablation 150 of 2012-source.md."""
    net = narrow_net(Net())
    assert net.conv3 is not None
    model = build_net(replace(net, conv3=replace(net.conv3, all_towers=False)))
    x = random_pictures(1).requires_grad_()
    maps = x
    for block in model.convs.values():
        maps = block(maps)
    model.zero_grad()
    maps[:, :6].sum().backward()  # tower 1's six maps of conv5
    for name in model.convs:
        gradient = model.layers()[name].weight.grad
        assert gradient is not None
        tower_1, tower_2 = gradient.unflatten(0, (2, -1))
        assert tower_1.any(), name
        assert not tower_2.any(), name


def test_dropout_zeroes_without_scaling_and_multiplies_by_a_half_at_test_time() -> None:
    torch.manual_seed(0)
    layer, x = Dropout(0.5), torch.randn(100, 1000, requires_grad=True)
    y = layer(x)
    mask = y != 0
    assert torch.equal(y, torch.where(mask, x, torch.zeros(())))
    assert float(mask.double().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(mask.double().mean(0).std()) == pytest.approx(0.05, abs=0.005)  # each output of each picture by itself
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, mask.float())  # what is dropped takes no part in back-propagation
    assert not torch.equal(layer(x) != 0, mask)  # drawn anew every time
    assert torch.equal(layer.eval()(x), 0.5 * x)


@pytest.mark.parametrize("p", [0.1, 0.8])
def test_dropout_of_other_probabilities_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    layer, x = Dropout(p), torch.ones(1000, 1000)
    assert float(layer(x).mean()) == pytest.approx(1 - p, abs=0.005)
    assert torch.equal(layer.eval()(x), x * (1 - p))


def test_only_the_first_two_full_layers_have_dropout() -> None:
    net, _ = meta_net()
    names = [name for name, module in net.named_modules() if isinstance(module, Dropout)]
    assert names == ["hidden.fc6.2", "hidden.fc7.2"]  # after the activation
    model = build_net(narrow_net(Net()))
    x = random_pictures(1)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))

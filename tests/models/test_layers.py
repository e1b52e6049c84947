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


def test_normalisation_over_all_towers_crosses_their_border() -> None:
    net = narrow_net(Net())
    assert net.normalise is not None
    model = build_net(replace(net, normalise=replace(net.normalise, all_towers=True)))
    x = random_pictures(1)
    with torch.no_grad():
        before = model.convs["conv1"](x)
        model.layers()["conv1"].bias[7] += 50  # type: ignore[index]
        after = model.convs["conv1"](x)
    assert {i for i in range(16) if not torch.equal(before[:, i], after[:, i])} == {5, 6, 7, 8, 9}


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


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_dropout_that_scales_in_training_is_torchs(p: float) -> None:
    """The masks are drawn by other generators, so what is kept is compared, and how much of it."""
    torch.manual_seed(0)
    ours, theirs = Dropout(p, scaling="train"), torch.nn.Dropout(p)
    x = torch.randn(100, 1000).add(5).requires_grad_()
    outputs = ours(x), theirs(x)
    for y in outputs:
        mask = y != 0
        torch.testing.assert_close(y, torch.where(mask, x / (1 - p), torch.zeros(())))
        assert float(mask.double().mean()) == pytest.approx(1 - p, abs=0.01)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, mask.float() / (1 - p))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert torch.equal(ours(x), x)


def test_the_last_maps_are_dropped_before_fc6_by_masks_of_their_own() -> None:
    net = replace(narrow_net(Net()), conv_dropout=0.5)
    model, x = build_net(net), random_pictures(2)
    assert [dropout.layer for dropout in model.dropouts()] == [2, 0, 1]
    read: list[torch.Tensor] = []
    model.layers()["fc6"].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    maps = model.convs(x).flatten(1)
    model(x)
    assert torch.equal(read[-1], 0.5 * maps)
    model.train()
    for dropout in model.dropouts():
        dropout.key = torch.tensor([3])
    model(x)
    mask = Dropout(0.5, layer=2)
    mask.key = torch.tensor([3])
    assert torch.equal(read[-1], mask(maps))
    assert 0.3 < float((read[-1] == 0).double().mean()) - float((maps == 0).double().mean()) / 2 < 0.7


def test_only_the_first_two_full_layers_have_dropout() -> None:
    net, _ = meta_net()
    names = [name for name, module in net.named_modules() if isinstance(module, Dropout)]
    assert names == ["hidden.fc6.2", "hidden.fc7.2"]  # after the activation
    model = build_net(narrow_net(Net()))
    x = random_pictures(1)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))

"""AlexNet as an ordinary module: features, autocast, state dict, export, compile."""

from dataclasses import replace

import pytest
import torch
from conftest import small_net
from small_nets import SMALL_NET, build_net, narrow_net, random_pictures

from alexnet.architecture import Full, Net
from alexnet.models.alexnet import AlexNet
from alexnet.recipes import recipe_named

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_logits_are_the_last_layer_of_the_features() -> None:
    net, x = build_net(narrow_net(Net())), random_pictures(3)
    assert net.features(x).shape == (3, 14)
    assert torch.equal(net(x), net.fc8(net.features(x)))


def test_pixels_are_scaled_before_the_first_layer() -> None:
    scaled, unscaled = (build_net(replace(narrow_net(Net()), pixel_scale=scale)) for scale in (0.25, 1.0))
    x = random_pictures(1)
    assert torch.equal(scaled(x), unscaled(0.25 * x))


def test_memory_format_changes_nothing_but_rounding() -> None:
    net, x = build_net(narrow_net(Net())), random_pictures()
    y = net(x)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), y, rtol=1e-10, atol=1e-12)


def test_bfloat16_autocast_is_near_float32() -> None:
    net, x = AlexNet(5, SMALL_NET).eval(), random_pictures().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), net(x), rtol=0.1, atol=0.02)


def test_a_state_dict_restores_the_net() -> None:
    net, x = build_net(narrow_net(Net())), random_pictures(1)
    names = [f"convs.conv{i}.0.{kind}" for i in range(1, 6) for kind in ("weight", "bias")]
    names += [f"hidden.{fc}.0.{kind}" for fc in ("fc6", "fc7") for kind in ("weight", "bias")]
    assert list(net.state_dict()) == [*names, "fc8.weight", "fc8.bias"]
    restored = AlexNet(5, narrow_net(Net())).double().eval()
    assert not torch.equal(restored(x), net(x))
    restored.load_state_dict(net.state_dict())
    assert torch.equal(restored(x), net(x))


def test_a_net_can_be_exported() -> None:
    net, x = AlexNet(5, SMALL_NET).eval(), random_pictures().float()
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(exported.module()(x), net(x))
    more = random_pictures(3, seed=1).float()
    torch.testing.assert_close(exported.module()(more), net(more))


def test_a_net_can_be_compiled_as_one_graph_and_trained() -> None:
    torch.manual_seed(0)
    run_net = replace(narrow_net(recipe_named("alexnet-2012-run").net), start="he", pixel_scale=1 / 64)
    net, x = AlexNet(5, run_net).eval(), random_pictures().float()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    loss, expected = compiled(x).square().sum(), net(x).square().sum()
    torch.testing.assert_close(loss, expected)
    weights = list(net.parameters())
    gradients = torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights)
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_net_without_classes_returns_its_features(hidden: bool) -> None:
    """The convention of timm's `num_classes=0`."""
    net = replace(small_net(), linear=Full(units=6))
    net = net if hidden else replace(net, fc6=None, fc7=None)
    torch.manual_seed(0)
    full, headless = AlexNet(3, net).eval(), AlexNet(0, net).eval()
    state = {name: value for name, value in full.state_dict().items() if not name.startswith(("fc8", "linear"))}
    headless.load_state_dict(state)  # it has these weights and no others
    x = torch.randn(2, 3, 24, 24)
    assert list(headless.layers()) == [name for name in full.layers() if name not in ("fc8", "linear")]
    assert torch.equal(headless(x), full.features(x))
    assert torch.equal(headless.features(x), full.features(x))
    assert headless(x).shape == (2, headless.num_features) == (2, full.num_features) == (2, 16 if hidden else 8)
    headless.reset_parameters()


@pytest.mark.parametrize("classes", [1, -3])
def test_fewer_than_two_classes_are_refused(classes: int) -> None:
    with pytest.raises(ValueError, match=f"^classes must be at least 2, or 0 .*; got {classes}$"):
        AlexNet(classes)


def test_the_linear_layer_is_between_the_hidden_layers_and_the_output_layer() -> None:
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

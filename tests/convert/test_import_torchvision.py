"""torchvision's AlexNet as a run: the same logits from the raw picture, whatever file its weights come in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from external_files import (
    TorchvisionAlexNet,
    assert_same_logits,
    drop_rates,
    our_logits,
    torchvision_pixels,
    write_pictures,
)
from safetensors.torch import save_file
from torch import nn

from alexnet.convert.import_net import import_net
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import load_best, load_train_state

pytestmark = pytest.mark.usefixtures("one_thread")
FULL = {"maps": (64, 192, 384, 256, 256), "units": 4096, "classes": 1000}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Odd picture files; tests must not write to their folder."""
    return write_pictures(tmp_path_factory.mktemp("odd"))


def save_legacy(state: dict[str, Any], file: Path) -> None:
    """Save as torch did before 1.6, as alexnet-owt-4df8aa71.pth is."""
    torch.save(state, file, _use_new_zipfile_serialization=False)


def with_prefix(prefix: str) -> Callable[[dict[str, Any], Path], None]:
    return lambda state, file: torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, file)


# Each writes a state_dict to a file in one of the ways that are found.
WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "alexnet.pth": torch.save,
    "alexnet-legacy.pth": save_legacy,
    "model.safetensors": save_file,
    "pytorch_model.bin": torch.save,
    "without-suffix": torch.save,
    "in-state_dict.pth.tar": lambda state, file: torch.save(
        {"epoch": 90, "state_dict": state, "arch": "alexnet"}, file
    ),
    "data-parallel.pth": with_prefix("module."),
    "prefixed.pth": with_prefix("model.backbone."),
    "features-parallel.pth": lambda state, file: torch.save(
        {name.replace("features.", "features.module."): tensor for name, tensor in state.items()}, file
    ),
    "half.safetensors": lambda state, file: save_file({name: t.half() for name, t in state.items()}, file),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_logits(name: str, pictures: list[Path], tmp_path: Path) -> None:
    net = TorchvisionAlexNet()
    if name.startswith("half"):
        net = net.half().float()  # the weights that half precision has
    WRITERS[name](net.state_dict(), tmp_path / name)
    imported = import_net(tmp_path / name, tmp_path / "run")
    assert (imported.format, len(imported.classes)) == ("torchvision", 5)
    assert_same_logits(tmp_path / "run", pictures, net, torchvision_pixels(pictures))


def test_the_net_at_full_size(pictures: list[Path], tmp_path: Path) -> None:
    net = TorchvisionAlexNet(**FULL)  # type: ignore[arg-type]
    torch.save(net.state_dict(), tmp_path / "alexnet.pth")
    imported = import_net(tmp_path / "alexnet.pth", tmp_path / "run")
    (tmp_path / "alexnet.pth").unlink()
    assert imported.parameters == 61_100_840  # as torchvision documents it
    assert imported.classes[0] == "class 0001"
    assert imported.classes[-1] == "class 1000"
    assert_same_logits(tmp_path / "run", pictures[:3], net, torchvision_pixels(pictures[:3]))
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()  # a quarter of a gigabyte


def test_the_run_says_what_torchvision_s_net_is(tmp_path: Path) -> None:
    torch.save(TorchvisionAlexNet().state_dict(), tmp_path / "alexnet.pth")
    import_net(tmp_path / "alexnet.pth", tmp_path / "run")
    checkpoint = load_best(tmp_path / "run")
    net = checkpoint.recipe.net
    assert Recipe.from_json((tmp_path / "run" / "recipe.json").read_text()) == checkpoint.recipe
    assert (net.image_size, net.towers, net.normalise, checkpoint.recipe.store_size) == (224, 1, None, 256)
    assert [side for _, side in net.sides().values()] == [27, 13, 13, 13, 6]
    assert (net.conv_dropout, net.fc6.dropout, net.fc7.dropout) == (0.5, 0.5, 0.0)  # type: ignore[union-attr]
    assert (net.conv1.rounding, net.conv1.pool_rounding) == ("down", "down")  # type: ignore[union-attr]
    assert load_train_state(checkpoint.path).finished
    means = checkpoint.statistics.mean.reshape(3, -1)
    assert means.min(1).tolist() == means.max(1).tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert checkpoint.statistics.colour_deviations().tolist() == pytest.approx([121.78, 37.094, 19.721])
    components = checkpoint.statistics.components
    assert abs(components @ components.T - torch.eye(3).numpy()).max() < 1e-3


def test_conv1_s_weights_stay_as_large_as_torchvision_s(tmp_path: Path) -> None:
    """So a rate that is right for the other layers is right for conv1."""
    net = TorchvisionAlexNet()
    torch.save(net.state_dict(), tmp_path / "alexnet.pth")
    import_net(tmp_path / "alexnet.pth", tmp_path / "run")
    ours = load_best(tmp_path / "run").net().layers()["conv1"].weight.detach()
    ratios = (ours / net.features[0].weight).detach()  # type: ignore[operator]
    assert [float(ratios[:, channel].mean()) for channel in range(3)] == pytest.approx([0.987, 1.009, 1.004], abs=1e-3)
    assert float(ratios.std((0, 2, 3)).max()) < 1e-5


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_file_without_the_last_layers_has_no_classes(layers: int, pictures: list[Path], tmp_path: Path) -> None:
    """The convolutions alone, or with fc6, or with fc6 and fc7, as an extractor of features."""
    net = TorchvisionAlexNet()
    state = {name: t for name, t in net.state_dict().items() if name.startswith("features")}
    for number in (1, 4)[:layers]:
        state |= {
            f"classifier.{number}.{kind}": net.state_dict()[f"classifier.{number}.{kind}"]
            for kind in ("weight", "bias")
        }
    save_file(state, tmp_path / "features.safetensors")
    imported = import_net(tmp_path / "features.safetensors", tmp_path / "run")
    assert imported.classes == ()
    assert list(imported.recipe.net.hidden()) == ["fc6", "fc7"][:layers]
    net.classifier = net.classifier[: 3 * layers]  # type: ignore[assignment]
    pixels = torchvision_pixels(pictures)
    with torch.no_grad():
        expected = net.eval()(pixels)
        features = load_best(tmp_path / "run").net().features
        logits = our_logits(tmp_path / "run", pictures)
    assert logits.shape == (len(pictures), [288, 20, 20][layers])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert features(torch.zeros(1, 3, 224, 224)).shape == (1, logits.shape[1])


def test_dropout_is_where_torchvision_has_it_and_scales_as_there(tmp_path: Path) -> None:
    theirs = TorchvisionAlexNet((8, 12, 16, 12, 24), units=400)
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    import_net(tmp_path / "alexnet.pth", tmp_path / "run")
    ours = load_best(tmp_path / "run").net()
    x = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 50
    for net, pixels in ((theirs, x / 50), (ours, x)):
        rates = drop_rates(net, pixels)
        assert [rate for rate, _ in rates] == pytest.approx([0.5, 0.5, 0], abs=0.05)
        assert [factor for _, factor in rates] == pytest.approx([2, 2, 1])


def test_the_gradients_of_all_layers_are_torchvision_s(pictures: list[Path], tmp_path: Path) -> None:
    theirs = TorchvisionAlexNet().eval()
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    import_net(tmp_path / "alexnet.pth", tmp_path / "run")
    ours = load_best(tmp_path / "run").net()
    pixels = torchvision_pixels(pictures)
    deviation = 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    labels = torch.arange(len(pictures)) % 5
    for net, x in ((theirs, pixels), (ours, pixels * deviation)):
        net.requires_grad_()
        nn.functional.cross_entropy(net(x), labels).backward()
    modules = [m for m in theirs.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for (name, layer), module in zip(ours.layers().items(), modules, strict=True):
        expected = module.weight.grad
        assert expected is not None
        assert layer.weight.grad is not None
        if name == "conv1":  # its weights have a factor for each channel, of 1 % or less
            torch.testing.assert_close(layer.weight.grad, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
        else:
            torch.testing.assert_close(
                layer.weight.grad, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()), msg=name
            )


def test_convolutions_alone_may_be_for_pictures_of_another_size(tmp_path: Path) -> None:
    net = TorchvisionAlexNet()
    save_file(net.features.state_dict(prefix="features."), tmp_path / "features.safetensors")
    imported = import_net(tmp_path / "features.safetensors", tmp_path / "run", image_size=128)
    x = torch.randn(2, 3, 128, 128)
    deviation = 255 * torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = net.features(x).flatten(1)
        features = load_best(tmp_path / "run").net()(x * deviation)
    assert imported.recipe.net.image_size == 128
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)

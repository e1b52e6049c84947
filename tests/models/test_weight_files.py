"""`AlexNet.from_run` and `load_weights`: what they read, and what they refuse in one line."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, small_net
from safetensors.torch import load_file, save_file

from alexnet.architecture import Conv
from alexnet.cli.main import main
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import load_best

pytestmark = pytest.mark.usefixtures("one_thread")


def plain_weights(net: AlexNet) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in net.weights().items()}


def save_plain(path: Path, net: AlexNet, metadata: dict[str, object] | None = None) -> Path:
    """Write the weights by plain names, with the metadata that `alexnet export` writes."""
    save_file(plain_weights(net), path, {"alexnet": json.dumps(metadata)} if metadata else None)
    return path


def assert_equal_weights(net: AlexNet, expected: AlexNet) -> None:
    assert [*net.weights()] == [*expected.weights()]
    assert all(torch.equal(weight, expected.weights()[name]) for name, weight in net.weights().items())


def test_the_net_of_a_run_is_that_of_its_best_checkpoint(uninterrupted: Path) -> None:
    net = AlexNet.from_run(uninterrupted)
    expected = load_best(uninterrupted).net()
    assert_equal_weights(net, expected)
    assert (net.net, net.classes, net.training) == (small_net(), len(CLASSES), False)
    x = torch.randn(2, 3, 24, 24)
    assert torch.equal(net(x), expected(x))


def test_without_a_best_checkpoint_it_is_that_of_the_last_one(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    last = list_checkpoints(uninterrupted)[-1]
    shutil.copy(last, tmp_path / "checkpoints")
    net = AlexNet(len(CLASSES), small_net())
    net.load_weights(last)
    assert_equal_weights(AlexNet.from_run(tmp_path), net)


def test_an_exported_folder_has_the_net_in_its_metadata(tmp_path: Path) -> None:
    net = AlexNet(3, replace(small_net(), towers=1))
    save_plain(tmp_path / "model.safetensors", net, {"net": asdict(net.net), "classes": ["a", "b", "c"]})
    loaded = AlexNet.from_run(tmp_path)
    assert loaded.net == net.net
    assert_equal_weights(loaded, net)


def test_weights_by_plain_names_need_no_metadata(tmp_path: Path) -> None:
    net, other = AlexNet(3, small_net()), AlexNet(3, small_net())
    other.load_weights(save_plain(tmp_path / "plain.safetensors", net))
    assert_equal_weights(other, net)


def test_the_names_of_the_paper_net_are_those_of_its_layers() -> None:
    with torch.device("meta"):
        names = [*AlexNet().weights()]
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    assert names == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"conv2": Conv(maps=16)}, 3, r"layer conv2 with conv2\.weight of shape \(8, 4, .*got \(16, 4, 3, 3\)"),
        ({}, 4, r"layer fc8 with fc8\.weight of shape \(3, 16\), as this net; got \(4, 16\)"),
        ({"conv4": None}, 3, r"must have layer conv4, with conv4\.weight of shape \(8, 6, 3, 3\); it has none"),
        ({"conv6": Conv(maps=8)}, 3, r"no other layers than this net \(conv1, .*, fc8\); got conv6: build"),
    ],
)
def test_weights_of_another_net_are_refused_with_the_layer(
    tmp_path: Path, changes: dict[str, Conv | None], classes: int, message: str
) -> None:
    net, other = AlexNet(3, small_net()), AlexNet(classes, replace(small_net(), **changes))
    before = plain_weights(net)
    with pytest.raises(ValueError, match=message) as caught:
        net.load_weights(save_plain(tmp_path / "other.safetensors", other))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(weight, before[name]) for name, weight in net.weights().items())


@pytest.mark.parametrize("content", ["text", "cut off", "empty"])
def test_a_file_that_is_not_safetensors_is_refused(uninterrupted: Path, tmp_path: Path, content: str) -> None:
    whole = (uninterrupted / "checkpoints" / "best.safetensors").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes({"text": b"not tensors, but a text", "cut off": whole[: len(whole) // 2], "empty": b""}[content])
    for load in (lambda: AlexNet(3, small_net()).load_weights(path), lambda: AlexNet.from_run(tmp_path)):
        with pytest.raises(ValueError, match=r"model.safetensors must be a safetensors file; it cannot be read"):
            load()


def test_a_missing_file_and_a_folder_without_a_net_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.safetensors must be a safetensors file; there is no such file"):
        AlexNet(3, small_net()).load_weights(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="must hold a trained net"):
        AlexNet.from_run(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "x.jpg"],
        ["export", "x.onnx"],
        ["index", "s"],
        ["report"],
        ["figures"],
        ["verify"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_run_with_nothing_but_a_damaged_recipe_is_reported_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (tmp_path / "recipe.json").write_text("{")
    command, *others = arguments
    assert main([command, str(tmp_path), *others]) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path}/recipe.json: recipe must be a JSON object" in message
    assert message.count("\n") == 1
    (tmp_path / "recipe.json").write_text(Recipe().to_json())
    assert main([command, str(tmp_path), *others]) == 2
    assert "recipe must be" not in capsys.readouterr().err


@pytest.mark.parametrize("metadata", [{}, {"net": {"image_size": 0}, "classes": ["a", "b"]}, {"classes": ["a", "b"]}])
def test_from_run_needs_to_know_the_net(tmp_path: Path, metadata: dict[str, object]) -> None:
    save_plain(tmp_path / "model.safetensors", AlexNet(2, small_net()), metadata)
    with pytest.raises(ValueError, match=r"model.safetensors must tell its net and classes in its metadata"):
        AlexNet.from_run(tmp_path)


def test_only_weights_are_read_of_a_checkpoint(uninterrupted: Path) -> None:
    last = list_checkpoints(uninterrupted)[-1]
    assert {name.partition(".")[0] for name in load_file(last)} == {"net", "velocity", "random", "statistics"}
    AlexNet(3, small_net()).load_weights(last)

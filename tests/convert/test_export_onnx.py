"""Exported ONNX files: ONNX Runtime computes what our nets do, with standard operators only."""

import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exported_nets import NAMES, lively_net, narrow_net, narrow_recipe, random_mean, random_squares, to_pixels
from torch import Tensor

from alexnet.architecture import Conv, Full, MapNorm, Net, ResponseNorm
from alexnet.convert.plain_net import PlainNet
from alexnet.convert.to_onnx import OLDEST_OPSET, to_onnx
from alexnet.data.loading.views import select_views
from alexnet.models.alexnet import AlexNet
from alexnet.net_variants import with_abs_tanh, with_logistic
from alexnet.recipes import RECIPES
from alexnet.training.inference import predict_pictures

pytestmark = pytest.mark.usefixtures("one_thread")


def open_onnx(contents: bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX file in ONNX Runtime, which has no part in this project."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])


def assert_close(actual: np.ndarray | Tensor, expected: Tensor) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected.numpy(), rtol=0, atol=1e-4)


def assert_equal_logits(net: AlexNet, opset: int = OLDEST_OPSET) -> onnx.ModelProto:
    """Check that a net, its plain form and its ONNX file compute the same logits; return the file's model."""
    side = net.net.image_size
    mean, pixels = torch.from_numpy(random_mean(side)), to_pixels(random_squares(3, side))
    with torch.inference_mode():
        expected = net(pixels - mean)
        assert_close(PlainNet(net, mean)(pixels), expected)
    assert expected.std(0).mean() > 0.3, "the logits must depend on the picture"

    contents = to_onnx(net, mean, "{}", opset)
    model = onnx.load_from_string(contents)
    if len(contents) < 2**24:  # the check copies the file several times
        onnx.checker.check_model(model, full_check=True)
    session = open_onnx(contents)
    outputs = session.run(None, {"pixels": pixels.numpy()})
    for actual, values in zip(outputs, (expected, expected.softmax(1)) if net.classes else (expected,), strict=True):
        assert_close(actual, values)
    alone, *_ = session.run(None, {"pixels": pixels[1:2].numpy()})  # any number of pictures
    assert_close(alone, expected[1:2])
    return model


@pytest.mark.parametrize("name", RECIPES)
def test_the_net_of_every_recipe_from_all_its_views(name: str) -> None:
    recipe = narrow_recipe(RECIPES[name]())
    net = lively_net(recipe.net)
    assert_equal_logits(net)

    side, crop = recipe.store_size, recipe.net.image_size
    squares, mean = random_squares(2, side), random_mean(side)
    expected = predict_pictures(net, squares, mean, recipe, recipe.views)
    crops = [
        square[top : top + crop, left : left + crop][:, :: -1 if reflected else 1]
        for square in squares
        for top, left, reflected in select_views(recipe.views, side, crop)
    ]
    start = (side - crop) // 2
    centre = torch.from_numpy(mean[:, start : start + crop, start : start + crop])
    session = open_onnx(to_onnx(net, centre, "{}"))
    (probabilities,) = session.run(["probabilities"], {"pixels": to_pixels(crops).numpy()})
    assert_close(probabilities.reshape(len(squares), -1, len(NAMES)).mean(1), expected)


@pytest.mark.parametrize("name", ["alexnet-2012-paper", "alexnet-2012-run"])
def test_the_paper_nets_in_full_size(name: str) -> None:
    assert_equal_logits(lively_net(RECIPES[name]().net, classes=1000))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def attributes(model: onnx.ModelProto, name: str) -> dict[str, Any]:
    (node,) = [node for node in model.graph.node if node.name == name]
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def test_the_graph_has_standard_operators_with_the_names_of_the_layers() -> None:
    net = lively_net(narrow_net(Net()))
    model = assert_equal_logits(net)
    assert {node.domain for node in model.graph.node} == {""}
    assert operators(model) >= Counter(Conv=5, LRN=2, MaxPool=3, Relu=7, Gemm=3, Softmax=1)
    names = [node.name for node in model.graph.node]
    suffixes = ["", "_normalise_relu", "_normalise_towers", "_normalise_in_towers", "_normalise", "_pool"]
    assert [name for name in names if name.startswith("conv1")] == [f"conv1{suffix}" for suffix in suffixes]
    assert [attributes(model, f"conv{n}")["group"] for n in range(1, 6)] == [1, 2, 1, 2, 2]
    assert attributes(model, "conv1")["pads"] == [0, 0, 3, 3]  # 224 becomes 55
    norm = attributes(model, "conv1_normalise_in_towers")
    assert norm == pytest.approx({"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0})  # the standard divides by 5
    (pixels,) = model.graph.input
    shape = [size.dim_param or size.dim_value for size in pixels.type.tensor_type.shape.dim]
    assert (pixels.name, shape) == ("pixels", ["batch", 3, 224, 224])
    shapes = [[size.dim_param or size.dim_value for size in o.type.tensor_type.shape.dim] for o in model.graph.output]
    assert ([o.name for o in model.graph.output], shapes) == (["logits", "probabilities"], [["batch", 7]] * 2)


SMALL = Net(
    image_size=20,
    conv1=Conv(maps=8, kernel=5, stride=2, padding=1, then=("activate", "normalise", "pool")),
    conv2=Conv(maps=8, kernel=3, then=("activate", "normalise", "pool")),
    conv3=Conv(maps=8, all_towers=True),
    conv4=None,
    conv5=None,
    fc6=None,
    fc7=None,
)
VARIANTS = {
    "tanh": replace(SMALL, activation="tanh"),
    "logistic": with_logistic(SMALL),
    "magnitude of tanh, contrast normalised in towers": with_abs_tanh(SMALL),
    "contrast normalised in one tower": replace(with_abs_tanh(SMALL), towers=1),
    "a window of four maps": replace(SMALL, normalise=ResponseNorm(size=4, alpha=0.01)),
    "alpha over the window": replace(SMALL, normalise=ResponseNorm(size=3, alpha=0.02, beta=0.5, alpha_over_size=True)),
    "within maps": replace(
        SMALL, conv2=Conv(maps=8, then=("normalise_map", "activate")), normalise_map=MapNorm(alpha=0.1)
    ),
    "average pooling": replace(SMALL, conv2=Conv(maps=8, pooling="average", then=("activate", "pool"))),
    "local in towers": replace(
        SMALL, conv2=Conv(maps=8, shared=False, stride=2, padding=0), conv3=Conv(maps=8, shared=False)
    ),
    "pooling of 4 by 3": replace(SMALL, pool_size=4, pool_stride=3, conv2=Conv(maps=8)),
    "rounded down": replace(
        SMALL,
        conv1=replace(SMALL.convs()["conv1"], rounding="down", pool_rounding="down"),
        conv2=Conv(maps=8, pooling="average", then=("activate", "pool"), pool_rounding="down"),
    ),
    "windows over both towers": replace(SMALL, normalise=ResponseNorm(alpha=0.01, all_towers=True)),
    "dropout scaled in training": replace(
        SMALL, fc6=Full(units=9, dropout=0.5), conv_dropout=0.5, dropout_scaling="train"
    ),
    "dropout of the last maps": replace(SMALL, conv_dropout=0.3),
    "a linear layer": replace(SMALL, linear=Full(units=5), fc6=Full(units=9, dropout=0.3)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_other_layers_than_the_recipes_have(name: str) -> None:
    assert_equal_logits(lively_net(VARIANTS[name]))


@pytest.mark.parametrize("fc6", [None, Full(units=9, dropout=0.5)])
def test_a_net_without_an_output_layer_has_the_output_features(fc6: Full | None) -> None:
    net = lively_net(replace(SMALL, fc6=fc6, linear=Full(units=5)), classes=0)
    model = assert_equal_logits(net)
    assert [output.name for output in model.graph.output] == ["features"]


@pytest.mark.parametrize("opset", [OLDEST_OPSET, onnx.defs.onnx_opset_version()])
def test_the_opset_is_the_one_asked_for(opset: int) -> None:
    model = assert_equal_logits(lively_net(SMALL), opset)
    assert [(operators.domain, operators.version) for operators in model.opset_import] == [("", opset)]


@pytest.mark.parametrize("opset", [-1, 16, onnx.defs.onnx_opset_version() + 1])
def test_an_opset_that_cannot_be_written_is_refused(opset: int) -> None:
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(ValueError, match=f"opset must be from 17 to {newest}.*; got {opset}: leave it out$"):
        to_onnx(AlexNet(2, SMALL), torch.zeros(3, 20, 20), "{}", opset)


def test_a_net_of_two_gigabytes_is_refused() -> None:
    with torch.device("meta"):
        net = AlexNet(1000, Net(fc7=Full(units=100_000)))
    with pytest.raises(ValueError, match=r"less than 2 GB; got 2\.\d GB: use `state=FILE`"):
        to_onnx(net, torch.zeros(3, 224, 224), "{}")


def test_without_onnx_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'alexnet\[onnx\]'"):
        to_onnx(AlexNet(2, SMALL), torch.zeros(3, 20, 20), "{}")

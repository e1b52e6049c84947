"""Caffe's AlexNet and CaffeNet as runs, from a .caffemodel and from ONNX: the same logits from the raw picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from external_files import (
    CaffeAlexNet,
    ZooAlexNet,
    assert_same_logits,
    blob,
    caffe_layer,
    caffe_onnx,
    caffe_pixels,
    caffemodel,
    drop_rates,
    our_logits,
    transform_settings,
    write_pictures,
)
from onnx import helper, numpy_helper

from alexnet.convert.import_net import import_net
from alexnet.training.checkpoint import load_best

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN = np.array([104.0, 117.0, 123.0])  # B, G, R


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Odd picture files; tests must not write to their folder."""
    return write_pictures(tmp_path_factory.mktemp("odd"))


def write(path: Path, contents: bytes) -> Path:
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("pools_first", [False, True])
@pytest.mark.parametrize("old", [True, False])
def test_a_caffemodel_gives_the_same_logits(old: bool, pools_first: bool, pictures: list[Path], tmp_path: Path) -> None:
    net = CaffeAlexNet(pools_first=pools_first)
    imported = import_net(write(tmp_path / "net.caffemodel", caffemodel(net, old=old)), tmp_path / "run")
    assert imported.format == "Caffe"
    assert_same_logits(tmp_path / "run", pictures, net, caffe_pixels(pictures, MEAN))
    described = imported.recipe.net
    assert (described.image_size, described.towers, described.pixel_scale) == (227, 2, 1.0)
    assert [conv.all_towers for conv in described.convs().values()] == [False, False, True, False, False]
    assert described.normalises_across_towers
    assert described.normalise is not None
    assert (described.normalise.k, described.normalise.alpha, described.normalise.alpha_over_size) == (1.0, 1e-4, True)


def test_the_net_at_full_size(pictures: list[Path], tmp_path: Path) -> None:
    """bvlc_alexnet, as it is distributed: of the old version."""
    net = CaffeAlexNet((96, 256, 384, 384, 256), 4096, 1000)
    file = write(tmp_path / "bvlc_alexnet.caffemodel", caffemodel(net, old=True))
    imported = import_net(file, tmp_path / "run")
    file.unlink()
    assert imported.parameters == 60_965_224  # as the paper's net
    assert_same_logits(tmp_path / "run", pictures[1:4], net, caffe_pixels(pictures[1:4], MEAN))
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        checkpoint.unlink()  # a quarter of a gigabyte


# How the mean is given, and what it is, (3,) or (3, 256, 256) in the order B, G, R.
def _mean_image() -> np.ndarray:
    return np.random.default_rng(1).uniform(80, 140, (3, 256, 256)).astype(np.float32)


MEANS: dict[str, tuple[Callable[[Path], Any], np.ndarray]] = {
    "three numbers": (lambda _: "90,100.5,130", np.array([90, 100.5, 130])),
    "binaryproto of old": (
        lambda folder: write(folder / "mean.binaryproto", blob(_mean_image(), old=True)),
        _mean_image(),
    ),
    "binaryproto": (lambda folder: write(folder / "mean.binaryproto", blob(_mean_image(), old=False)), _mean_image()),
    "npy": (lambda folder: np.save(folder / "mean.npy", _mean_image()) or folder / "mean.npy", _mean_image()),
    "npy of three": (lambda folder: np.save(folder / "mean.npy", MEAN + 3) or folder / "mean.npy", MEAN + 3),
}


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_is_subtracted_as_caffe_does(name: str, pictures: list[Path], tmp_path: Path) -> None:
    make, mean = MEANS[name]
    net = CaffeAlexNet()
    file = write(tmp_path / "net.caffemodel", caffemodel(net, old=False))
    import_net(file, tmp_path / "run", mean=make(tmp_path))
    assert_same_logits(tmp_path / "run", pictures, net, caffe_pixels(pictures, mean))


def test_mean_scale_and_size_are_read_from_the_file(pictures: list[Path], tmp_path: Path) -> None:
    net = CaffeAlexNet()
    transform = transform_settings(crop=224, scale=0.25, mean=(100, 110, 120))
    imported = import_net(
        write(tmp_path / "net.caffemodel", caffemodel(net, old=False, transform=transform)), tmp_path / "run"
    )
    assert (imported.recipe.net.image_size, imported.recipe.net.pixel_scale) == (224, 0.25)
    pixels = 0.25 * caffe_pixels(pictures, np.array([100.0, 110, 120]), 224)
    assert_same_logits(tmp_path / "run", pictures, net, pixels)


def test_dropout_is_where_caffe_has_it_and_scales_as_there(tmp_path: Path) -> None:
    theirs = CaffeAlexNet(units=400)
    import_net(write(tmp_path / "net.caffemodel", caffemodel(theirs, old=False)), tmp_path / "run")
    ours = load_best(tmp_path / "run").net()
    x = 60 * torch.randn(8, 3, 227, 227, generator=torch.Generator().manual_seed(0))
    for net, pixels in ((theirs, x), (ours, x.flip(1))):
        rates = drop_rates(net, pixels)
        assert [rate for rate, _ in rates] == pytest.approx([0, 0.5, 0.5], abs=0.05)
        assert [factor for _, factor in rates] == pytest.approx([1, 2, 2])


# ---- ONNX -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pools_first", [False, True])
@pytest.mark.parametrize("opset", [9, 12])
def test_onnx_of_227_pixels_gives_the_same_logits(
    opset: int, pools_first: bool, pictures: list[Path], tmp_path: Path
) -> None:
    net = CaffeAlexNet(pools_first=pools_first)
    model = caffe_onnx(net, 227, opset=opset)
    if opset == 12:  # the ratio of a dropout is an input from there on
        for node in model.graph.node:
            if node.op_type == "Dropout":
                del node.attribute[:]
                node.input.append("ratio")
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "ratio"))
    onnx.save(model, tmp_path / "net.onnx")
    imported = import_net(tmp_path / "net.onnx", tmp_path / "run")
    assert imported.format == "ONNX"
    assert_same_logits(tmp_path / "run", pictures, net, caffe_pixels(pictures, MEAN))


def test_the_model_zoo_s_file_of_224_pixels_is_what_onnx_runtime_computes(pictures: list[Path], tmp_path: Path) -> None:
    net = ZooAlexNet()
    model = caffe_onnx(net, 224)
    onnx.save(model, tmp_path / "bvlcalexnet-9.onnx")
    imported = import_net(tmp_path / "bvlcalexnet-9.onnx", tmp_path / "run")
    assert list(imported.recipe.net.sides().values()) == [(54, 26), (26, 12), (12, 12), (12, 12), (12, 6)]
    pixels = caffe_pixels(pictures, MEAN, 224)
    assert_same_logits(tmp_path / "run", pictures, net, pixels)
    model.ir_version = 4  # onnxruntime warns of weights among the inputs otherwise
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    probabilities = np.concatenate([session.run(None, {"data_0": picture[None].numpy()})[0] for picture in pixels])
    ours = our_logits(tmp_path / "run", pictures).softmax(1)
    np.testing.assert_allclose(ours.numpy(), probabilities, rtol=0, atol=1e-5)


def test_the_model_zoo_s_file_may_be_used_at_caffe_s_227_pixels(pictures: list[Path], tmp_path: Path) -> None:
    net = CaffeAlexNet()
    onnx.save(caffe_onnx(net, 224), tmp_path / "bvlcalexnet-9.onnx")
    import_net(tmp_path / "bvlcalexnet-9.onnx", tmp_path / "run", image_size=227)
    assert_same_logits(tmp_path / "run", pictures, net, caffe_pixels(pictures, MEAN))


# ---- Other architectures --------------------------------------------------------------------------------------------


def with_layer(layer: bytes) -> bytes:
    """Return a .caffemodel of the old version with one more layer."""
    return caffemodel(CaffeAlexNet(), old=True) + layer


def onnx_with(kind: str, **attributes: Any) -> bytes:
    """Return a net in ONNX whose first node of a kind has other attributes."""
    model = caffe_onnx(CaffeAlexNet(), 227)
    node = next(node for node in model.graph.node if node.op_type == kind)
    names = [attribute.name for attribute in node.attribute if attribute.name in attributes]
    for name in names:
        del node.attribute[[a.name for a in node.attribute].index(name)]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return bytes(model.SerializeToString())


def onnx_without_norm() -> bytes:
    model = caffe_onnx(CaffeAlexNet(), 227)
    for node in model.graph.node:
        if node.op_type == "LRN":
            node.op_type = "Identity"
            del node.attribute[:]
    return bytes(model.SerializeToString())


def odd_net(**sizes: Any) -> CaffeAlexNet:
    net = CaffeAlexNet()
    for name, module in sizes.items():
        setattr(net, name, module)
    return net


UNSUITABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "another type of layer": (
        lambda: with_layer(caffe_layer("mix", "Concat", "fc8", "mix", old=True)),
        "an AlexNet must have no layer of type Concat; mix is one",
    ),
    "no chain": (
        lambda: with_layer(caffe_layer("relu9", "ReLU", "conv1", "conv1", old=True)),
        "an AlexNet must be one chain of layers; relu9 does not read fc8",
    ),
    "channels": (
        lambda: caffemodel(odd_net(conv3=torch.nn.Conv2d(10, 16, 3, padding=1)), old=True),
        "layer conv3 must read 12 maps or channels; got 10",
    ),
    "groups": (
        lambda: caffemodel(odd_net(conv4=torch.nn.Conv2d(16, 12, 3, padding=1, groups=4)), old=False),
        "in 1 or 4 groups, conv1 in one; got 2",
    ),
    "inputs": (
        lambda: caffemodel(odd_net(fc6=torch.nn.Linear(100, 20)), old=True),
        r"layer fc6 must read 288 inputs \(8 maps of 6 x 6\); got 100",
    ),
    "infinite": (
        lambda: caffemodel(odd_net(fc7=_infinite()), old=True),
        "layer fc7 must have finite weights; it has infinity or NaN",
    ),
    "no weights": (
        lambda: b"\x0a\x01x" + caffe_layer("conv1", "Convolution", "data", "conv1", old=False),
        "layer conv1 must have weights; it has none",
    ),
    "no scale": (
        lambda: caffemodel(CaffeAlexNet(), old=False, transform=transform_settings(scale=-1.0)),
        "the scale of the pixels must be a finite number above 0; got -1.0",
    ),
    "no layers": (lambda: b"\x0a\x07AlexNet", "it must have layers; it has none"),
    "cut off": (lambda: caffemodel(CaffeAlexNet(), old=True)[:-1000], "it must be a whole file of Caffe"),
    "onnx: cut off": (
        lambda: bytes(caffe_onnx(CaffeAlexNet(), 227).SerializeToString()[:-5000]),
        "it must be a whole file of ONNX",
    ),
    "onnx: quantised": (lambda: _quantised(), "an AlexNet must have no node of type QLinearConv; n0 is one"),
    "onnx: padding": (lambda: onnx_with("MaxPool", pads=[1, 1, 1, 1]), "padding at the right and at the bottom only"),
    "onnx: other padding": (
        lambda: onnx_with("Conv", pads=[0, 0, 3, 3]),
        "the same stride and padding in all directions",
    ),
    "onnx: no window": (lambda: onnx_with("MaxPool", kernel_shape=3), "must have the attributes of a MaxPool"),
    "onnx: dilation": (lambda: onnx_with("Conv", dilations=[2, 2]), "must have dilation 1"),
    "onnx: factors": (lambda: onnx_with("Gemm", alpha=0.5), "must have alpha 1, beta 1 and transA 0"),
    "onnx: no normalisation": (onnx_without_norm, "it must be Caffe's AlexNet or CaffeNet, which normalise"),
}


def _infinite() -> torch.nn.Linear:
    layer = torch.nn.Linear(20, 20)
    torch.nn.init.constant_(layer.bias, torch.inf)
    return layer


def _quantised() -> bytes:
    model = caffe_onnx(CaffeAlexNet(), 227)
    model.graph.node[0].op_type = "QLinearConv"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_is_no_alexnet_is_named(name: str, tmp_path: Path) -> None:
    make, message = UNSUITABLE[name]
    file = write(tmp_path / "net.bin", make())
    with pytest.raises(ValueError, match=message) as raised:
        import_net(file, tmp_path / "run")
    assert str(raised.value).startswith(f"{file}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin"]


@pytest.mark.parametrize(
    ("mean", "error", "message"),
    [
        (
            "nowhere.npy",
            FileNotFoundError,
            "`mean` must be three numbers B,G,R or a file; there is no file nowhere.npy",
        ),
        ("104,117", ValueError, r"must have three finite numbers, or one for each .*\(3, 256, 256\); got \(2,\)"),
        ("{folder}/small.npy", ValueError, r"got \(3, 227, 227\)"),
        ("{folder}/cut.binaryproto", ValueError, "cut.binaryproto: it must be a whole file of Caffe"),
        ("{folder}/pickled.npy", ValueError, "pickled.npy: .*Python objects"),
    ],
)
def test_a_mean_that_does_not_fit_is_named(mean: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "net.caffemodel", caffemodel(CaffeAlexNet(), old=False))
    np.save(tmp_path / "small.npy", np.zeros((3, 227, 227)))
    np.save(tmp_path / "pickled.npy", np.array([None]), allow_pickle=True)
    write(tmp_path / "cut.binaryproto", blob(_mean_image(), old=True)[:-3])
    with pytest.raises(error, match=message):
        import_net(file, tmp_path / "run", mean=mean.format(folder=tmp_path))
    assert not (tmp_path / "run").exists()

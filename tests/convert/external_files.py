"""Nets of other programs written out in plain torch, their files in the true formats, and pictures to compare on."""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import make_view_batch, select_views
from alexnet.data.prepare.decode import read_image
from alexnet.training.checkpoint import load_best

SMALL = (8, 12, 16, 12, 8)  # maps of conv1 to conv5
SIZE = 256  # side of the stored pictures


# ---- The nets -------------------------------------------------------------------------------------------------------


class TorchvisionAlexNet(nn.Module):
    """The net of torchvision/models/alexnet.py, with its names."""

    def __init__(self, maps: Sequence[int] = SMALL, units: int = 20, classes: int = 5) -> None:
        super().__init__()
        a, b, c, d, e = maps
        self.features = nn.Sequential(
            *(nn.Conv2d(3, a, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(b, c, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(c, d, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(e * 36, units), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(units, units), nn.ReLU()),
            nn.Linear(units, classes),
        )
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return y


class CaffeAlexNet(nn.Module):
    """The net of models/bvlc_alexnet/deploy.prototxt or, with `pools_first`, of models/bvlc_reference_caffenet."""

    def __init__(
        self,
        maps: Sequence[int] = SMALL,
        units: int = 20,
        classes: int = 5,
        *,
        pools_first: bool = False,
        side: int = 6,
    ) -> None:
        super().__init__()
        a, b, c, d, e = maps
        self.pools_first = pools_first
        self.conv1 = nn.Conv2d(3, a, 11, stride=4)
        self.conv2 = nn.Conv2d(a, b, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(b, c, 3, padding=1)
        self.conv4 = nn.Conv2d(c, d, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(d, e, 3, padding=1, groups=2)
        self.fc6, self.fc7, self.fc8 = nn.Linear(e * side**2, units), nn.Linear(units, units), nn.Linear(units, classes)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = F.relu(conv(x))
            if self.pools_first:
                x = F.local_response_norm(self.pool(x), 5, 1e-4, 0.75, 1.0)
            else:
                x = self.pool(F.local_response_norm(x, 5, 1e-4, 0.75, 1.0))
        x = F.relu(self.conv5(F.relu(self.conv4(F.relu(self.conv3(x))))))
        x = self.pool(x, last=True).flatten(1)
        x = self.drop6(F.relu(self.fc6(x)))
        x = self.drop7(F.relu(self.fc7(x)))
        y: Tensor = self.fc8(x)
        return y

    def pool(self, x: Tensor, last: bool = False) -> Tensor:  # noqa: ARG002 (for ZooAlexNet)
        """Pool as Caffe does: windows over the edge are cut."""
        return F.max_pool2d(x, 3, 2, ceil_mode=True)


class ZooAlexNet(CaffeAlexNet):
    """The net of bvlcalexnet-*.onnx at its 224 pixels: the first two poolings round down, the last one is padded."""

    def pool(self, x: Tensor, last: bool = False) -> Tensor:
        if last:
            x = F.pad(x, (0, 1, 0, 1), value=-torch.inf)
        return F.max_pool2d(x, 3, 2)


@torch.no_grad()
def draw_weights(net: nn.Module) -> None:
    """Draw weights with which the logits differ from picture to picture; conv1 as large as for pixels of this net."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in net.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            if isinstance(net, CaffeAlexNet) and name == "conv1.weight":
                parameter.mul_(1 / 16)
        else:
            parameter.uniform_(-0.3, 0.3, generator=generator)


# ---- Pictures, and what is put into the nets ------------------------------------------------------------------------


def write_pictures(folder: Path) -> list[Path]:
    """Write odd pictures: in colour and large, grey, tall, wide, with transparency, smaller than the square."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)

    def draw(height: int, width: int, channels: int) -> np.ndarray:
        coarse = random.integers(0, 256, (height // 16 + 1, width // 16 + 1, channels))
        pixels = np.kron(coarse, np.ones((16, 16, 1)))[:height, :width] * 0.8 + random.integers(
            0, 50, (height, width, 1)
        )
        return pixels.clip(0, 255).astype(np.uint8)

    pictures = {
        "large.png": Image.fromarray(draw(300, 400, 3)),
        "grey.png": Image.fromarray(draw(280, 260, 1)[..., 0], "L"),
        "tall.jpg": Image.fromarray(draw(700, 90, 3)),
        "wide.png": Image.fromarray(draw(64, 500, 3)),
        "clear.png": Image.fromarray(draw(256, 256, 4), "RGBA"),
        "tiny.png": Image.fromarray(draw(20, 30, 3)),
    }
    for name, picture in pictures.items():
        picture.save(folder / name)
    return [folder / name for name in pictures]


def our_logits(run: Path, pictures: Sequence[Path]) -> Tensor:
    """Return what a run's net puts out for the centre of pictures, from their files, as `predict` computes it."""
    checkpoint = load_best(run)
    net, crop = checkpoint.net().to_channels_last(torch.device("cpu")), checkpoint.recipe.net.image_size
    squares = [read_image(picture, SIZE) for picture in pictures]
    centre = torch.from_numpy(centre_mean(checkpoint.statistics.mean, crop))
    with torch.inference_mode():
        y: Tensor = net(make_view_batch(squares, select_views(1, SIZE, crop), centre))
    return y


def stored_squares(pictures: Sequence[Path], crop: int) -> Tensor:
    """Return the centres of the stored pictures, (N, 3, crop, crop) in 0..255, for the other program's net."""
    start = (SIZE - crop) // 2
    squares = np.stack([read_image(picture, SIZE) for picture in pictures])
    return torch.from_numpy(squares[:, start : start + crop, start : start + crop]).permute(0, 3, 1, 2).double()


def torchvision_pixels(pictures: Sequence[Path]) -> Tensor:
    """Return what torchvision's transforms make of the stored pictures: ToTensor and Normalize."""
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((stored_squares(pictures, 224) / 255 - mean) / deviation).float()


def caffe_pixels(pictures: Sequence[Path], mean: np.ndarray, crop: int = 227) -> Tensor:
    """Return what Caffe makes of the stored pictures: BGR less the mean, (3,) or (3, 256, 256) in the order BGR."""
    if mean.ndim == 3:
        start = (SIZE - crop) // 2
        mean = mean[:, start : start + crop, start : start + crop]
    pixels = stored_squares(pictures, crop)[:, [2, 1, 0]]
    return (pixels - torch.from_numpy(mean.reshape(3, *(mean.shape[1:] or (1, 1))))).float()


@torch.inference_mode()
def assert_same_logits(run: Path, pictures: Sequence[Path], net: nn.Module, pixels: Tensor) -> None:
    """Check that a run's net puts out what another program's net does, to 1e-5 of the size of the logits."""
    expected, logits = net.eval()(pixels), our_logits(run, pictures)
    size = float(expected.abs().max())
    assert float(expected.std(0).mean()) > 0.05 * size  # the logits depend on the picture
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * size)


def linear_inputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return what each fully connected layer of a net reads."""
    inputs: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
        for module in net.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return inputs


@torch.no_grad()
def drop_rates(net: nn.Module, x: Tensor) -> list[tuple[float, float]]:
    """Return for each fully connected layer which share of what it reads is dropped in training, and the factor."""
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    clean = linear_inputs(net.eval(), x)[0]
    torch.manual_seed(0)
    rates = []
    for layer, read in zip(layers, linear_inputs(net.train(), x), strict=True):
        kept = (clean != 0) & (read != 0)
        factor = float((read[kept] / clean[kept]).mean())
        torch.testing.assert_close(read[kept], factor * clean[kept])
        rates.append((1 - float(kept.sum() / (clean != 0).sum()), factor))
        clean = F.relu(layer(read))  # what the next layer reads without dropout
    return rates


# ---- Caffe's files, byte by byte ------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def message(number: int, contents: bytes | str) -> bytes:
    """Return a field of protobuf that has a length: a message, a text, packed numbers."""
    contents = contents.encode() if isinstance(contents, str) else contents
    return _varint(number << 3 | 2) + _varint(len(contents)) + contents


def blob(array: np.ndarray, *, old: bool) -> bytes:
    """Return a BlobProto: with num, channels, height and width as of old, or with a shape."""
    data = message(5, np.ascontiguousarray(array, "<f4").tobytes())
    if old:
        shape = (1,) * (4 - array.ndim) + array.shape
        return b"".join(_integer(number, side) for number, side in enumerate(shape, 1)) + data
    return data + message(7, message(1, b"".join(map(_varint, array.shape))))


V1_TYPES = {"Data": 5, "Convolution": 4, "ReLU": 18, "LRN": 15, "Pooling": 17, "InnerProduct": 14, "Dropout": 6}
V1_TYPES |= {"SoftmaxWithLoss": 21, "Concat": 3}
# By type: the field of a layer's settings, in the old and in the new version.
SETTINGS = {"Data": (36, 100), "Convolution": (10, 106), "LRN": (18, 118), "Pooling": (19, 121)}
SETTINGS |= {"InnerProduct": (17, 117), "Dropout": (12, 108), "ReLU": (30, 123)}


def caffe_layer(
    name: str, kind: str, bottom: str, top: str, settings: bytes = b"", module: nn.Module | None = None, *, old: bool
) -> bytes:
    """Return a layer as a field of the net: of number 2 in the old version, 100 in the new one."""
    names = (4, 2, 3, 6) if old else (1, 3, 4, 7)
    parts = [message(names[0], name), _integer(5, V1_TYPES[kind]) if old else message(2, kind)]
    parts += [message(names[1], bottom)] if bottom else []
    parts += [message(names[2], top)]
    if module is not None:
        arrays = (p.detach().numpy() for p in module.parameters())
        parts += [message(names[3], blob(array, old=old)) for array in arrays]
    parts += [message(SETTINGS[kind][0 if old else 1], settings)] if settings else []
    return message(2 if old else 100, b"".join(parts))


def caffe_layers(net: CaffeAlexNet, *, old: bool, transform: bytes = b"") -> Iterator[bytes]:
    """Yield the layers of a .caffemodel as a training of Caffe saves them."""
    yield caffe_layer("data", "Data", "", "data", transform or _integer(3, 227), old=old)
    current = "data"
    for n, conv in enumerate((net.conv1, net.conv2, net.conv3, net.conv4, net.conv5), 1):
        padding = _integer(3, conv.padding[0]) if conv.padding[0] else b""  # type: ignore[arg-type]
        stride = _integer(6, conv.stride[0]) if conv.stride[0] > 1 else b""
        group = _integer(5, conv.groups) if conv.groups > 1 else b""
        settings = _integer(1, conv.out_channels) + padding + _integer(4, conv.kernel_size[0]) + group + stride
        yield caffe_layer(f"conv{n}", "Convolution", current, f"conv{n}", settings, conv, old=old)
        yield caffe_layer(f"relu{n}", "ReLU", f"conv{n}", f"conv{n}", old=old)
        current = f"conv{n}"
        norm = (f"norm{n}", "LRN", _integer(1, 5) + _float(2, 0.0001) + _float(3, 0.75))
        pool = (f"pool{n}", "Pooling", _integer(1, 0) + _integer(2, 3) + _integer(3, 2))
        steps = {1: [norm, pool], 2: [norm, pool], 5: [pool]}.get(n, [])
        for name, kind, values in reversed(steps) if net.pools_first else steps:
            yield caffe_layer(name, kind, current, name, values, old=old)
            current = name
    for n, full in ((6, net.fc6), (7, net.fc7), (8, net.fc8)):
        yield caffe_layer(f"fc{n}", "InnerProduct", current, f"fc{n}", _integer(1, full.out_features), full, old=old)
        current = f"fc{n}"
        if n < 8:
            yield caffe_layer(f"relu{n}", "ReLU", current, current, old=old)
            yield caffe_layer(f"drop{n}", "Dropout", current, current, _float(1, 0.5), old=old)
    yield caffe_layer("loss", "SoftmaxWithLoss", current, "loss", old=old)


def caffemodel(net: CaffeAlexNet, *, old: bool, transform: bytes = b"") -> bytes:
    """Return a .caffemodel: NetParameter with the layers of the old (V1) or the new version."""
    return message(1, "CaffeNet" if net.pools_first else "AlexNet") + b"".join(
        caffe_layers(net, old=old, transform=transform)
    )


def transform_settings(*, crop: int = 227, scale: float | None = None, mean: Sequence[float] = ()) -> bytes:
    """Return a TransformationParameter."""
    values = b"".join(_float(5, value) for value in mean)
    return (_float(1, scale) if scale else b"") + _integer(2, 1) + _integer(3, crop) + values


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def caffe_onnx(net: CaffeAlexNet, side: int, *, opset: int = 9) -> onnx.ModelProto:
    """Return a net as ONNX' model zoo has it: onnx-caffe2's nodes and pads, weights among the inputs."""
    weights = {f"{name.replace('.', '_')}_0": p.detach().numpy() for name, p in net.named_parameters()}
    nodes, current = [], "data_0"

    def add(kind: str, inputs: Sequence[str] = (), outputs: int = 1, **attributes: object) -> None:
        nonlocal current
        names = [f"r{len(nodes)}", *(f"mask{len(nodes)}" for _ in range(outputs - 1))]
        nodes.append(helper.make_node(kind, [current, *inputs], names, f"n{len(nodes)}", **attributes))
        current = names[0]

    for n, conv in enumerate((net.conv1, net.conv2, net.conv3, net.conv4, net.conv5), 1):
        group = {"group": conv.groups} if conv.groups > 1 else {}
        pads, strides, kernel = [conv.padding[0]] * 4, list(conv.stride), list(conv.kernel_size)
        names = [f"conv{n}_weight_0", f"conv{n}_bias_0"]
        add("Conv", names, strides=strides, pads=pads, kernel_shape=kernel, **group)
        add("Relu")
        after = int(n == 5 and side == 224)
        steps = {1: ["LRN", "MaxPool"], 2: ["LRN", "MaxPool"], 5: ["MaxPool"]}.get(n, [])
        for step in reversed(steps) if net.pools_first else steps:
            if step == "LRN":
                add("LRN", size=5, alpha=1e-4, beta=0.75, bias=1.0)
            else:
                add("MaxPool", strides=[2, 2], pads=[0, 0, after, after], kernel_shape=[3, 3])
    weights["OC2_DUMMY_1"] = np.array([1, net.fc6.in_features])
    add("Reshape", ["OC2_DUMMY_1"])
    for n in (6, 7, 8):
        add("Gemm", [f"fc{n}_weight_0", f"fc{n}_bias_0"], transB=1)
        if n < 8:
            add("Relu")
            add("Dropout", outputs=2, ratio=0.5)
    add("Softmax")
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    inputs = [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [1, 3, side, side])]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    outputs = [helper.make_tensor_value_info(current, TensorProto.FLOAT, [1, net.fc8.out_features])]
    graph = helper.make_graph(nodes, "bvlc_alexnet", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="onnx-caffe2")
    model.ir_version = 3
    return model

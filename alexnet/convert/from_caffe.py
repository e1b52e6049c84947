"""Caffe's AlexNet and CaffeNet, from a .caffemodel: the layers' sizes and order are those that the file tells."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from alexnet.checked import require_finite
from alexnet.convert.caffe_schema import V1_TYPES, parse_message
from alexnet.convert.external_net import (
    ActivationLayer,
    ConvLayer,
    DropoutLayer,
    ExternalNet,
    FullLayer,
    Layer,
    NormLayer,
    PoolLayer,
)

CAFFE_IMAGE_SIZE = 227  # of bvlc_alexnet and bvlc_reference_caffenet
CAFFE_MEAN = (104.0, 117.0, 123.0)  # B, G, R of ImageNet, as their examples subtract it where there is no mean image
_DATA_TYPES = ("Data", "Input", "ImageData", "HDF5Data", "MemoryData", "WindowData", "DummyData")
_OUTPUT_TYPES = ("Softmax", "SoftmaxWithLoss", "Accuracy", "ArgMax", "Silence")  # they have nothing to do with the net


def caffe_net(file: Path) -> ExternalNet:
    """Read a net from a .caffemodel, of the first or the second version of its format.

    Raises:
        ValueError: The file is damaged, or is another architecture; or protobuf is not installed.
    """
    net = parse_message("Net", file.read_bytes())
    if any(layer.old_layer for layer in net.layers):
        raise ValueError(
            "it must have layers of Caffe's current format; it has those of 2013: convert it with Caffe's own "
            "upgrade_net_proto_binary"
        )
    entries = [*net.layer, *net.layers]
    if not entries:
        raise ValueError("it must have layers; it has none: it is no .caffemodel, or was cut off")
    transform = next((e.transform_param for e in entries if e.HasField("transform_param")), None)
    scale = transform.scale if transform else 1.0
    require_finite("the scale of the pixels", scale, positive=True)
    return ExternalNet(
        format="Caffe",
        layers=tuple(_read_layers(entries)),
        image_size=_image_size(net, entries),
        channels="BGR",
        mean=_channel_mean(transform.mean_value if transform else ()),
        deviation=np.full(3, 1 / scale),
    )


def _channel_mean(values: Sequence[float]) -> np.ndarray:
    """Return the mean (3,) in the order RGB, from Caffe's values: three, one for all channels, or none."""
    if len(values) not in (0, 1, 3):
        raise ValueError(f"mean_value must be given once, or for each of three channels; got {len(values)} values")
    mean = np.array(values if len(values) == 3 else list(values) * 3 or CAFFE_MEAN, float)
    return mean[::-1].copy()


def _image_size(net: Any, entries: Sequence[Any]) -> int:
    """Return the side of the input, as the file tells it in one of several places, or 227."""
    shapes = [list(shape.dim) for shape in net.input_shape] + [list(net.input_dim)]
    shapes += [list(shape.dim) for e in entries if hasattr(e, "input_param") for shape in e.input_param.shape]
    crops = [crop for e in entries for crop in (e.transform_param.crop_size, e.data_param.crop_size) if crop]
    for shape in shapes:
        if len(shape) == 4:
            if shape[2] != shape[3] or shape[1] != 3:
                raise ValueError(f"its input must be square pictures of 3 channels; got {shape[1:]}")
            return int(shape[3])
    return crops[0] if crops else CAFFE_IMAGE_SIZE


def _read_layers(entries: Sequence[Any]) -> Iterator[Layer]:
    """Yield the layers of the net, in the order of the file; those of the data and the loss are left out."""
    current = None  # what the last layer puts out
    for entry in entries:
        kind = entry.type if isinstance(entry.type, str) else V1_TYPES.get(entry.type, f"number {entry.type}")
        if kind in _DATA_TYPES:
            current = current or (entry.top[0] if entry.top else None)
            continue
        if kind in _OUTPUT_TYPES or kind == "Flatten" or (kind == "Split" and current not in entry.bottom):
            current = entry.top[0] if kind == "Flatten" and entry.top else current
            continue
        if kind not in _READERS:
            raise ValueError(f"an AlexNet must have no layer of type {kind}; {entry.name} is one")
        if current is not None and entry.bottom and list(entry.bottom) != [current]:
            raise ValueError(f"an AlexNet must be one chain of layers; {entry.name} does not read {current}")
        current = entry.top[0] if entry.top else None
        yield _READERS[kind](entry)


def _read_convolution(entry: Any) -> ConvLayer:
    p = entry.convolution_param
    if any(dilation != 1 for dilation in p.dilation):
        raise ValueError(f"layer {entry.name} must have dilation 1; got {list(p.dilation)}")
    weight, bias = _read_blobs(entry, dimensions=4)
    stride = _square(entry.name, "stride", p.stride, p.stride_h, p.stride_w) or 1
    padding = _square(entry.name, "pad", p.pad, p.pad_h, p.pad_w)
    return ConvLayer(entry.name, weight, bias, stride, padding, p.group)


def _read_full(entry: Any) -> FullLayer:
    if entry.inner_product_param.transpose or entry.inner_product_param.axis != 1:
        raise ValueError(f"layer {entry.name} must not be transposed, with axis 1; it is otherwise")
    return FullLayer(entry.name, *_read_blobs(entry, dimensions=2))


def _read_relu(entry: Any) -> ActivationLayer:
    if entry.relu_param.negative_slope:
        raise ValueError(f"layer {entry.name} must have negative_slope 0; got {entry.relu_param.negative_slope}")
    return ActivationLayer(entry.name)


def _read_norm(entry: Any) -> NormLayer:
    p = entry.lrn_param
    if p.norm_region:
        raise ValueError(f"layer {entry.name} must normalise across channels; it does within them")
    return NormLayer(entry.name, p.local_size, shortest_float(p.alpha), shortest_float(p.beta), shortest_float(p.k))


def _read_pool(entry: Any) -> PoolLayer:
    p = entry.pooling_param
    if p.global_pooling or p.pad or p.pad_h or p.pad_w or p.pool > 1:
        raise ValueError(f"layer {entry.name} must be max or average pooling without padding; it is otherwise")
    size = _square(entry.name, "kernel_size", [p.kernel_size] if p.kernel_size else [], p.kernel_h, p.kernel_w)
    stride = _square(entry.name, "stride", [p.stride], p.stride_h, p.stride_w)
    kind: Literal["max", "average"] = "average" if p.pool else "max"
    return PoolLayer(entry.name, size, stride, kind, ceil_mode=p.round_mode == 0)


def _read_dropout(entry: Any) -> DropoutLayer:
    return DropoutLayer(entry.name, shortest_float(entry.dropout_param.dropout_ratio))


_READERS: dict[str, Callable[[Any], Layer]] = {
    "Convolution": _read_convolution,
    "InnerProduct": _read_full,
    "ReLU": _read_relu,
    "LRN": _read_norm,
    "Pooling": _read_pool,
    "Dropout": _read_dropout,
}


def _square(layer: str, name: str, values: Sequence[int], height: int, width: int) -> int:
    """Return a size that is the same in both directions: from a list of one or two, or from its two fields."""
    sizes = {height, width} if height or width else set(values) or {0}
    if len(sizes) > 1:
        raise ValueError(f"layer {layer} must have the same {name} in both directions; got {sorted(sizes)}")
    return int(sizes.pop())


def shortest_float(value: float) -> float:
    """Return the number with the fewest digits that is the same in float32: 0.0001, not 9.9999997e-05."""
    return float(str(np.float32(value)))


def _read_blobs(entry: Any, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return the weight of a layer, of so many dimensions, and its bias; zeros if it has none."""
    if not entry.blobs:
        raise ValueError(f"layer {entry.name} must have weights; it has none: it is no .caffemodel of a trained net")
    array = read_blob(entry.blobs[0], entry.name)
    if array.ndim > dimensions and array.shape[: array.ndim - dimensions] == (1,) * (array.ndim - dimensions):
        array = array.reshape(array.shape[array.ndim - dimensions :])  # of the first version: (1, 1, units, inputs)
    weight = torch.from_numpy(array)
    if len(entry.blobs) < 2:
        return weight, torch.zeros(len(weight))
    return weight, torch.from_numpy(read_blob(entry.blobs[1], entry.name).reshape(-1))


def read_blob(blob: Any, name: str) -> np.ndarray:
    """Return the numbers of a blob as a float32 array of its shape.

    Raises:
        ValueError: It has more or fewer numbers than its shape says.
    """
    numbers = (
        np.frombuffer(b"".join(blob.data), "<f4") if blob.data else np.frombuffer(b"".join(blob.double_data), "<f8")
    )
    shape = list(blob.shape.dim) if blob.HasField("shape") else [blob.num, blob.channels, blob.height, blob.width]
    if math.prod(shape) != len(numbers) or min(shape, default=0) < 1:
        raise ValueError(f"layer {name} must have as many numbers as its shape {shape} says; got {len(numbers)}")
    return numbers.astype(np.float32).reshape(shape)

"""Caffe's AlexNet and CaffeNet in ONNX, as its model zoo has them: sizes and order from the nodes of the graph."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from alexnet.convert.from_caffe import CAFFE_IMAGE_SIZE, CAFFE_MEAN, shortest_float
from alexnet.utils.extras import missing_extra

_OUTPUT_TYPES = ("Softmax", "LogSoftmax", "ArgMax")
_SHAPING_TYPES = ("Reshape", "Flatten", "Identity", "Squeeze")  # the activations stay the same numbers


def onnx_net(file: Path) -> ExternalNet:
    """Read one of Caffe's nets from a file of ONNX.

    The file does not tell what is subtracted from a picture, nor the order of the channels: these are Caffe's.

    Raises:
        ValueError: The file is damaged, or is another architecture; or the library of ONNX is not installed.
    """
    model = _load_model(file)
    if any(entry.key == "alexnet" for entry in model.metadata_props):
        raise ValueError(
            "it was exported by this program, with the mean inside: import what `alexnet export` writes with "
            "`state` or `hub` (a .safetensors) instead"
        )
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise ValueError(f"an AlexNet must have one input; got {[value.name for value in inputs]}")
    layers = tuple(_read_nodes(graph.node, inputs[0].name, constants))
    if not any(isinstance(layer, NormLayer) for layer in layers):
        raise ValueError(
            "it must be Caffe's AlexNet or CaffeNet, which normalise (LRN); it does not, and a file of ONNX does not "
            "tell what is subtracted from a picture: import the file it was made from, such as torchvision's .pth"
        )
    return ExternalNet(
        format="ONNX",
        layers=layers,
        image_size=_image_size(inputs[0]),
        channels="BGR",
        mean=np.array(CAFFE_MEAN[::-1]),
        deviation=np.ones(3),
    )


def _load_model(file: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise missing_extra("reading files of ONNX", "onnx", error) from error
    try:
        model = onnx.load(file)
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ValueError(
            f"it must be a whole file of ONNX; it cannot be read ({' '.join(str(error).split())}): it may be cut off, "
            "get the file again"
        ) from error
    if not model.graph.node:
        raise ValueError("it must hold a graph of ONNX; it has no nodes: it may be cut off, get the file again")
    return model


def _image_size(value: Any) -> int:
    """Return the side of the input; Caffe's if the file leaves it open."""
    dimensions = value.type.tensor_type.shape.dim
    sides = {dimension.dim_value or CAFFE_IMAGE_SIZE for dimension in dimensions[2:]}
    channels = dimensions[1].dim_value if len(dimensions) == 4 else 0
    if channels != 3 or len(sides) != 1:
        sizes = [dimension.dim_value for dimension in dimensions]
        raise ValueError(f"its input must be square pictures of 3 channels, (N, 3, side, side); got {sizes}")
    return int(sides.pop())


def _read_nodes(nodes: Sequence[Any], current: str, constants: dict[str, Any]) -> Iterator[Layer]:
    """Yield the layers of a graph that is one chain of nodes."""
    for node in nodes:
        if node.op_type == "Constant":
            continue
        if not node.input or node.input[0] != current:
            raise ValueError(f"an AlexNet must be one chain of nodes; {_name(node)} does not read {current}")
        if not node.output:
            raise ValueError(f"an AlexNet must be one chain of nodes; {_name(node)} has no output")
        current = node.output[0]
        if node.op_type in _SHAPING_TYPES or node.op_type in _OUTPUT_TYPES:
            continue
        if node.op_type not in _READERS:
            raise ValueError(f"an AlexNet must have no node of type {node.op_type}; {_name(node)} is one")
        try:
            yield _READERS[node.op_type](node, _attributes(node), constants)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"node {_name(node)} must have the attributes of a {node.op_type}; {error} is wrong: get the file again"
            ) from error


def _name(node: Any) -> str:
    return str(node.name or "".join(node.output[:1]) or node.op_type)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value for name, value in attributes.items() if value is not None}  # None: of no known type


def _constant(node: Any, position: int, constants: dict[str, Any]) -> Tensor | None:
    """Return an input of a node that is stored in the file, as float32; None if the node has fewer inputs."""
    from onnx import numpy_helper

    if len(node.input) <= position or not node.input[position]:
        return None
    name = node.input[position]
    if name not in constants:
        raise ValueError(f"node {_name(node)} must read weights that are stored in the file; {name} is computed")
    return torch.from_numpy(np.array(numpy_helper.to_array(constants[name]), np.float32))


def _weight_and_bias(node: Any, constants: dict[str, Any]) -> tuple[Tensor, Tensor]:
    weight, bias = _constant(node, 1, constants), _constant(node, 2, constants)
    if weight is None:
        raise ValueError(f"node {_name(node)} must have weights; it has none")
    return weight, torch.zeros(len(weight)) if bias is None else bias.reshape(-1)


def _read_convolution(node: Any, attributes: dict[str, Any], constants: dict[str, Any]) -> ConvLayer:
    _refuse_auto_pad(node, attributes)
    if set(attributes.get("dilations", [1])) != {1}:
        raise ValueError(f"node {_name(node)} must have dilation 1; got {attributes['dilations']}")
    strides, pads = set(attributes.get("strides", [1])), set(attributes.get("pads", [0]))
    if len(strides) > 1 or len(pads) > 1:
        raise ValueError(
            f"node {_name(node)} must have the same stride and padding in all directions; got {strides} and {pads}"
        )
    weight, bias = _weight_and_bias(node, constants)
    return ConvLayer(_name(node), weight, bias, strides.pop(), pads.pop(), attributes.get("group", 1))


def _read_full(node: Any, attributes: dict[str, Any], constants: dict[str, Any]) -> FullLayer:
    factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0)
    if factors != (1.0, 1.0, 0):
        raise ValueError(f"node {_name(node)} must have alpha 1, beta 1 and transA 0; got {factors}")
    weight, bias = _weight_and_bias(node, constants)
    if not attributes.get("transB", 0):
        weight = weight.t()
        bias = bias if len(node.input) > 2 else torch.zeros(len(weight))
    return FullLayer(_name(node), weight, bias)


def _read_relu(node: Any, _attributes: dict[str, Any], _constants: dict[str, Any]) -> ActivationLayer:
    return ActivationLayer(_name(node))


def _read_norm(node: Any, attributes: dict[str, Any], _constants: dict[str, Any]) -> NormLayer:
    constants = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0} | attributes
    alpha, beta, k = (shortest_float(constants[name]) for name in ("alpha", "beta", "bias"))
    if constants["size"] % 2 == 0:
        raise ValueError(f"node {_name(node)} must have a window of an odd size; got {constants['size']}")
    return NormLayer(_name(node), constants["size"], alpha, beta, k)


def _read_pool(node: Any, attributes: dict[str, Any], _constants: dict[str, Any]) -> PoolLayer:
    _refuse_auto_pad(node, attributes)
    sizes, strides = set(attributes["kernel_shape"]), set(attributes.get("strides", [1]))
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    counts_padding = attributes.get("count_include_pad", 0) and bottom
    if (
        len(sizes | {0}) > 2
        or len(strides) > 1
        or top
        or left
        or bottom != right
        or bottom >= max(sizes)
        or counts_padding
    ):
        raise ValueError(
            f"node {_name(node)} must have square windows, and padding at the right and at the bottom only; got "
            f"{attributes}"
        )
    kind: Any = "max" if node.op_type == "MaxPool" else "average"
    return PoolLayer(
        _name(node), sizes.pop(), strides.pop(), kind, after=bottom, ceil_mode=bool(attributes.get("ceil_mode", 0))
    )


def _read_dropout(node: Any, attributes: dict[str, Any], constants: dict[str, Any]) -> DropoutLayer:
    ratio = _constant(node, 1, constants)  # an input from opset 12 on
    return DropoutLayer(
        _name(node), shortest_float(float(ratio) if ratio is not None else attributes.get("ratio", 0.5))
    )


def _refuse_auto_pad(node: Any, attributes: dict[str, Any]) -> None:
    padding = attributes.get("auto_pad", b"NOTSET")
    if padding not in (b"NOTSET", b"VALID"):
        raise ValueError(f"node {_name(node)} must tell its padding in numbers; got auto_pad {padding.decode()}")


_READERS: dict[str, Callable[[Any, dict[str, Any], dict[str, Any]], Layer]] = {
    "Conv": _read_convolution,
    "Gemm": _read_full,
    "Relu": _read_relu,
    "LRN": _read_norm,
    "MaxPool": _read_pool,
    "AveragePool": _read_pool,
    "Dropout": _read_dropout,
}

"""A net as an ONNX graph: standard operators with the layers' names, float32, a dynamic batch, the mean inside.

The graph is built node by node. torch.onnx would write each normalisation as a dozen nodes with numbered names, and
need a second package; a normalisation in towers is one node of the standard's own here.
"""

from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.convert.plain_net import named_layers
from alexnet.kernels.contrast_norm import LOWEST_DEVIATION, window_weights
from alexnet.kernels.normalisation import window_reach
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import (
    AbsoluteTanh,
    AveragePooling,
    ContrastNormalisation,
    Convolution,
    Dropout,
    LocallyConnected,
    MapNormalisation,
    MaxPooling,
    ResponseNormalisation,
)
from alexnet.utils.extras import missing_extra

OLDEST_OPSET = 17
_MAX_BYTES = 2**31 - 2**20  # a protobuf message must be below 2 GiB; some room for all that is not a weight


class _Graph:
    """The nodes and constants of an ONNX graph that is a chain of layers; its values have the layers' names.

    Attributes:
        maps: Number of maps that the last convolution computes.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.maps = 0

    def add(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: Any) -> str:
        """Append a constant: float32, or int64 for whole numbers; return its name."""
        from onnx import numpy_helper

        array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def check_opset(opset: int) -> None:
    """Raise a ValueError unless this program and the installed onnx can write this version of the operators."""
    newest = _import_onnx().defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"opset must be from {OLDEST_OPSET} to {newest} (the newest of onnx here); got {opset}: leave it out"
        )


def to_onnx(net: AlexNet, mean: Tensor, description: str, opset: int = OLDEST_OPSET) -> bytes:
    """Return the contents of an ONNX file.

    Its input is "pixels" (batch, 3, side, side), RGB in 0..255; its outputs are "logits" and "probabilities" (batch,
    classes), or "features" (batch, units) of a net without an output layer.

    Args:
        net: The net.
        mean: (3, side, side), the mean activity of the crops.
        description: What to store as the metadata "alexnet".
        opset: Version of ONNX's operators.

    Raises:
        ValueError: onnx is not installed; it does not have this version; the net has 2 GB of weights or more.
    """
    onnx = _import_onnx()
    check_opset(opset)
    size = sum(4 * parameter.numel() for parameter in net.parameters())
    if size > _MAX_BYTES:
        raise ValueError(f"an ONNX file must have weights of less than 2 GB; got {size / 1e9:.1f} GB: use `state=FILE`")
    graph = _Graph()
    x = graph.add("Sub", "centred", "pixels", graph.constant("mean", mean))
    if net.net.pixel_scale != 1:
        x = graph.add("Mul", "scaled", x, graph.constant("pixel_scale", net.net.pixel_scale))
    for name, layer in named_layers(net):
        x = _add_layer(layer, graph, name, x)
    results, width = (("logits", "probabilities"), net.classes) if net.classes else (("features",), net.num_features)
    graph.nodes[-1].output[0] = results[0]
    if net.classes:
        graph.add("Softmax", "probabilities", "logits", axis=1)

    side = net.net.image_size
    make_value = onnx.helper.make_tensor_value_info
    inputs = [make_value("pixels", onnx.TensorProto.FLOAT, ("batch", 3, side, side))]
    outputs = [make_value(name, onnx.TensorProto.FLOAT, ("batch", width)) for name in results]
    operators = onnx.helper.make_opsetid("", opset)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "alexnet", inputs, outputs, graph.constants),
        opset_imports=[operators],
        ir_version=onnx.helper.find_min_ir_version_for([operators]),  # so that older programs read it
        producer_name="alexnet",
    )
    onnx.helper.set_model_props(model, {"alexnet": description})
    contents: bytes = model.SerializeToString()
    return contents


def _import_onnx() -> Any:
    """Return the package onnx; raise a ValueError that says how to install it."""
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("writing ONNX files", "onnx", error) from error
    return onnx


@singledispatch
def _add_layer(layer: nn.Module, graph: _Graph, name: str, x: str) -> str:  # noqa: ARG001
    """Append a layer to the graph.

    Args:
        layer: The layer.
        graph: The graph.
        name: Name of the layer and of its output.
        x: Name of its input.

    Returns:
        Name of its output.
    """
    raise AssertionError(f"{name}: {type(layer).__name__} has no operator of ONNX here")


@_add_layer.register
def _(layer: Convolution, graph: _Graph, name: str, x: str) -> str:
    weight, bias = graph.constant(f"{name}.weight", layer.weight), graph.constant(f"{name}.bias", layer.bias)
    graph.maps = layer.out_channels
    window = _window(layer.kernel_size[0], layer.stride[0], layer.padding[0], layer.right_bottom_padding)
    return graph.add("Conv", name, x, weight, bias, group=layer.groups, **window)


def _window(size: int, stride: int, padding: Any = 0, right_bottom_padding: int = 0) -> dict[str, Any]:
    """Return the attributes of a convolution or a pooling over windows of size x size."""
    after = padding + max(0, right_bottom_padding)
    return {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [padding, padding, after, after]}


@_add_layer.register
def _(layer: LocallyConnected, graph: _Graph, name: str, x: str) -> str:
    # A convolution with one-hot kernels copies out the patches; a matrix product at each position follows.
    rows, columns, maps, kernel, _, channels = layer.weight.shape
    graph.maps = maps
    towers, positions, inputs = layer.towers, rows * columns, channels * kernel * kernel
    one_hot = torch.eye(kernel * kernel).reshape(-1, 1, kernel, kernel).repeat(towers * channels, 1, 1, 1)
    weight = layer.weight.movedim(5, 3).reshape(positions, towers, maps // towers, inputs).permute(1, 0, 3, 2)
    window = _window(kernel, layer.conv.stride, layer.conv.padding, layer.right_bottom_padding)
    x = graph.add(
        "Conv", f"{name}_pixels", x, graph.constant(f"{name}_one_hot", one_hot), group=towers * channels, **window
    )  # (N, C * kernel * kernel, rows, columns)
    x = graph.add("Reshape", f"{name}_patches", x, graph.constant(f"{name}_shape", (0, towers, inputs, positions)))
    x = graph.add("Transpose", f"{name}_positions", x, perm=(1, 3, 0, 2))  # (towers, positions, N, inputs)
    x = graph.add("MatMul", f"{name}_products", x, graph.constant(f"{name}.weight", weight))
    x = graph.add("Transpose", f"{name}_maps", x, perm=(2, 0, 3, 1))  # (N, towers, maps / towers, positions)
    x = graph.add("Reshape", f"{name}_square", x, graph.constant(f"{name}_out_shape", (0, maps, rows, columns)))
    return graph.add("Add", name, x, graph.constant(f"{name}.bias", layer.bias.movedim(2, 0)))


@_add_layer.register
def _(layer: ResponseNormalisation, graph: _Graph, name: str, x: str) -> str:
    n, maps = layer.norm, graph.maps
    if layer.relu:
        x = graph.add("Relu", f"{name}_relu", x)
    if n.size % 2 == 0:  # the standard's window reaches further after the map then, ours before it
        squares = graph.add("Mul", f"{name}_squares", x, x)
        weight = graph.constant(f"{name}_windows", layer.alpha * _windows(maps // layer.towers, n.size, layer.towers))
        k = graph.constant(f"{name}_k", [n.k] * maps)
        divisor = graph.add("Conv", f"{name}_divisor", squares, weight, k, kernel_shape=(1, 1), group=layer.towers)
        return _divide_by_power(graph, name, x, divisor, n.beta)
    constants = {"size": n.size, "alpha": layer.alpha * n.size, "beta": n.beta, "bias": n.k}  # it divides alpha by size
    if layer.towers == 1:
        return graph.add("LRN", name, x, **constants)
    # No window may reach into another tower: the towers become pictures of the batch.
    shape = graph.constant(f"{name}_tower_shape", (-1, maps // layer.towers, 0, 0))
    x = graph.add("Reshape", f"{name}_towers", x, shape)
    x = graph.add("LRN", f"{name}_in_towers", x, **constants)
    return graph.add("Reshape", name, x, graph.constant(f"{name}_shape", (-1, maps, 0, 0)))


def _windows(maps: int, size: int, towers: int) -> np.ndarray:
    """Return a 1 x 1 convolution's weight (towers * maps, maps, 1, 1) that sums each map's window in its tower."""
    before, after = window_reach(size)
    offset = np.arange(maps)[None, :] - np.arange(maps)[:, None]
    return np.tile((-before <= offset) & (offset <= after), (towers, 1))[:, :, None, None].astype(np.float32)


@_add_layer.register
def _(layer: MapNormalisation, graph: _Graph, name: str, x: str) -> str:
    n = layer.norm
    squares = graph.add("Mul", f"{name}_squares", x, x)
    # Positions outside the map count as zeros, so the mean times size * size is the sum.
    mean = graph.add("AveragePool", f"{name}_mean", squares, count_include_pad=1, **_window(n.size, 1, n.size // 2))
    scaled = graph.add("Mul", f"{name}_scaled", mean, graph.constant(f"{name}_alpha", layer.alpha * n.size**2))
    divisor = graph.add("Add", f"{name}_divisor", scaled, graph.constant(f"{name}_k", n.k))
    return _divide_by_power(graph, name, x, divisor, n.beta)


def _divide_by_power(graph: _Graph, name: str, x: str, divisor: str, beta: float) -> str:
    power = graph.add("Pow", f"{name}_power", divisor, graph.constant(f"{name}_beta", beta))
    return graph.add("Div", name, x, power)


@_add_layer.register
def _(layer: ContrastNormalisation, graph: _Graph, name: str, x: str) -> str:
    size, maps = layer.norm.size, graph.maps // layer.towers
    line = window_weights(size, size, layer.norm.deviation, torch.float64)[size // 2].numpy()  # of a whole window
    weights = graph.constant(f"{name}_weights", np.tile(np.outer(line, line) / maps, (1, maps, 1, 1)))
    if layer.towers > 1:  # the towers become pictures of the batch
        x = graph.add("Reshape", f"{name}_towers", x, graph.constant(f"{name}_tower_shape", (-1, maps, 0, 0)))

    def local_mean(part: str, values: str) -> str:  # over the positions within the map, whose weights have the sum 1
        total = graph.add("Conv", f"{name}_{part}", values, weights, **window)
        return graph.add("Div", f"{name}_{part}_within", total, within)

    window = _window(size, 1, size // 2)
    ones = graph.add("ConstantOfShape", f"{name}_ones", graph.add("Shape", f"{name}_size", x), value=_one())
    within = graph.add("Conv", f"{name}_within", ones, weights, **window)
    v = graph.add("Sub", f"{name}_contrast", x, local_mean("mean", x))
    s = local_mean("square", graph.add("Mul", f"{name}_squares", v, v))
    s = graph.add("Max", f"{name}_variance", s, graph.constant(f"{name}_lowest", LOWEST_DEVIATION**2))
    s = graph.add("Sqrt", f"{name}_deviation", s)
    divisor = graph.add("Max", f"{name}_divisor", s, graph.add("GlobalAveragePool", f"{name}_average", s))
    if layer.towers == 1:
        return graph.add("Div", name, v, divisor)
    y = graph.add("Div", f"{name}_in_towers", v, divisor)
    return graph.add("Reshape", name, y, graph.constant(f"{name}_shape", (-1, graph.maps, 0, 0)))


def _one() -> Any:
    """Return the value 1 as ONNX's ConstantOfShape takes it."""
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ones(1, np.float32))


@_add_layer.register
def _(layer: MaxPooling, graph: _Graph, name: str, x: str) -> str:
    return graph.add("MaxPool", name, x, ceil_mode=int(layer.rounding == "up"), **_window(layer.size, layer.stride))


@_add_layer.register
def _(layer: AveragePooling, graph: _Graph, name: str, x: str) -> str:
    return graph.add("AveragePool", name, x, ceil_mode=int(layer.rounding == "up"), **_window(layer.size, layer.stride))


@_add_layer.register
def _(layer: nn.Linear, graph: _Graph, name: str, x: str) -> str:
    weight, bias = graph.constant(f"{name}.weight", layer.weight), graph.constant(f"{name}.bias", layer.bias)
    return graph.add("Gemm", name, x, weight, bias, transB=1)


@_add_layer.register
def _(layer: Dropout, graph: _Graph, name: str, x: str) -> str:
    return graph.add("Mul", name, x, graph.constant(f"{name}_factor", 1 - layer.p)) if layer.scaling == "test" else x


@_add_layer.register
def _(_layer: nn.ReLU, graph: _Graph, name: str, x: str) -> str:
    return graph.add("Relu", name, x)


@_add_layer.register
def _(_layer: nn.Tanh, graph: _Graph, name: str, x: str) -> str:
    return graph.add("Tanh", name, x)


@_add_layer.register
def _(_layer: nn.Sigmoid, graph: _Graph, name: str, x: str) -> str:
    return graph.add("Sigmoid", name, x)


@_add_layer.register
def _(_layer: AbsoluteTanh, graph: _Graph, name: str, x: str) -> str:
    return graph.add("Abs", name, graph.add("Tanh", f"{name}_tanh", x))


@_add_layer.register
def _(_layer: nn.Flatten, graph: _Graph, name: str, x: str) -> str:
    return graph.add("Flatten", name, x, axis=1)

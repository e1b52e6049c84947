"""A net in torch's own operations, with the mean activity inside: what other programs can run."""

from collections.abc import Iterator
from functools import singledispatch

from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.locally_connected import locally_connected_reference
from alexnet.kernels.map_norm import map_norm_reference
from alexnet.kernels.response_norm import response_norm_reference
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

_SUFFIXES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "logistic",
    AbsoluteTanh: "abs_tanh",
    ResponseNormalisation: "normalise",
    MapNormalisation: "normalise_map",
    ContrastNormalisation: "normalise_contrast",
    MaxPooling: "pool",
    AveragePooling: "pool",
    Dropout: "dropout",
}


def named_layers(net: AlexNet) -> Iterator[tuple[str, nn.Module]]:
    """Yield all layers of a net in order, each with its name: "conv1", "conv1_relu", "conv1_pool", ..., "fc8"."""
    for name, block in net.convs.items():
        yield from _named_block(name, block)
    yield "flatten", nn.Flatten()
    if net.conv_dropout is not None:
        yield "conv_dropout", net.conv_dropout
    for name, block in net.hidden.items():
        yield from _named_block(name, block)
    for name in ("linear", "fc8"):
        if name in net.layers():
            yield name, net.layers()[name]


def _named_block(name: str, block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    first, *following = block.children()
    yield name, first
    for layer in following:
        yield f"{name}_{_SUFFIXES[type(layer)]}", layer


class PlainNet(nn.Module):
    """A net that computes what `AlexNet` does, from raw pixels and with none of this project's operations.

    Its state dict has the names of docs/formats.md: "mean", "conv1.weight", "conv1.bias" and so on.

    Args:
        net: The net; its weights are shared.
        mean: (3, side, side), the mean activity of the crops.
    """

    mean: Tensor

    def __init__(self, net: AlexNet, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.pixel_scale = net.net.pixel_scale
        for name, layer in net.layers().items():
            self.add_module(name, layer)
        self._sequence = list(named_layers(net))

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the logits (N, classes), or the features, from pixels (N, 3, side, side) in 0..255."""
        x = (pixels - self.mean) * self.pixel_scale
        for _, layer in self._sequence:
            x = _apply(layer, x)
        return x


@singledispatch
def _apply(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute a layer in torch's own operations."""
    y: Tensor = layer(x)  # of torch, or of ours but without an operation of ours
    return y


@_apply.register
def _(layer: Convolution, x: Tensor) -> Tensor:
    after = max(0, layer.right_bottom_padding)
    return F.conv2d(
        F.pad(x, (0, after, 0, after)), layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups
    )


@_apply.register
def _(layer: LocallyConnected, x: Tensor) -> Tensor:
    return locally_connected_reference(
        x, layer.weight, layer.bias, stride=layer.conv.stride, padding=layer.conv.padding, towers=layer.towers
    )


@_apply.register
def _(layer: ResponseNormalisation, x: Tensor) -> Tensor:
    n = layer.norm
    return response_norm_reference(
        x, size=n.size, k=n.k, alpha=layer.alpha, beta=n.beta, towers=layer.towers, relu=layer.relu
    )


@_apply.register
def _(layer: MapNormalisation, x: Tensor) -> Tensor:
    n = layer.norm
    return map_norm_reference(x, size=n.size, k=n.k, alpha=layer.alpha, beta=n.beta)


@_apply.register
def _(layer: MaxPooling, x: Tensor) -> Tensor:
    return F.max_pool2d(x, layer.size, layer.stride, ceil_mode=layer.rounding == "up")


@_apply.register
def _(layer: AveragePooling, x: Tensor) -> Tensor:
    return F.avg_pool2d(x, layer.size, layer.stride, ceil_mode=layer.rounding == "up")

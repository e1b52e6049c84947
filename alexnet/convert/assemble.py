"""From the layers of another program's net to ours: the `Net`, and its weights with the preprocessing folded in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.architecture import Conv, Full, Net, ResponseNorm
from alexnet.checked import require
from alexnet.convert.external_net import (
    ActivationLayer,
    ConvertedNet,
    ConvLayer,
    DropoutLayer,
    ExternalNet,
    FullLayer,
    Layer,
    NormLayer,
    PoolLayer,
)
from alexnet.geometry import Rounding, conv_side, pool_side

_MOST_CONVOLUTIONS, _MOST_FULL = 6, 3
_STEPS = {ActivationLayer: "activate", NormLayer: "normalise", PoolLayer: "pool"}


@dataclass
class _Block:
    """A layer with weights, its name in our net, and the layers that follow it."""

    name: str
    layer: ConvLayer | FullLayer
    following: list[Layer] = field(default_factory=list)

    def __str__(self) -> str:
        return self.name if self.layer.name == self.name else f"{self.name} ({self.layer.name})"

    def all_of(self, kind: type[Any]) -> list[Any]:
        """Return those of the following layers that are of a kind."""
        return [layer for layer in self.following if isinstance(layer, kind)]


def assemble(external: ExternalNet) -> ConvertedNet:
    """Return our net that computes what another program's net does, on pixels less the mean.

    Args:
        external: The other program's net.

    Raises:
        ValueError: It is another architecture, or a layer's shape does not fit the one before.
    """
    convs, full = _split_into_blocks(external.layers)
    towers = max(block.layer.groups for block in convs if isinstance(block.layer, ConvLayer))
    scale, factors = _fold_deviation(external.deviation)
    fields: dict[str, Any] = dict.fromkeys([f"conv{n}" for n in range(1, _MOST_CONVOLUTIONS + 1)] + ["fc6", "fc7"])
    side, channels = external.image_size, 3
    for block in convs:
        fields[block.name], side = _convolution(block, channels, side, towers)
        channels = fields[block.name].maps
    outputs, inputs = 0, channels * side * side
    for block in full:
        _check_inputs(block, inputs, f"{channels} maps of {side} x {side}" if block is full[0] else "units before it")
        inputs = len(block.layer.weight)
        if block.name == "fc8":
            outputs = inputs
            require(outputs > 1, f"the outputs of {block}", "at least 2, one for each class", outputs)
        else:
            fields[block.name] = _hidden(block)
    net = Net(
        image_size=external.image_size,
        towers=towers,
        normalise=_shared_norm(convs),
        conv_dropout=_drop_probability(convs[-1]),
        dropout_scaling="train",
        start="he",
        pixel_scale=scale,
        **_pool_fields(convs),
        **fields,
    )
    weights = {f"{block.name}.weight": block.layer.weight for block in (*convs, *full)}
    weights |= {f"{block.name}.bias": block.layer.bias for block in (*convs, *full)}
    if external.channels == "BGR":
        weights["conv1.weight"] = weights["conv1.weight"].flip(1)
    weights["conv1.weight"] = weights["conv1.weight"] * factors[:, None, None]
    return ConvertedNet(external.format, net, outputs, weights, external.mean)


def _fold_deviation(deviation: np.ndarray) -> tuple[float, Tensor]:
    """Return the common scale of the pixels, and the factors (3,) on conv1's weights that remain for each channel.

    A division by the deviation alone would make conv1's weights a hundred times smaller or larger, and a rate that is
    right for the other layers wrong for conv1.
    """
    common = float(np.mean(deviation))
    return 1 / common, torch.from_numpy((common / deviation).astype(np.float32))


def _split_into_blocks(layers: Sequence[Layer]) -> tuple[list[_Block], list[_Block]]:
    """Return the convolutions and the fully connected layers, each with what follows it."""
    convs: list[_Block] = []
    full: list[_Block] = []
    for layer in layers:
        if isinstance(layer, ConvLayer):
            if full:
                raise ValueError(
                    f"an AlexNet must have its convolutions first; layer {layer.name} comes after a full one"
                )
            convs.append(_Block(f"conv{len(convs) + 1}", layer))
        elif isinstance(layer, FullLayer):
            full.append(_Block(f"fc{len(full) + 6}", layer))
        elif not convs:
            raise ValueError(f"an AlexNet must begin with a convolution; its first layer is {layer.name}")
        else:
            (full or convs)[-1].following.append(layer)
    if not 1 <= len(convs) <= _MOST_CONVOLUTIONS or len(full) > _MOST_FULL:
        raise ValueError(
            f"an AlexNet must have 1 to {_MOST_CONVOLUTIONS} convolutions and at most {_MOST_FULL} fully connected "
            f"layers; got {len(convs)} and {len(full)}"
        )
    if full and not full[-1].following:
        full[-1].name = "fc8"
    elif len(full) == _MOST_FULL:
        raise ValueError(f"an AlexNet must end with its output layer; {full[-1]} is followed by others")
    if dropped := next((block for block in convs[:-1] if block.all_of(DropoutLayer)), None):
        raise ValueError(f"an AlexNet must have no dropout between its convolutions; {dropped} is followed by one")
    for block in (*convs, *full):
        _check_values(block)
    return convs, full


def _check_values(block: _Block) -> None:
    """Check that the weights and biases of a layer are numbers of matching shapes."""
    weight, bias = block.layer.weight, block.layer.bias
    dimensions = 4 if isinstance(block.layer, ConvLayer) else 2
    if weight.ndim != dimensions or (dimensions == 4 and weight.shape[2] != weight.shape[3]):
        shape = "(maps, channels, kernel, kernel)" if dimensions == 4 else "(units, inputs)"
        raise ValueError(f"layer {block} must have a weight of shape {shape}; got {tuple(weight.shape)}")
    if tuple(bias.shape) != (len(weight),):
        raise ValueError(f"layer {block} must have a bias of shape ({len(weight)},); got {tuple(bias.shape)}")
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError(f"layer {block} must have finite weights; it has infinity or NaN: get the file again")


def _convolution(block: _Block, channels: int, side: int, towers: int) -> tuple[Conv, int]:
    """Return our layer for a convolution, and the side of its maps after pooling."""
    layer, maps = block.layer, len(block.layer.weight)
    assert isinstance(layer, ConvLayer)
    if layer.groups not in (1, towers) or (block.name == "conv1" and layer.groups > 1):
        raise ValueError(f"layer {block} must be in 1 or {towers} groups, conv1 in one; got {layer.groups}")
    if layer.weight.shape[1] * layer.groups != channels:
        expected = f"{channels // layer.groups}, those of its group" if layer.groups > 1 else f"{channels}"
        raise ValueError(f"layer {block} must read {expected} maps or channels; got {layer.weight.shape[1]}")
    steps = [_STEPS[type(step)] for step in block.following if not isinstance(step, DropoutLayer)]
    if "activate" not in steps or len(set(steps)) < len(steps):
        raise ValueError(f"layer {block} must be followed by one ReLU, and at most one normalisation and one pooling")
    if any(isinstance(step, DropoutLayer) for step in block.following[:-1]):
        raise ValueError(f"layer {block} must be followed by its dropout last")
    kernel = layer.weight.shape[2]
    if side + 2 * layer.padding < kernel:
        raise ValueError(f"layer {block} must read maps of at least its kernel's side {kernel}; got {side}")
    side = conv_side(side, kernel, layer.stride, layer.padding, "down")
    pools = block.all_of(PoolLayer)
    rounding: Rounding = "up"
    if pools:
        rounding, side = _pool_rounding(block, pools[0], side)
    conv = Conv(
        maps=maps,
        kernel=kernel,
        stride=layer.stride,
        padding=layer.padding,
        all_towers=towers > 1 and layer.groups == 1 and block.name != "conv1",
        then=tuple(steps),  # type: ignore[arg-type]
        pooling=pools[0].kind if pools else "max",
        rounding="down" if layer.stride > 1 else "up",
        pool_rounding=rounding,
    )
    return conv, side


def _pool_rounding(block: _Block, pool: PoolLayer, side: int) -> tuple[Rounding, int]:
    """Return which of our two roundings a pooling has, and the side of its output."""
    out = pool.out_side(side)
    if out < 1:
        raise ValueError(f"layer {block} must have maps of at least the side of a window, {pool.size}; got {side}")
    roundings: tuple[Rounding, Rounding] = ("up", "down") if pool.ceil_mode or pool.after else ("down", "up")
    for rounding in roundings:
        if pool_side(side, pool.size, pool.stride, rounding) == out:
            return rounding, out
    raise ValueError(
        f"layer {block} must be pooled to the side that is rounded up or down; {pool.name} makes {out} of {side}"
    )


def _hidden(block: _Block) -> Full:
    """Return our layer for a hidden fully connected one."""
    kinds = [type(layer) for layer in block.following]
    if kinds not in ([ActivationLayer], [ActivationLayer, DropoutLayer]):
        raise ValueError(f"layer {block} must be followed by a ReLU, then by dropout or nothing")
    return Full(units=len(block.layer.weight), dropout=_drop_probability(block))


def _drop_probability(block: _Block) -> float:
    dropouts = block.all_of(DropoutLayer)
    return float(dropouts[-1].p) if dropouts else 0.0


def _check_inputs(block: _Block, inputs: int, source: str) -> None:
    """Check that a fully connected layer reads as many activations as there are."""
    if block.layer.weight.shape[1] != inputs:
        raise ValueError(f"layer {block} must read {inputs} inputs ({source}); got {block.layer.weight.shape[1]}")


def _shared_norm(convs: Sequence[_Block]) -> ResponseNorm | None:
    """Return the constants of the normalisation, the same in all layers; None if there is none."""
    norms = [norm for block in convs for norm in block.all_of(NormLayer)]
    constants = {(norm.size, norm.alpha, norm.beta, norm.k) for norm in norms}
    if len(constants) > 1:
        raise ValueError(f"an AlexNet must have the same normalisation everywhere; {norms[0].name} and others differ")
    if not norms:
        return None
    norm = norms[0]
    return ResponseNorm(
        k=norm.k, size=norm.size, alpha=norm.alpha, beta=norm.beta, alpha_over_size=True, all_towers=True
    )


def _pool_fields(convs: Sequence[_Block]) -> dict[str, Any]:
    """Return the sizes of the windows, the same in all layers."""
    pools = [pool for block in convs for pool in block.all_of(PoolLayer)]
    sizes = {(pool.size, pool.stride) for pool in pools}
    if len(sizes) > 1:
        raise ValueError(
            f"an AlexNet must have the same windows in every pooling; got sizes and strides {sorted(sizes)}"
        )
    return {"pool_size": pools[0].size, "pool_stride": pools[0].stride} if pools else {}

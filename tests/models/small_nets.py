"""Small nets and random pictures for the tests of the models, and the shapes and sizes of a net's layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alexnet.architecture import Net
from alexnet.models.alexnet import AlexNet


def narrow_net(net: Net) -> Net:
    """Return the same net with few maps and units, its maps of the same sides: 224 -> 55 -> 27 -> 13 -> 6."""
    maps = {"conv1": 16, "conv2": 16, "conv3": 12, "conv4": 20, "conv5": 12, "conv6": 8}
    convs = {name: replace(conv, maps=maps[name], deviation=0.05) for name, conv in net.convs().items()}
    hidden = {name: replace(full, units=14, deviation=0.1) for name, full in net.hidden().items()}
    return replace(net, **convs, **hidden)


def random_pictures(count: int = 2, side: int = 224, seed: int = 0) -> Tensor:
    """Return random centred pixels, (count, 3, side, side) float64."""
    generator = torch.Generator().manual_seed(seed)
    return 60 * torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def build_net(net: Net, classes: int = 5) -> AlexNet:
    """Return a net with seeded weights and different biases, in float64 and evaluation mode."""
    torch.manual_seed(0)
    model = AlexNet(classes, net).double().eval()
    for layer in model.layers().values():
        assert layer.bias is not None
        nn.init.normal_(layer.bias, float(layer.bias.detach().mean()), 0.3)
    return model


def layer_shapes(net: AlexNet, x: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return for each layer the shapes of a picture's outputs: of the layer itself, and after what follows it."""
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def record(name: str, inner: bool) -> Callable[[Any, Any, Tensor], None]:
        def hook(_module: Any, _inputs: Any, y: Tensor) -> None:
            shape = tuple(y.shape[1:])
            shapes[name] = (shape, shape) if inner else (shapes[name][0], shape)

        return hook

    for name, layer in net.layers().items():
        layer.register_forward_hook(record(name, True))
    for name, block in (*net.convs.items(), *net.hidden.items()):
        block.register_forward_hook(record(name, False))
    net(x)
    return shapes


def meta_net(net: Net | None = None, classes: int = 1000) -> tuple[AlexNet, Tensor]:
    """Return a net without memory for its weights, and a picture for it: for shapes only."""
    with torch.device("meta"):
        model = AlexNet(classes, net)
        return model, torch.empty(1, 3, model.net.image_size, model.net.image_size)


def count_parameters(net: AlexNet) -> list[int]:
    """Return the number of weights and biases of each layer."""
    return [sum(p.numel() for p in layer.parameters()) for layer in net.layers().values()]


SMALL_NET = replace(narrow_net(Net()), start="he", pixel_scale=1 / 64)

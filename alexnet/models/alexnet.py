"""The net of section 4 and Figure 2: two towers of convolutions, connected in conv3 and the fully connected layers."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.architecture import Conv, Full, Net
from alexnet.models.initial_weights import blurred_noise
from alexnet.models.layers import (
    Convolution,
    Dropout,
    FullyConnected,
    LocallyConnected,
    activation_layer,
    following_layers,
)
from alexnet.models.weight_files import best_checkpoint, copy_weights, read_architecture, read_weights

_CONV_DROPOUT_LAYER = 2  # number of its masks; those of fc6 and fc7 have 0 and 1


class Convolutions(nn.ModuleDict):
    """The convolutional layers by name, applied one after another.

    Attributes:
        side: Side of the last feature maps, which the first fully connected layer reads.
    """

    side: int

    def forward(self, x: Tensor) -> Tensor:
        """Compute the last feature maps from pictures: (N, 3, 224, 224) -> (N, 256, 6, 6).

        The feature maps of smaller pictures are resized to the same side.
        """
        for conv in self.values():
            # conv1 (N, 96, 27, 27), conv2 (N, 256, 13, 13), conv3, conv4 (N, 384, 13, 13), conv5 (N, 256, 6, 6)
            x = conv(x)
        return x if x.shape[-1] == self.side else F.adaptive_avg_pool2d(x, self.side)


class AlexNet(nn.Module):
    """The paper's convolutional net, or the variant of it that a `Net` describes (section 4).

    The maps of a layer are tower after tower: of 96 maps, 0 to 47 are those of the paper's GPU 1.

    Args:
        classes: Number of classes; 0 for a net without an output layer, which returns what `features` does.
        net: Sizes and constants; the paper's by default.

    Raises:
        ValueError: There is one class, or fewer than none.

    Attributes:
        convs: conv1, conv2, ...: the convolution, then what follows it (activation, normalisation, pooling).
        hidden: fc6, fc7: the linear layer, the activation, and dropout if there is any.
        conv_dropout: Dropout of the last feature maps; None in the paper's net.
        linear: A linear layer before fc8; None in the paper's net.
        fc8: The output layer; the identity if there are no classes.
        num_features: Number of activations of the last hidden layer, 4096 in the paper's net.
    """

    def __init__(self, classes: int = 1000, net: Net | None = None) -> None:
        super().__init__()
        if classes < 2 and classes != 0:
            raise ValueError(f"classes must be at least 2, or 0 for a net without an output layer; got {classes}")
        self.net = net = net or Net()
        self.classes = classes
        self.convs: Convolutions = Convolutions()
        channels, side, sides = 3, net.image_size, net.sides()
        for name, conv in net.convs().items():
            # The first layer reads the picture; the others the maps of their own tower or, as conv3, of all (4.2).
            towers = 1 if not self.convs or conv.all_towers else net.towers
            layer_type = Convolution if conv.shared else LocallyConnected
            layer = layer_type(channels, conv, towers=towers, side=side)
            self.convs[name] = nn.Sequential(layer, *following_layers(conv, net))
            channels, side = conv.maps, sides[name][1]
        self.convs.side = side
        scaling = net.dropout_scaling
        self.conv_dropout = Dropout(net.conv_dropout, _CONV_DROPOUT_LAYER, scaling) if net.conv_dropout else None
        self.hidden = nn.ModuleDict()
        width = channels * side * side  # 256 * 6 * 6 = 9216
        for name, full in net.hidden().items():
            assert full.units is not None
            layers: list[nn.Module] = [FullyConnected(width, full.units), activation_layer(net)]
            if full.dropout:
                layers.append(Dropout(full.dropout, len(self.hidden), scaling))
            self.hidden[name] = nn.Sequential(*layers)
            width = full.units
        self.num_features = width
        self.linear = FullyConnected(width, net.linear.units) if net.linear and net.linear.units and classes else None
        outputs_of = self.linear.out_features if self.linear else width
        self.fc8: FullyConnected | nn.Identity = FullyConnected(outputs_of, classes) if classes else nn.Identity()
        self._inactive: list[Dropout] = []  # a list, so that these are not a second time among the net's modules
        if self.device.type != "meta":  # no values to draw there, and normal_ would import torch._dynamo, for a second
            self.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, classes) from centred pixels (N, 3, 224, 224); with no classes, the features."""
        x = self.scale_pixels(x)  # (N, 3, 224, 224)
        x = self.convs(x)  # (N, 256, 6, 6)
        return self.forward_head(x)  # (N, classes)

    def features(self, x: Tensor) -> Tensor:
        """Compute the activations of the last hidden layer (7.1).

        Args:
            x: (N, 3, 224, 224) centred pixels, float.

        Returns:
            (N, 4096).

        Raises:
            ValueError: The pictures have another size.
        """
        x = self.scale_pixels(x)  # (N, 3, 224, 224)
        x = self.convs(x)  # (N, 256, 6, 6)
        return self._forward_hidden(x)  # (N, 4096)

    def layer_output(self, x: Tensor, layer: str) -> Tensor:
        """Compute the output of a layer, with the activation, the normalisation, the pooling and the dropout after it.

        Args:
            x: (N, 3, 224, 224) centred pixels, float.
            layer: The name of the layer: "conv1" ... "fc8".

        Returns:
            (N, maps, side, side) of a convolutional layer, (N, units) of a fully connected one.

        Raises:
            ValueError: The net has no such layer, or the pictures have another size.
        """
        self.check_layer(layer)
        x = self.scale_pixels(x)  # (N, 3, 224, 224)
        for name, conv in self.convs.items():
            x = conv(x)  # (N, maps, side, side)
            if name == layer:
                return x
        x = x.flatten(1)  # (N, 9216)
        if self.conv_dropout is not None:
            x = self.conv_dropout(x)  # (N, 9216)
        for name, full in self.hidden.items():
            x = full(x)  # (N, 4096)
            if name == layer:
                return x
        if self.linear is not None:
            x = self.linear(x)  # (N, units)
            if layer == "linear":
                return x
        logits: Tensor = self.fc8(x)  # (N, classes)
        return logits

    def check_layer(self, name: str) -> None:
        """Raise a ValueError unless the net has a layer of this name."""
        if name not in self.layers():
            raise ValueError(f"layer must be one of {', '.join(self.layers())}; got {name!r}")

    def extra_repr(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"classes={self.classes}, image_size={self.net.image_size}, weights and biases={count:,}"

    def scale_pixels(self, x: Tensor) -> Tensor:
        """Return the pictures as conv1 reads them; raise a ValueError where they have another size.

        In training they may be smaller (`Recipe.image_sizes`).
        """
        side = min(x.shape[-1], self.net.image_size) if self.training else self.net.image_size
        if x.shape[1:] != (3, side, side):
            raise ValueError(f"pictures must have shape (N, 3, {side}, {side}); got {tuple(x.shape)}")
        return x * self.net.pixel_scale if self.net.pixel_scale != 1 else x

    def forward_head(self, x: Tensor) -> Tensor:
        """Compute the logits (N, classes) from the last feature maps (N, 256, 6, 6)."""
        x = self._forward_hidden(x)  # (N, 4096)
        if self.linear is not None:
            x = self.linear(x)  # (N, units)
        logits: Tensor = self.fc8(x)  # (N, classes)
        return logits

    def _forward_hidden(self, x: Tensor) -> Tensor:
        x = x.flatten(1)  # (N, 9216)
        if self.conv_dropout is not None:
            x = self.conv_dropout(x)  # (N, 9216)
        for full in self.hidden.values():
            x = full(x)  # (N, 4096) after fc6 and after fc7
        return x

    def dropouts(self) -> list[Dropout]:
        """Return the dropout layers, in order."""
        return [module for module in self.modules() if isinstance(module, Dropout)]

    def layers(self) -> dict[str, Convolution | LocallyConnected | FullyConnected]:
        """Return the layers with weights, by the names that `Net` gives them, in order."""
        inner = {name: block[0] for name, block in (*self.convs.items(), *self.hidden.items())}  # type: ignore[index]
        outer = {"linear": self.linear, "fc8": self.fc8}
        return inner | {name: layer for name, layer in outer.items() if isinstance(layer, FullyConnected)}

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the weights and biases by plain names: "conv1.weight", "conv1.bias" and so on, in order."""
        layers = self.layers().items()
        return {f"{name}.{part}": parameter for name, layer in layers for part, parameter in layer.named_parameters()}

    def load_weights(self, file: str | Path) -> None:
        """Set all weights and biases to those of a file.

        Args:
            file: A checkpoint of a run, or a safetensors file with plain names, as `alexnet export --state` writes it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a safetensors file, or its layers differ from this net's; no weight is changed.
        """
        copy_weights(read_weights(Path(file)), self.weights(), Path(file))

    @classmethod
    def from_run(cls, run: str | Path) -> "AlexNet":
        """Return the net that a run has trained, in evaluation mode.

        Args:
            run: A folder that `alexnet train` or `alexnet export --hub` wrote.

        Raises:
            FileNotFoundError: There is no trained net in the folder.
            ValueError: The file of the net is damaged.
        """
        exported = Path(run) / "model.safetensors"
        path = exported if exported.is_file() else best_checkpoint(Path(run))
        architecture, classes = read_architecture(path)
        with torch.device("meta"):  # draws no start values, which would be replaced
            net = cls(len(classes), architecture)
        net.to_empty(device="cpu")
        net.load_weights(path)
        return net.eval()

    def modules_by_layer(self) -> dict[str, list[nn.Module]]:
        """Return, in order, what each layer consists of: dropout of its inputs, its weights, and what follows them.

        Applied one after another to scaled pixels, they compute what `forward` does.
        """
        parts: dict[str, list[nn.Module]] = {name: list(conv.children()) for name, conv in self.convs.items()}
        inputs: list[nn.Module] = [nn.Flatten(), *([self.conv_dropout] if self.conv_dropout is not None else [])]
        for name, full in self.hidden.items():
            linear, activation, *dropout = full.children()
            parts[name] = [*inputs, linear, activation]
            inputs = dropout
        for name in ("linear", "fc8"):
            if name in self.layers():
                parts[name] = [*inputs, self.layers()[name]]
                inputs = []
        return parts

    def freeze(self, layers: Collection[str]) -> None:
        """Keep layers from learning: no gradients are computed for their weights.

        The frozen layers before the first one that learns compute as at test time, without dropout, also in training.

        Args:
            layers: Their names; all other layers learn.
        """
        is_front, self._inactive = True, []
        for name, parts in self.modules_by_layer().items():
            is_front = is_front and name in layers
            self.layers()[name].requires_grad_(name not in layers)
            self._inactive += [part for part in parts if is_front and isinstance(part, Dropout)]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, except for dropout between frozen layers, which stays off."""
        super().train(mode)
        for dropout in self._inactive:
            dropout.eval()
        return self

    def to_channels_last(self, device: torch.device) -> "AlexNet":
        """Move the net to a device and to channels_last memory, in which its operations are fastest; return it."""
        self.to(device)
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights and set the initial biases, as `Net.start` says (section 6).

        Args:
            generator: Source of the random numbers; torch's own by default.
        """
        net = self.net
        settings: dict[str, Conv | Full] = {**net.convs(), **net.hidden(), "fc8": net.fc8}
        settings["linear"] = net.linear or Full()
        first = net.layers()[0]
        for name, layer in self.layers().items():
            assert layer.bias is not None
            if net.start in ("he", "centred"):
                inputs = layer.weight.numel() // layer.bias.numel()
                # The output layer starts small, so that the first probabilities are even.
                deviation = math.sqrt(2 / inputs) if name != "fc8" else 0.01
                bias = 0.0
            else:
                deviation, bias = settings[name].deviation, settings[name].bias
            blur = getattr(settings[name], "blur", 0.0)
            if blur:
                shape, device = layer.weight.shape, layer.weight.device
                noise = blurred_noise(shape, deviation=deviation, blur=blur, device=device, generator=generator)
                layer.weight.copy_(noise)
            else:
                layer.weight.normal_(0.0, deviation, generator=generator)
            if net.start == "centred" and name != first:
                inputs_dims = [*range(layer.bias.ndim, layer.weight.ndim)]
                layer.weight.sub_(layer.weight.mean(inputs_dims, keepdim=True))
            layer.bias.fill_(bias)

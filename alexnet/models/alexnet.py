"""The net of section 4 and Figure 2: two towers of convolutions that meet in conv3 and in the full layers."""

import math

import torch
from torch import Tensor, nn

from alexnet.architecture import Conv, Full, Net
from alexnet.models.layers import Convolution, Dropout, LocallyConnected, activation_layer, following_layers


class Convolutions(nn.ModuleDict):
    """The convolutional layers, by name, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) -> (N, 256, 6, 6)."""
        for conv in self.values():
            x = conv(x)  # (N, 96, 27, 27), (N, 256, 13, 13), (N, 384, 13, 13), (N, 384, 13, 13), (N, 256, 6, 6)
        return x


class AlexNet(nn.Module):
    """The paper's convolutional net, or the variant of it that a `Net` describes (section 4).

    Maps of a layer lie tower after tower: of 96 maps, 0 to 47 are those of the paper's GPU 1.

    Args:
        classes: Number of classes.
        net: Sizes and constants; the paper's by default.

    Raises:
        ValueError: Fewer than two classes.
    """

    def __init__(self, classes: int = 1000, net: Net | None = None) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be at least 2; got {classes}")
        self.net = net = net or Net()
        self.classes = classes
        self.convs = Convolutions()  # conv1 ... each a Sequential: the convolution, then what follows it
        channels, side, sides = 3, net.image_size, net.sides()
        for name, conv in net.convs().items():
            towers = 1 if not self.convs or conv.all_towers else net.towers  # the first reads the picture
            kind = Convolution if conv.shared else LocallyConnected
            layer = kind(channels, conv, towers=towers, side=side)
            self.convs[name] = nn.Sequential(layer, *following_layers(conv, net))
            channels, side = conv.maps, sides[name][1]
        self.hidden = nn.ModuleDict()  # fc6, fc7: linear, activation, dropout
        width = channels * side * side
        for name, full in net.hidden().items():
            assert full.units is not None
            parts: list[nn.Module] = [nn.Linear(width, full.units), activation_layer(net)]
            self.hidden[name] = nn.Sequential(
                *parts, *([Dropout(full.dropout, len(self.hidden))] if full.dropout else [])
            )
            width = full.units
        self.linear = nn.Linear(width, net.linear.units) if net.linear and net.linear.units else None
        self.fc8 = nn.Linear(self.linear.out_features if self.linear else width, classes)
        self.reset_parameters()

    def features(self, x: Tensor) -> Tensor:
        """The activities of the last hidden layer (7.1).

        Args:
            x: (N, 3, 224, 224) centred pixels, float.

        Returns:
            (N, 4096).

        Raises:
            ValueError: Pictures of another size.
        """
        return self.hidden_activities(self.convs(self.scale_pixels(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) centred pixels -> (N, classes) logits."""
        return self.forward_head(self.convs(self.scale_pixels(x)))

    def scale_pixels(self, x: Tensor) -> Tensor:
        """The pictures as the first layer takes them; a ValueError where they have another size."""
        side = self.net.image_size
        if x.shape[1:] != (3, side, side):
            raise ValueError(f"pictures must have shape (N, 3, {side}, {side}); got {tuple(x.shape)}")
        return x * self.net.pixel_scale if self.net.pixel_scale != 1 else x

    def hidden_activities(self, x: Tensor) -> Tensor:
        """The convolutions' maps (N, 256, 6, 6) -> the activities of the last hidden layer (N, 4096)."""
        x = x.flatten(1)  # (N, 9216)
        for full in self.hidden.values():
            x = full(x)  # (N, 4096), twice
        return x

    def forward_head(self, x: Tensor) -> Tensor:
        """The convolutions' maps (N, 256, 6, 6) -> logits (N, classes)."""
        x = self.hidden_activities(x)
        logits: Tensor = self.fc8(x if self.linear is None else self.linear(x))
        return logits

    def dropouts(self) -> list[Dropout]:
        """The net's dropout layers, in order."""
        return [module for module in self.hidden.modules() if isinstance(module, Dropout)]

    def to_channels_last(self, device: torch.device) -> "AlexNet":
        """This net moved to a device, in channels_last memory, the layout that its operations are fastest in."""
        self.to(device)
        return self.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def layers(self) -> dict[str, Convolution | LocallyConnected | nn.Linear]:
        """The layers with weights, by the names that `Net` gives them, in order."""
        inner = {name: block[0] for name, block in (*self.convs.items(), *self.hidden.items())}  # type: ignore[index]
        return inner | ({"linear": self.linear} if self.linear else {}) | {"fc8": self.fc8}

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew and set the biases, as `Net.start` says (section 6).

        Args:
            generator: Source of the draws; torch's own by default.
        """
        net = self.net
        given: dict[str, Conv | Full] = {**net.convs(), **net.hidden(), "linear": net.linear or Full(), "fc8": net.fc8}
        for name, layer in self.layers().items():
            assert layer.bias is not None
            if self.net.start == "he":
                inputs = layer.weight.numel() // layer.bias.numel()
                # The output layer starts small, so that the first probabilities are even.
                deviation = math.sqrt(2 / inputs) if name != "fc8" else 0.01
                bias = 0.0
            else:
                deviation, bias = given[name].deviation, given[name].bias
            layer.weight.normal_(0.0, deviation, generator=generator)
            layer.bias.fill_(bias)

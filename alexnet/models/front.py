"""A net in two parts: a front of frozen layers, whose activities can be kept, and the head, which learns."""

from collections.abc import Sequence

from torch import Tensor, nn

from alexnet.models.alexnet import AlexNet


class Front(nn.Module):
    """The first layers of a net, as at test time.

    Args:
        net: The net.
        layers: The names of its first layers, in order.
    """

    def __init__(self, net: AlexNet, layers: Sequence[str]) -> None:
        super().__init__()
        self._net = (net,)  # in a tuple, so that the other layers are not this module's
        self.parts = nn.Sequential(*_parts(net, layers))

    def forward(self, x: Tensor) -> Tensor:
        """Compute activities from centred pixels: (N, 3, side, side) -> (N, maps, rows, columns) or (N, units)."""
        (net,) = self._net
        activities: Tensor = self.parts(net.scale_pixels(x))
        return activities


def split_net(net: AlexNet, front: Sequence[str]) -> tuple[Front, nn.Sequential]:
    """Return the front and the head of a net; they share its weights, and `head(front(x))` is `net(x)`.

    Args:
        net: The full net, whose front is frozen (`AlexNet.freeze`).
        front: The names of the layers of the front, in order.
    """
    head = list(net.layers())[len(front) :]
    return Front(net, front), nn.Sequential(*_parts(net, head))


def _parts(net: AlexNet, layers: Sequence[str]) -> list[nn.Module]:
    """Return what the layers of these names consist of, in order."""
    parts = net.modules_by_layer()
    return [part for name in layers for part in parts[name]]

"""What a training step sends from process to process, counted on paper (section 4.2)."""

from dataclasses import dataclass, replace
from typing import Any

from alexnet.architecture import Net
from alexnet.checked import require

SCHEMES = ("data", "towers", "hybrid")
GRADIENT_BYTES = 4  # of a weight's gradient: weights are float32 whatever the precision of the activities
# Of a picture in the softmax: each part's greatest output and whose it is (float64), given to all; then the sum of the
# exponentials, the correct class's output and the sum of the outputs (float32), added over all.
SOFTMAX_GATHERED, SOFTMAX_ADDED = 2 * 8, 3 * 4


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The bytes that the busiest process sends for one layer in one training step.

    Gathering, its reverse and averaging are counted as a ring of n processes sends them: a part that the others need
    n - 1 times, what is averaged 2 (n - 1) / n times.

    Args:
        layer: Its name in `Net.layers`, or "softmax".
        forward: Activities gathered before it; of the softmax, its five numbers a picture.
        backward: Those activities' gradients, on their way back to where the activities came from.
        weights: Its weights' and biases' gradients, averaged.
    """

    layer: str
    forward: int
    backward: int
    weights: int

    @property
    def total(self) -> int:
        """All three, in bytes."""
        return self.forward + self.backward + self.weights


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a scheme spreads a net over processes.

    Args:
        scheme: "data": each process has the whole net and a part of the pictures. "towers": groups of `Net.towers`
            processes share the pictures of a group; each has one tower and as large a part of the fully connected
            layers (4.2). "hybrid": the convolutions as "data"; of the fully connected layers each process has a part,
            through which it takes all pictures (Krizhevsky 2014).
        processes: Their number.
        towers: Of the net.

    Raises:
        ValueError: No such scheme, or it fits neither net nor processes.
    """

    scheme: str
    processes: int
    towers: int

    def __post_init__(self) -> None:
        require(self.scheme in SCHEMES, "scheme", f"one of {', '.join(SCHEMES)}", self.scheme)
        require(self.processes >= 1, "processes", "a whole number of at least 1", self.processes)
        if self.scheme == "towers":
            require(self.towers > 1, "net.towers", 'at least 2 for scheme "towers" (try "data")', self.towers)
            whole = self.processes % self.towers == 0
            require(whole, "processes", f'a multiple of net.towers {self.towers} for scheme "towers"', self.processes)

    @property
    def conv_parts(self) -> int:
        """Processes over which a convolution's maps are spread."""
        return self.towers if self.scheme == "towers" else 1

    @property
    def full_parts(self) -> int:
        """Processes over which a fully connected layer's units are spread."""
        return {"data": 1, "towers": self.towers, "hybrid": self.processes}[self.scheme]

    def parts(self, layer: "LayerSize") -> int:
        """Processes over which a layer's maps or units are spread."""
        return self.full_parts if layer.full else self.conv_parts


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """The sizes of a layer with weights (4.5).

    Args:
        name: As in `Net.layers`.
        full: Whether it is fully connected.
        units: Its maps or units.
        kernel: Weights of one map or unit at one place, without the bias.
        places: Places that a kernel is applied at.
        kernels: Different kernels of a map: 1, or one for each place (`Conv.shared`).
        read: Maps or units of the layer before; 3 for the picture's channels.
        area: Places of each of those, after pooling.
        meets: Whether it reads what other towers made, the picture apart.
    """

    name: str
    full: bool
    units: int
    kernel: int
    places: int
    kernels: int
    read: int
    area: int
    meets: bool

    @property
    def unit_parameters(self) -> int:
        """Weights and biases of one map or unit."""
        return (self.kernel + 1) * self.kernels

    @property
    def products(self) -> int:
        """Multiplications for a picture's forward pass."""
        return self.units * self.kernel * self.places


def layer_sizes(net: Net, classes: int) -> list[LayerSize]:
    """The sizes of a net's layers with weights, in order (4.5, Figure 2)."""
    sizes: list[LayerSize] = []
    read, area, sides = 3, net.image_size**2, net.sides()
    for name, conv in net.convs().items():
        alone = 1 if not sizes or conv.all_towers else net.towers
        kernel, places = conv.kernel**2 * read // alone, sides[name][0] ** 2
        one = {"units": conv.maps, "kernel": kernel, "places": places, "kernels": 1 if conv.shared else places}
        meets = bool(sizes) and conv.all_towers
        sizes.append(LayerSize(name=name, full=False, read=read, area=area, meets=meets, **one))
        read, area = conv.maps, sides[name][1] ** 2
    for name in net.layers()[len(sizes) :]:
        full = getattr(net, name)
        one = {"units": full.units or classes, "kernel": read * area, "places": 1, "kernels": 1}
        sizes.append(LayerSize(name=name, full=True, read=read, area=area, meets=True, **one))
        read, area = full.units, 1
    return sizes


def traffic(
    net: Net, classes: int, batch: int, scheme: str, processes: int, *, activity_bytes: int = 4
) -> list[Traffic]:
    """Count what the busiest process sends in a training step, layer by layer (4.2, Figure 2).

    Where a batch or the classes cannot be cut evenly, the busiest process has the larger part.

    Args:
        net: The net.
        classes: Number of classes.
        batch: Pictures of a step, over all processes.
        scheme: "data", "towers" or "hybrid", as in `Layout`.
        processes: Over all groups.
        activity_bytes: Of an activity: 4 in float32, 2 in bfloat16.

    Returns:
        A row for each layer, in order, and one for the softmax.

    Raises:
        ValueError: Net or processes do not fit the scheme; a layer's units cannot be cut evenly; there are fewer
            pictures or classes than parts to cut them into.
    """
    require(activity_bytes in (2, 4), "activity_bytes", "2 or 4", activity_bytes)
    layout = Layout(scheme=scheme, processes=processes, towers=net.towers)
    groups = processes // layout.conv_parts
    require(batch >= groups, "batch", f"at least {groups}, a picture for each part of {processes} processes", batch)
    rows = []
    before = layout.conv_parts  # processes over which the activities that a layer reads are spread
    pictures = -(-batch // groups)  # that those processes have
    for layer in layer_sizes(net, classes):
        parts = layout.parts(layer)
        if layer.name == "fc8":
            require(classes >= parts, "classes", f"at least {parts}, one for each process that shares them", classes)
        else:
            cut = f"divisible by the {parts} processes that share the layer"
            require(layer.units % parts == 0, f"{layer.name}.units", cut, layer.units)
        others = parts - 1 if layer.meets else 0
        gathered = others * pictures * -(-layer.read // before) * layer.area * activity_bytes
        same = processes // parts  # processes with the same weights
        gradient = GRADIENT_BYTES * layer.unit_parameters * -(-layer.units // parts)
        averaged = 2 * (same - 1) * gradient // same
        rows.append(Traffic(layer=layer.name, forward=gathered, backward=gathered, weights=averaged))
        before, pictures = parts, -(-batch // same)
    softmax = (before - 1) * (SOFTMAX_GATHERED * pictures + 2 * SOFTMAX_ADDED * pictures // before)
    rows.append(Traffic(layer="softmax", forward=softmax, backward=0, weights=0))
    return rows


def every_layer_talks(net: Net) -> Net:
    """The net whose every convolution reads the maps of all towers, for comparison (4.2, Figure 2)."""
    all_towers: dict[str, Any] = {name: replace(conv, all_towers=True) for name, conv in net.convs().items()}
    return replace(net, **all_towers)

"""The bytes that a training step sends between processes, computed from the net's layers (section 4.2)."""

from dataclasses import dataclass, replace
from typing import Any

from alexnet.architecture import Net
from alexnet.checked import require

SCHEMES = ("data", "towers", "hybrid")
_GRADIENT_BYTES = 4  # of one weight: weights are float32, whatever the precision of the activations
# For each picture of the softmax: a shard's greatest logit and its class (float64), gathered; then the sum of the
# exponentials, the label's logit and the sum of the logits (float32), all-reduced.
_SOFTMAX_GATHERED, _SOFTMAX_REDUCED = 2 * 8, 3 * 4


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The bytes that the busiest process sends for one layer in one training step.

    The collectives are those of a ring of n processes: an all-gather or its backward pass sends a shard n - 1 times, an
    all-reduce sends 2 (n - 1) / n times the bytes of a tensor.

    Args:
        layer: The layer's name in `Net.layers`, or "softmax".
        forward: The activations that are gathered before the layer; for the softmax, its five numbers for each picture.
        backward: The gradients of these activations.
        gradients: The gradients of the layer's weights and biases, which are averaged.
    """

    layer: str
    forward: int
    backward: int
    gradients: int

    @property
    def total(self) -> int:
        """The sum of all three, in bytes."""
        return self.forward + self.backward + self.gradients


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a scheme shards a net over processes.

    Args:
        scheme: "data": each process has the full net and a shard of the pictures. "towers": groups of `Net.towers`
            processes share the pictures of a group; each process has one tower, and a shard of the fully connected
            layers (4.2). "hybrid": the convolutions as for "data"; each process has a shard of the fully connected
            layers, for the pictures of all processes (Krizhevsky 2014).
        processes: The number of processes.
        towers: The number of towers of the net.

    Raises:
        ValueError: There is no such scheme, or it does not suit the net or the number of processes.
    """

    scheme: str
    processes: int
    towers: int

    def __post_init__(self) -> None:
        require(self.scheme in SCHEMES, "scheme", f"one of {', '.join(SCHEMES)}", self.scheme)
        require(self.processes >= 1, "processes", "a whole number of at least 1", self.processes)
        if self.scheme == "towers":
            require(self.towers > 1, "net.towers", 'at least 2 for scheme "towers" (try "data")', self.towers)
            divisible = self.processes % self.towers == 0
            rule = f'a multiple of net.towers {self.towers} for scheme "towers"'
            require(divisible, "processes", rule, self.processes)

    @property
    def conv_shards(self) -> int:
        """The number of processes that share the feature maps of a convolution."""
        return self.towers if self.scheme == "towers" else 1

    @property
    def full_shards(self) -> int:
        """The number of processes that share the units of a fully connected layer."""
        return {"data": 1, "towers": self.towers, "hybrid": self.processes}[self.scheme]

    def shards(self, layer: "LayerSize") -> int:
        """Return the number of processes that share the feature maps or units of a layer."""
        return self.full_shards if layer.full else self.conv_shards


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """The sizes of a layer with weights (4.5).

    Args:
        name: The layer's name in `Net.layers`.
        full: Whether the layer is fully connected.
        units: The number of feature maps or units.
        fan_in: The number of weights of one output, without the bias.
        positions: The number of outputs of a feature map.
        filters_per_map: 1, or one for each position (`Conv.shared`).
        inputs: The number of feature maps or units of the layer before; 3 for the channels of the picture.
        input_area: The number of positions of each of those, after pooling.
        reads_all_towers: Whether the layer reads what other towers have computed.
    """

    name: str
    full: bool
    units: int
    fan_in: int
    positions: int
    filters_per_map: int
    inputs: int
    input_area: int
    reads_all_towers: bool

    @property
    def parameters_per_unit(self) -> int:
        """The number of weights and biases of one feature map or unit."""
        return (self.fan_in + 1) * self.filters_per_map

    @property
    def multiplications(self) -> int:
        """The number of multiplications in the forward pass of a picture."""
        return self.units * self.fan_in * self.positions


def layer_sizes(net: Net, classes: int) -> list[LayerSize]:
    """Return the sizes of a net's layers with weights, in order (4.5, Figure 2)."""
    layers: list[LayerSize] = []
    inputs, input_area, sides = 3, net.image_size**2, net.sides()
    for name, conv in net.convs().items():
        reads_all_towers = bool(layers) and conv.all_towers
        groups = net.towers if layers and not conv.all_towers else 1
        positions = sides[name][0] ** 2
        layers.append(
            LayerSize(
                name=name,
                full=False,
                units=conv.maps,
                fan_in=conv.kernel**2 * inputs // groups,
                positions=positions,
                filters_per_map=1 if conv.shared else positions,
                inputs=inputs,
                input_area=input_area,
                reads_all_towers=reads_all_towers,
            )
        )
        inputs, input_area = conv.maps, sides[name][1] ** 2
    for name in net.layers()[len(layers) :]:
        full = getattr(net, name)
        layers.append(
            LayerSize(
                name=name,
                full=True,
                units=full.units or classes,
                fan_in=inputs * input_area,
                positions=1,
                filters_per_map=1,
                inputs=inputs,
                input_area=input_area,
                reads_all_towers=True,
            )
        )
        inputs, input_area = full.units, 1
    return layers


def traffic(
    net: Net, classes: int, batch: int, scheme: str, processes: int, *, activity_bytes: int = 4
) -> list[Traffic]:
    """Count the bytes that the busiest process sends in a training step, for each layer (4.2, Figure 2).

    Where the batch or the classes cannot be split evenly, the busiest process has the larger shard.

    Args:
        net: The architecture of the net.
        classes: The number of classes.
        batch: The number of pictures of a step, over all processes.
        scheme: "data", "towers" or "hybrid", as in `Layout`.
        processes: The number of processes, over all groups.
        activity_bytes: The bytes of one activation: 4 in float32, 2 in bfloat16.

    Returns:
        One row for each layer, in order, and one for the softmax.

    Raises:
        ValueError: The net or the number of processes does not suit the scheme; the units of a layer cannot be split
            evenly; there are fewer pictures or classes than shards.
    """
    require(activity_bytes in (2, 4), "activity_bytes", "2 or 4", activity_bytes)
    layout = Layout(scheme=scheme, processes=processes, towers=net.towers)
    exchanges_all = scheme != "towers" or not net.normalises_across_towers
    rule = 'false for scheme "towers", whose processes do not exchange maps for the normalisation'
    require(exchanges_all, "net.normalise.all_towers", rule, True)
    groups = processes // layout.conv_shards
    require(batch >= groups, "batch", f"at least {groups}, a picture for each part of {processes} processes", batch)
    rows = []
    input_shards = layout.conv_shards  # the number of processes that share the inputs of a layer
    pictures = -(-batch // groups)  # of these processes
    for layer in layer_sizes(net, classes):
        shards = layout.shards(layer)
        _check_divisible(layer, classes, shards)
        others = shards - 1 if layer.reads_all_towers else 0
        gathered = others * pictures * -(-layer.inputs // input_shards) * layer.input_area * activity_bytes
        replicas = processes // shards  # the number of processes with the same weights
        gradient_bytes = _GRADIENT_BYTES * layer.parameters_per_unit * -(-layer.units // shards)
        averaged = 2 * (replicas - 1) * gradient_bytes // replicas
        rows.append(Traffic(layer=layer.name, forward=gathered, backward=gathered, gradients=averaged))
        input_shards, pictures = shards, -(-batch // replicas)
    others = input_shards - 1
    softmax = others * (_SOFTMAX_GATHERED * pictures + 2 * _SOFTMAX_REDUCED * pictures // input_shards)
    rows.append(Traffic(layer="softmax", forward=softmax, backward=0, gradients=0))
    return rows


def _check_divisible(layer: LayerSize, classes: int, shards: int) -> None:
    """Raise a ValueError unless the units of a layer can be split; the classes need not be split evenly."""
    if layer.name == "fc8":
        require(classes >= shards, "classes", f"at least {shards}, one for each process that shares them", classes)
    else:
        rule = f"divisible by the {shards} processes that share the layer"
        require(layer.units % shards == 0, f"{layer.name}.units", rule, layer.units)


def connect_all_towers(net: Net) -> Net:
    """Return the net whose convolutions all read the feature maps of all towers, for comparison (4.2, Figure 2)."""
    convs: dict[str, Any] = {name: replace(conv, all_towers=True) for name, conv in net.convs().items()}
    return replace(net, **convs)

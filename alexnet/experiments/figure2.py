"""Figure 2: the net, drawn from a recipe: the size of every layer, the towers, and where they communicate.

    alexnet reproduce figure2                      the paper's net; needs no pictures
    alexnet reproduce figure2 --recipe photos      any other

Expected: the paper's numbers of neurons, exactly.
Duration: a few seconds.
"""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from alexnet.architecture import Conv, Net
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.result import ExperimentResult, ResultRow
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.figure_files import save_figure
from alexnet.results.figures import LIGHT
from alexnet.results.report_html import recipe_name

DATASET = None
# The classes of the sets that the recipes are for, by the beginnings of their names; any number for the others.
_CLASSES = {"alexnet-2012-fall2009": 10_184, "alexnet-2012-fall2011": None, "alexnet-2012": 1000, "cifar10": 10}
_LAYER_DISTANCE, _TOWER_DISTANCE = 2.6, 2.9
_ANY_CLASSES = 100  # how many units are drawn for any number of classes
_TOP_FACE, _SIDE_FACE = "#e6edf6", "#b3c8e2"
PAPER_NEURONS = {
    "picture": 150_528,
    "conv1": 290_400,
    "conv2": 186_624,
    "conv3": 64_896,
    "conv4": 64_896,
    "conv5": 43_264,
    "fc6": 4096,
    "fc7": 4096,
    "fc8": 1000,
}
_Point = tuple[float, float]


@dataclass(frozen=True)
class DrawnLayer:
    """A layer as it is drawn.

    Args:
        name: Its name.
        side: The side of its maps, in pixels; 1 for a fully connected layer.
        maps: The number of maps or units in all towers; None for one of each class, whatever their number is.
        towers: The number of towers it is divided into.
        reads_all_towers: Whether it reads the maps of all towers of the layer before.
        caption: The text under its name.
    """

    name: str
    side: int
    maps: int | None
    towers: int
    reads_all_towers: bool
    caption: str = ""

    @property
    def neurons(self) -> int | None:
        """The number of its neurons; None if that is the number of the classes."""
        return None if self.maps is None else self.side**2 * self.maps


def count_classes(recipe: Recipe) -> int | None:
    """Return the number of classes of the set that a recipe is for; None if it is for any pictures."""
    name = recipe_name(recipe)
    return next((classes for beginning, classes in _CLASSES.items() if name.startswith(beginning)), None)


def drawn_layers(net: Net, classes: int | None) -> list[DrawnLayer]:
    """Return the layers of a net with their sizes (Figure 2); classes: their number, None if it is not known."""
    layers = [DrawnLayer("picture", net.image_size, 3, 1, False)]
    sides = net.sides()
    for name, conv in net.convs().items():
        reads_all_towers = conv.all_towers or len(layers) == 1
        side, _ = sides[name]
        caption = _conv_caption(net, conv)
        layers.append(DrawnLayer(name, side, conv.maps, net.towers, reads_all_towers, caption))
    for name, full in net.hidden().items():
        assert full.units is not None
        caption = f"dropout {full.dropout:g}" if full.dropout else ""
        layers.append(DrawnLayer(name, 1, full.units, net.towers, True, caption))
    if net.linear is not None and net.linear.units is not None:
        layers.append(DrawnLayer("linear", 1, net.linear.units, 1, True))
    return [*layers, DrawnLayer("fc8", 1, classes, 1, True)]


def _conv_caption(net: Net, conv: Conv) -> str:
    """Return a line for each thing that a convolutional layer does besides its activation, in the net's order."""
    steps = {"pool": f"{conv.pooling} pooling {net.pool_size}/{net.pool_stride}"}
    if net.normalise:
        steps["normalise"] = "normalised"
    if net.normalise_map:
        steps["normalise_map"] = "normalised in maps"
    if net.normalise_contrast:
        steps["normalise_contrast"] = "contrast normalised"
    lines = [f"{conv.kernel}x{conv.kernel}" + (f", stride {conv.stride}" if conv.stride > 1 else "")]
    lines += [] if conv.shared else ["local"]
    lines += [steps[step] for step in conv.then if step in steps]
    return "\n".join(lines)


def run(experiment: Experiment) -> ExperimentResult:
    """Draw the net, and compare the numbers of its neurons with the paper's."""
    recipe = experiment.base_recipe("alexnet-2012-paper")
    layers = drawn_layers(recipe.net, count_classes(recipe))
    data = "Computed from the recipe; no pictures needed."
    result = ExperimentResult("Figure 2: the net", data, ("neurons",))
    is_paper = recipe == recipe_named("alexnet-2012-paper")
    for layer in layers:
        paper = PAPER_NEURONS.get(layer.name) if is_paper else None
        result.rows.append(ResultRow(layer.name, (paper,), ((layer.neurons,),)))
    result.figures = ["figure2.png"]
    result.write(experiment.folder)  # before the picture: by it the folder is known as an experiment's
    save_figure(experiment.folder / "figure2.png", draw(layers), recipe, dpi=150)
    return result


def draw(layers: list[DrawnLayer]) -> Figure:
    """Draw boxes for maps, bars for fully connected layers, towers one above the other, lines to what a layer reads."""
    lowest = -max(_TOWER_DISTANCE * (layer.towers - 1) + _box_size(layer)[1] for layer in layers) / 2
    lines = max(layer.caption.count("\n") + 1 for layer in layers)
    left, right = -1.2, _LAYER_DISTANCE * len(layers) - 1.4
    bottom, top = lowest - 1.1 - 0.35 * lines, -lowest + 1.2
    width = 1.35 * len(layers)
    figure = Figure(figsize=(width, width * (top - bottom) / (right - left)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.axis("off")
    previous_ends: list[_Point] = []  # the right ends of the boxes of the layer before
    for number, layer in enumerate(layers):
        x, starts, ends = _LAYER_DISTANCE * number, [], []
        for tower in range(layer.towers):
            y = _TOWER_DISTANCE * ((layer.towers - 1) / 2 - tower)
            start, end = _draw_box(axes, layer, x, y)
            starts.append((start, y))
            ends.append((end, y))
        _draw_lines(axes, previous_ends, starts, layer.reads_all_towers)
        previous_ends = ends
        text = {"ha": "center", "va": "top", "color": LIGHT.text}
        axes.text(x, lowest - 0.5, layer.name, fontsize=9, weight="bold", **text)  # type: ignore[arg-type]
        axes.text(x, lowest - 0.95, layer.caption, fontsize=7.5, **text)  # type: ignore[arg-type]
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    return figure


def _box_size(layer: DrawnLayer) -> tuple[float, float]:
    """Return the width and the height of a layer's box; they grow slower than its maps, so that all are visible."""
    maps = (layer.maps or _ANY_CLASSES) / layer.towers
    if layer.side == 1:
        return 0.22, 0.9 + maps / 4096
    return 0.12 * maps**0.45, 0.42 * layer.side**0.33


def _draw_box(axes: Axes, layer: DrawnLayer, x: float, y: float) -> tuple[float, float]:
    """Draw one tower of a layer around (x, y), and return the x of its left and of its right end."""
    width, height = _box_size(layer)
    depth = 0.3 * height if layer.side > 1 else 0.0
    left, right, low, high = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    faces = [([(left, low), (right, low), (right, high), (left, high)], LIGHT.bar)]
    if depth:
        top = [(left, high), (right, high), (right + depth, high + depth), (left + depth, high + depth)]
        side = [(right, low), (right + depth, low + depth), (right + depth, high + depth), (right, high)]
        faces += [(top, _TOP_FACE), (side, _SIDE_FACE)]
    for corners, colour in faces:
        axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor=LIGHT.text, linewidth=0.8))
    maps = "classes" if layer.maps is None else f"{layer.maps // layer.towers}"
    size = maps if layer.side == 1 else f"{layer.side}x{layer.side}\nx{maps}"
    axes.text(x + depth / 2, high + depth + 0.08, size, ha="center", va="bottom", fontsize=7.5, color=LIGHT.text)
    return left, right + depth / 2


def _draw_lines(axes: Axes, ends: list[_Point], starts: list[_Point], reads_all_towers: bool) -> None:
    """Draw a line to each box from what it reads, in another colour if that is in the other tower."""
    for from_tower, (x0, y0) in enumerate(ends):
        for to_tower, (x1, y1) in enumerate(starts):
            across = len(ends) == len(starts) > 1 and from_tower != to_tower
            if across and not reads_all_towers:
                continue
            colour = LIGHT.validation if across else LIGHT.text
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1.2 if across else 0.8, zorder=0)

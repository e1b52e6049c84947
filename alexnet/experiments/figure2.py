"""Figure 2: the net, drawn from a recipe: every layer's size computed, the towers apart, and where they talk.

alexnet reproduce figure2                      the paper's net; needs no pictures
alexnet reproduce figure2 --recipe photos      any other
"""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from alexnet.architecture import Net
from alexnet.experiments.lab import Experiment, ExperimentResult, ResultRow
from alexnet.recipes import recipe_named
from alexnet.results.figures import LIGHT

DATA = None
CLASSES = 1000
STEP, APART = 2.6, 2.9  # distance between layers, and between towers
PAPER = {"picture": 150_528, "conv1": 290_400, "conv2": 186_624, "conv3": 64_896, "conv4": 64_896, "conv5": 43_264}
PAPER |= {"fc6": 4096, "fc7": 4096, "fc8": 1000}


@dataclass(frozen=True)
class DrawnLayer:
    """A layer as it is drawn.

    Args:
        name: Its name.
        side: Side of its maps, in pixels; 1 for a full layer.
        maps: Maps or units over all towers.
        towers: Number of parts they are spread over.
        meets: Whether it reads what all towers made.
        kernel: Side of the kernels that make it, in pixels; 0 for the picture and the full layers.
        below: What is written under it.
    """

    name: str
    side: int
    maps: int
    towers: int
    meets: bool
    kernel: int = 0
    below: str = ""

    @property
    def neurons(self) -> int:
        """Number of its neurons."""
        return self.side**2 * self.maps


def drawn_layers(net: Net, classes: int = CLASSES) -> list[DrawnLayer]:
    """The layers of a net with the sizes that its fields lead to (Figure 2)."""
    found = [DrawnLayer("picture", net.image_size, 3, 1, False)]
    sides = net.sides()
    for name, conv in net.convs().items():
        notes = []
        if conv.stride > 1:
            notes.append(f"stride {conv.stride}")
        if not conv.shared:
            notes.append("local")
        written = {"pool": f"{conv.pooling} pooling {net.pool_size}/{net.pool_stride}"}
        written |= {"normalise": "normalised"} if net.normalise else {}
        written |= {"normalise_map": "normalised in maps"} if net.normalise_map else {}
        notes += [written[step] for step in conv.then if step in written]
        meets = conv.all_towers or len(found) == 1
        found.append(DrawnLayer(name, sides[name][0], conv.maps, net.towers, meets, conv.kernel, "\n".join(notes)))
    for name, full in net.hidden().items():
        assert full.units is not None
        below = f"dropout {full.dropout:g}" if full.dropout else ""
        found.append(DrawnLayer(name, 1, full.units, net.towers, True, 0, below))
    if net.linear is not None and net.linear.units is not None:
        found.append(DrawnLayer("linear", 1, net.linear.units, 1, True))
    return [*found, DrawnLayer("fc8", 1, classes, 1, True)]


def run(lab: Experiment) -> ExperimentResult:
    """Draw the net, and set the numbers of its neurons beside the paper's."""
    recipe = lab.base("alexnet-2012-paper")
    drawn = drawn_layers(recipe.net)
    finding = ExperimentResult("Figure 2: the net", "Computed from the recipe; no pictures needed.", ("neurons",))
    of_paper = recipe == recipe_named("alexnet-2012-paper")
    for stage in drawn:
        paper = PAPER.get(stage.name) if of_paper else None
        finding.rows.append(ResultRow(stage.name, (paper,), ((stage.neurons,),)))
    draw(drawn).savefig(lab.folder / "figure2.png", dpi=150)
    finding.figures = ["figure2.png"]
    return finding


def draw(of: list[DrawnLayer]) -> Figure:
    """The figure: boxes for maps, bars for full layers, towers one above the other, lines where a layer reads."""
    figure = Figure(figsize=(1.35 * len(of), 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.axis("off")
    lowest = -max(APART * (stage.towers - 1) + size(stage)[1] for stage in of) / 2
    ends: list[tuple[float, float]] = []  # right ends of the boxes of the layer before, where lines begin
    for number, stage in enumerate(of):
        x, starts, new_ends = STEP * number, [], []
        for tower in range(stage.towers):
            y = APART * ((stage.towers - 1) / 2 - tower)
            left, right = box(axes, stage, x, y)
            starts.append((left, y))
            new_ends.append((right, y))
        lines(axes, ends, starts, stage.meets)
        ends = new_ends
        axes.text(x, lowest - 0.5, stage.name, ha="center", va="top", fontsize=9, weight="bold", color=LIGHT.text)
        axes.text(x, lowest - 0.95, stage.below, ha="center", va="top", fontsize=7.5, color=LIGHT.text)
    axes.set_xlim(-1.2, STEP * len(of) - 1.4)
    axes.set_ylim(lowest - 2.2, -lowest + 1.2)
    return figure


def size(stage: DrawnLayer) -> tuple[float, float]:
    """Width and height of a layer's box: they grow with maps and side, but slower, so that all can be seen."""
    maps = stage.maps / stage.towers
    if stage.side == 1:
        return 0.22, 0.9 + maps / 4096
    return 0.12 * maps**0.45, 0.42 * stage.side**0.33


def box(axes: Axes, stage: DrawnLayer, x: float, y: float) -> tuple[float, float]:
    """Draw one tower's part of a layer around (x, y); its left and right end."""
    width, height = size(stage)
    slant = 0.3 * height if stage.side > 1 else 0.0
    left, right, low, high = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    faces = [[(left, low), (right, low), (right, high), (left, high)]]
    if slant:
        faces.append([(left, high), (right, high), (right + slant, high + slant), (left + slant, high + slant)])
        faces.append([(right, low), (right + slant, low + slant), (right + slant, high + slant), (right, high)])
    for face, shade in zip(faces, (LIGHT.bar, "#e6edf6", "#b3c8e2"), strict=False):
        axes.add_patch(Polygon(face, closed=True, facecolor=shade, edgecolor=LIGHT.text, linewidth=0.8))
    maps = stage.maps // stage.towers
    text = f"{maps}" if stage.side == 1 else f"{stage.side}x{stage.side}\nx{maps}"
    axes.text(x + slant / 2, high + slant + 0.08, text, ha="center", va="bottom", fontsize=7.5, color=LIGHT.text)
    if stage.kernel:
        axes.text(left - 0.08, low - 0.02, f"{stage.kernel}x{stage.kernel}", ha="right", va="top", fontsize=6.5)
    return left, right + slant / 2


def lines(axes: Axes, ends: list[tuple[float, float]], starts: list[tuple[float, float]], meets: bool) -> None:
    """Draw what reads what: across the towers in another colour."""
    for from_tower, (x0, y0) in enumerate(ends):
        for to_tower, (x1, y1) in enumerate(starts):
            across = len(ends) == len(starts) > 1 and from_tower != to_tower
            if across and not meets:
                continue
            colour = LIGHT.validation if across else LIGHT.text
            axes.plot([x0, x1], [y0, y1], color=colour, linewidth=1.2 if across else 0.8, zorder=0)

"""Start values from another run: pre-training, then a new output layer (section 7: "CNN*")."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet.architecture import Net
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import best_checkpoint, list_checkpoints
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import Checkpoint, load_best, load_mean, load_train_state


@dataclass(frozen=True)
class Taken:
    """What a net has taken from another run.

    Args:
        layers: The names of the layers, in order.
        classes: How many classes of the new output layer were taken; 0 if it was not.
    """

    layers: tuple[str, ...] = ()
    classes: int = 0

    def describe(self, run: str | Path, classes: int) -> str:
        """Return a line about it: of `classes` classes of the new net."""
        names = [f"fc8 ({self.classes} of {classes} classes)" if name == "fc8" else name for name in self.layers]
        return f"start values from {run}: {', '.join(names)}"


@torch.no_grad()
def take_weights(net: AlexNet, classes: Sequence[str], run: str | Path, layers: Sequence[str] = ()) -> Taken:
    """Copy the weights and biases of layers from another run's net.

    Of the output layer, the classes are copied that both nets have, by name; the others keep their start values.

    Args:
        net: The new net; changed.
        classes: The classes of the new net.
        run: Folder that `train` made; its net of the lowest validation error, or else the last one, is used.
        layers: Names of the layers to copy; by default all that both nets have with the same shape.

    Raises:
        FileNotFoundError: `run` holds no trained net.
        ValueError: A named layer is missing in one of the nets, differs in shape, or is the output layer and the nets
            have no class in common; or no layer fits; or the run is not finished.
    """
    checkpoint = load_origin(run)
    taken = fitting_layers(checkpoint, net.net, classes, layers)
    targets, sources = net.layers(), checkpoint.net().layers()
    for name in taken:
        if name != "fc8":
            targets[name].load_state_dict(sources[name].state_dict())
    common = _common_classes(checkpoint, classes) if "fc8" in taken else []
    if common:
        new, old = torch.tensor(common).T
        for kind in ("weight", "bias"):
            getattr(net.fc8, kind)[new] = getattr(sources["fc8"], kind)[old]
    return Taken(taken, len(common))


def load_origin(run: str | Path) -> Checkpoint:
    """Read the net of a run to take weights from.

    Raises:
        FileNotFoundError: `run` holds no trained net.
        ValueError: Its training is not finished.
    """
    checkpoint = load_best(Path(run))
    state = load_train_state(list_checkpoints(Path(run))[-1])
    if not state.finished:
        raise ValueError(
            f"run {run} must be finished to take weights from it; it has done {state.epoch} epochs: resume it with "
            f"`alexnet train STORE {run}`"
        )
    return checkpoint


def read_origin_recipe(run: str | Path) -> Recipe:
    """Read the recipe of a run to take weights from.

    Raises:
        FileNotFoundError: `run` holds no trained net.
    """
    best_checkpoint(Path(run))
    return Recipe.load(Path(run) / "recipe.json")


def fitting_layers(
    checkpoint: Checkpoint, net: Net, classes: Sequence[str], layers: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the names of the layers that a net takes from a checkpoint, in order.

    Args:
        checkpoint: The net to take from.
        net, classes: The new net.
        layers: Names of the layers to take; by default all that both nets have with the same shape.

    Raises:
        ValueError: As for `take_weights`.
    """
    run = checkpoint.path.parent.parent
    targets, sources = _layer_shapes(net, len(classes)), _layer_shapes(checkpoint.recipe.net, len(checkpoint.classes))

    def mismatch(name: str) -> str | None:
        """Return why a layer does not fit; None if it does."""
        if name not in targets or name not in sources:
            return f"{'the new net' if name not in targets else f'run {run}'} has no such layer"
        shapes = targets[name], sources[name]
        if name == "fc8":  # its rows are taken by the classes' names
            shapes = targets[name][1:], sources[name][1:]
        if shapes[0] != shapes[1]:
            return f"its weights have shape {sources[name]} in the run and {targets[name]} in the new net"
        return "no class is in both" if name == "fc8" and not _common_classes(checkpoint, classes) else None

    for name in layers:
        if reason := mismatch(name):
            raise ValueError(f"layer {name!r} must fit to be taken from run {run}; {reason}")
    taken = tuple(name for name in targets if (name in layers if layers else mismatch(name) is None))
    if not taken:
        raise ValueError(f"run {run} must have a layer of the same name and shape as the new net; it has none")
    return taken


def origin_mean(run: str | Path, size: int) -> np.ndarray:
    """Return the mean activity (3, size, size) that a run's net subtracts.

    Raises:
        FileNotFoundError: `run` holds no trained net.
        ValueError: It was trained on pictures of another size.
    """
    mean = load_mean(best_checkpoint(Path(run)))
    if mean.shape[1] != size:
        raise ValueError(
            f'run {run} must have pictures of side {size}, for recipe.mean "start"; it has {mean.shape[1]}: prepare '
            f"the store with `size={mean.shape[1]}`"
        )
    return mean


def _layer_shapes(net: Net, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's weights, by its name."""
    with torch.device("meta"):
        return {name: tuple(layer.weight.shape) for name, layer in AlexNet(classes, net).layers().items()}


def _common_classes(checkpoint: Checkpoint, classes: Sequence[str]) -> list[tuple[int, int]]:
    """Return the rows of the classes that both nets have: (in the new output layer, in the checkpoint's)."""
    rows = {name: row for row, name in enumerate(checkpoint.classes)}
    return [(row, rows[name]) for row, name in enumerate(classes) if name in rows]

"""Start a net from another run's weights: pre-training, then a new top layer (section 7: "CNN*")."""

from collections.abc import Sequence
from pathlib import Path

import torch

from alexnet.models.alexnet import AlexNet
from alexnet.training.checkpoint import list_checkpoints, load_best, load_train_state


@torch.no_grad()
def take_weights(net: AlexNet, classes: Sequence[str], run: str | Path, layers: Sequence[str] = ()) -> tuple[str, ...]:
    """Copy the weights and biases of layers from another run's net.

    Args:
        net: Changed.
        classes: Its classes; the output layer is only taken from a net of the same ones.
        run: Folder that `train` made; its net with the lowest validation error, or else the last, is taken.
        layers: Names of the layers to take; by default all that both nets have, in the same shape.

    Returns:
        The names of the layers taken, in order.

    Raises:
        FileNotFoundError: `run` holds no trained net.
        ValueError: A layer named is missing in one of the nets, differs in shape, or is the output layer for other
            classes; or no layer fits; or the run is not finished.
    """
    found = load_best(Path(run))
    last = load_train_state(list_checkpoints(Path(run))[-1])
    if not last.finished:
        raise ValueError(
            f"run {run} must be finished to take weights from it; it has done {last.epoch} epochs: go on with it by "
            f"`alexnet train STORE {run}`"
        )
    theirs, ours = found.net().layers(), net.layers()

    def obstacle(name: str) -> str | None:
        if name not in ours or name not in theirs:
            return f"{'the new net' if name not in ours else f'run {run}'} has no such layer"
        shapes = tuple(ours[name].weight.shape), tuple(theirs[name].weight.shape)
        if shapes[0] != shapes[1]:
            return f"its weights have shape {shapes[1]} there and {shapes[0]} here"
        return "it tells other classes apart" if name == "fc8" and tuple(classes) != found.classes else None

    for name in layers:
        if reason := obstacle(name):
            raise ValueError(f"layer {name!r} must be one that fits to be taken from run {run}; {reason}")
    taken = tuple(name for name in ours if (name in layers if layers else obstacle(name) is None))
    if not taken:
        raise ValueError(f"run {run} must have a layer of the same name and shape as the new net; it has none")
    for name in taken:
        ours[name].load_state_dict(theirs[name].state_dict())
    return taken

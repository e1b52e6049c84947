"""Start values from another run: pre-training, then a new output layer (section 7: "CNN*")."""

from collections.abc import Sequence
from pathlib import Path

import torch

from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.training.checkpoint import load_best, load_train_state


@torch.no_grad()
def take_weights(net: AlexNet, classes: Sequence[str], run: str | Path, layers: Sequence[str] = ()) -> tuple[str, ...]:
    """Copy the weights and biases of layers from another run's net.

    Args:
        net: The new net; changed.
        classes: The classes of the new net; the output layer is only copied between nets of the same classes.
        run: Folder that `train` made; its net of the lowest validation error, or else the last one, is used.
        layers: Names of the layers to copy; by default all that both nets have with the same shape.

    Returns:
        The names of the copied layers, in order.

    Raises:
        FileNotFoundError: `run` holds no trained net.
        ValueError: A named layer is missing in one of the nets, differs in shape, or is the output layer for other
            classes; or no layer fits; or the run is not finished.
    """
    checkpoint = load_best(Path(run))
    state = load_train_state(list_checkpoints(Path(run))[-1])
    if not state.finished:
        raise ValueError(
            f"run {run} must be finished to take weights from it; it has done {state.epoch} epochs: resume it with "
            f"`alexnet train STORE {run}`"
        )
    targets, sources = net.layers(), checkpoint.net().layers()

    def mismatch(name: str) -> str | None:
        """Return why a layer does not fit; None if it does."""
        if name not in targets or name not in sources:
            return f"{'the new net' if name not in targets else f'run {run}'} has no such layer"
        shapes = tuple(targets[name].weight.shape), tuple(sources[name].weight.shape)
        if shapes[0] != shapes[1]:
            return f"its weights have shape {shapes[1]} in the run and {shapes[0]} in the new net"
        return "its classes are others" if name == "fc8" and tuple(classes) != checkpoint.classes else None

    for name in layers:
        if reason := mismatch(name):
            raise ValueError(f"layer {name!r} must fit to be taken from run {run}; {reason}")
    taken = tuple(name for name in targets if (name in layers if layers else mismatch(name) is None))
    if not taken:
        raise ValueError(f"run {run} must have a layer of the same name and shape as the new net; it has none")
    for name in taken:
        targets[name].load_state_dict(sources[name].state_dict())
    return taken

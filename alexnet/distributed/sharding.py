"""A net whose layers are spread over processes, each of which holds a part of the units (section 4.2)."""

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.architecture import Net
from alexnet.distributed.collectives import Group, all_rows, all_units
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import Convolution, Dropout, LocallyConnected, ResponseNormalisation

Dims = Mapping[str, int]
"""Of each parameter that is split, the dimension of its layer's units, along which it is."""


def check_split(net: Net, classes: int, parts: int) -> None:
    """Raise a ValueError unless a net's full layers can be split into so many parts."""
    for name, full in {**net.hidden(), **({"linear": net.linear} if net.linear else {})}.items():
        assert full.units is not None
        if full.units % parts:
            raise ValueError(
                f"{name}.units must be divisible by the {parts} processes that share the layer; got {full.units}"
            )
    if classes < parts:
        raise ValueError(f"classes must be at least as many as the {parts} processes that share them; got {classes}")


def split(net: AlexNet, units: Group, rows: Group | None = None) -> Dims:
    """Keep this process's part of a net's layers, and let it exchange activities where a layer reads all units.

    Every layer is split by its units: each process computes some of them from all that the layer reads. So activities
    are exchanged before conv3 and before each fully connected layer, and nowhere else (4.2).

    Args:
        net: A whole net, which `check_split` finds no fault with; changed. While it is trained its output is now the
            logits of this process's classes; in evaluation those of all.
        units: The processes that share it.
        rows: If given, the convolutions are not split, and these are the processes whose pictures' activities are
            brought together before the first fully connected layer (Krizhevsky, "One weird trick", 2014). While it is
            trained the output then has a row for each of their pictures; in evaluation for this process's own.

    Returns:
        How it is split.
    """
    dims: dict[str, int] = {}
    if rows is None:
        for place, (name, block) in enumerate(net.convs.items()):
            assert isinstance(block, nn.Sequential)
            dims |= {f"convs.{name}.0.{kind}": dim for kind, dim in _split_convolution(block, units).items()}
            if place and net.net.convs()[name].all_towers:
                _before(block, units, name)
    full: list[tuple[str, str, nn.Module]] = [(n, f"hidden.{n}.0", block) for n, block in net.hidden.items()]
    full += [(n, n, layer) for n, layer in (("linear", net.linear), ("fc8", net.fc8)) if layer is not None]
    for place, (name, path, block) in enumerate(full):
        layer = block[0] if isinstance(block, nn.Sequential) else block
        assert isinstance(layer, nn.Linear)
        for dropout in block.modules():
            if isinstance(dropout, Dropout):
                dropout.column = units.bounds(layer.out_features)[0]
        layer.out_features = _keep(layer, {"weight": 0, "bias": 0}, units)
        dims |= {f"{path}.weight": 0, f"{path}.bias": 0}
        _before(block, units, name, rows=rows if place == 0 else None)
    net.fc8.register_forward_hook(
        lambda layer, _, x: x if layer.training else _all_classes(x, net.classes, units, rows)
    )
    return dims


def _split_convolution(block: nn.Sequential, units: Group) -> dict[str, int]:
    """Keep this process's maps of a convolutional layer; which dimension of its parameters they are."""
    layer = block[0]
    if isinstance(layer, LocallyConnected):
        dims = {"weight": 2, "bias": 2}
        _keep(layer, dims, units)
        layer.towers = 1
    else:
        assert isinstance(layer, Convolution)
        dims = {"weight": 0, "bias": 0}
        layer.out_channels = _keep(layer, dims, units)
        layer.in_channels, layer.groups = layer.in_channels // layer.groups, 1
    for module in block:
        if isinstance(module, ResponseNormalisation):
            module.towers = 1
    return dims


def _keep(layer: nn.Module, dims: Mapping[str, int], units: Group) -> int:
    """Replace parameters by this process's part of them; how many units that is."""
    count = 0
    for kind, dim in dims.items():
        part = own(getattr(layer, kind).detach(), dim, units).clone()
        setattr(layer, kind, nn.Parameter(part))
        count = part.shape[dim]
    return count


def own(whole: Tensor, dim: int, units: Group) -> Tensor:
    """This process's part of a whole tensor, as a view."""
    first, end = units.bounds(whole.shape[dim])
    return whole.narrow(dim, first, end - first)


def _before(block: nn.Module, units: Group, name: str, rows: Group | None = None) -> None:
    """Let a layer gather all that it reads: the units of all processes, or (with `rows`) their pictures."""

    def gather(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (all_rows(x, rows, name) if rows is not None else all_units(x, units, name),)

    block.register_forward_pre_hook(gather)


def _all_classes(logits: Tensor, classes: int, units: Group, rows: Group | None) -> Tensor:
    """All classes' logits from this process's (N, ...), for its own pictures; no gradients."""
    most = -(-classes // units.parts)
    padded = logits.new_zeros(len(logits), most)
    padded[:, : logits.shape[1]] = logits
    parts = [torch.empty_like(padded) for _ in range(units.parts)]
    dist.all_gather(parts, padded, group=units.handle)
    each, over = divmod(classes, units.parts)
    whole = torch.cat([part[:, : each + (number < over)] for number, part in enumerate(parts)], 1)
    return whole.chunk(rows.parts)[rows.part] if rows is not None else whole


def whole(tensors: Mapping[str, Tensor], dims: Dims, units: Group) -> dict[str, Tensor]:
    """Bring the parts of tensors together in the group's first process; all its processes must call this.

    Args:
        tensors: This process's part of each, by the names of the parameters they are of.
        dims: How these are split.
        units: The processes that share them.

    Returns:
        In the first process whole tensors, in the computer's memory; in the others nothing.
    """
    found = {}
    for name, tensor in tensors.items():
        if name in dims:
            parts = _collected(tensor.detach(), dims[name], units)
        else:
            parts = [tensor.detach()] if units.part == 0 else []
        if parts:
            found[name] = torch.cat([part.cpu() for part in parts], dims.get(name, 0))
    return found


def _collected(part: Tensor, dim: int, units: Group) -> list[Tensor]:
    """The parts of a tensor, in the group's first process; nothing in the others. Parts may differ in size by one."""
    size = torch.tensor(part.shape[dim], device=part.device)
    sizes = [torch.empty_like(size) for _ in range(units.parts)]
    dist.all_gather(sizes, size, group=units.handle)
    most = int(torch.stack(sizes).max())
    shape = list(part.shape)
    shape[dim] = most
    padded = part.new_zeros(shape)
    padded.narrow(dim, 0, part.shape[dim]).copy_(part)
    parts = [torch.empty_like(padded) for _ in range(units.parts)] if units.part == 0 else None
    dist.gather(padded, parts, dst=units.first(), group=units.handle)
    return [one.narrow(dim, 0, int(count)) for one, count in zip(parts or (), sizes, strict=False)]


@torch.no_grad()
def deal(tensors: Mapping[str, Tensor] | None, into: Iterable[tuple[str, Tensor]], dims: Dims, units: Group) -> None:
    """Give every process its part of tensors that process 0 has whole; all processes must call this.

    Args:
        tensors: Whole, by name, in process 0; None in the others.
        into: What is written to, by the same names in the same order in every process.
        dims: How they are split.
        units: The processes that share them.
    """
    for name, part in into:
        shape = list(part.shape)
        if name in dims:
            count = torch.tensor(part.shape[dims[name]], device=part.device)
            dist.all_reduce(count, group=units.handle)
            shape[dims[name]] = int(count)
        there = tensors[name].to(part) if tensors is not None else part.new_empty(shape)
        there = there.contiguous()
        dist.broadcast(there, 0)
        part.copy_(own(there, dims[name], units) if name in dims else there)

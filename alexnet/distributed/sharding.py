"""Model parallelism: the layers of a net are sharded over processes by their units (section 4.2)."""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.architecture import Net
from alexnet.distributed.collectives import RankGroup, all_gather_rows, all_gather_units
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import ContrastNormalisation, Convolution, Dropout, LocallyConnected, ResponseNormalisation

ShardDims = Mapping[str, int]
"""The dimension along which each sharded parameter is split: that of the layer's units."""


def check_shardable(net: Net, classes: int, size: int) -> None:
    """Raise a ValueError unless the fully connected layers of a net can be split into `size` shards."""
    for name, full in {**net.hidden(), **({"linear": net.linear} if net.linear else {})}.items():
        assert full.units is not None
        if full.units % size:
            raise ValueError(
                f"{name}.units must be divisible by the {size} processes that share the layer; got {full.units}"
            )
    if classes < size:
        raise ValueError(f"classes must be at least as many as the {size} processes that share them; got {classes}")


def shard_model(net: AlexNet, model_group: RankGroup, data_group: RankGroup | None = None) -> ShardDims:
    """Keep this rank's shard of the layers, and gather the activations where a layer reads all units.

    Every layer is split by its units: each rank computes some of them from everything that the layer reads. So
    activations are gathered before conv3 and before each fully connected layer, and nowhere else (4.2). The dropout of
    the last feature maps comes after they are gathered, so that all ranks drop the same.

    Args:
        net: A full net that passes `check_shardable`; it is changed. In training it now returns the logits of this
            rank's classes, in evaluation those of all classes.
        model_group: The ranks that share the layers.
        data_group: If given, the convolutions are not split, and these are the ranks whose rows are gathered before
            the first fully connected layer (Krizhevsky, "One weird trick", 2014). In training the net then returns a
            row for each of their pictures, in evaluation for the pictures of this rank.

    Returns:
        The dimension along which each parameter is split.
    """
    dims: dict[str, int] = {}
    if data_group is None:
        assert not net.net.normalises_across_towers
        for index, (name, block) in enumerate(net.convs.items()):
            assert isinstance(block, nn.Sequential)
            dims |= {f"convs.{name}.0.{kind}": dim for kind, dim in _shard_convolution(block, model_group).items()}
            if index and net.net.convs()[name].all_towers:
                _gather_inputs(block, model_group, name)
    full: list[tuple[str, str, nn.Module]] = [(n, f"hidden.{n}.0", block) for n, block in net.hidden.items()]
    full += [(n, n, layer) for n, layer in (("linear", net.linear), ("fc8", net.fc8)) if layer is not None]
    for index, (name, path, block) in enumerate(full):
        layer = block[0] if isinstance(block, nn.Sequential) else block
        assert isinstance(layer, nn.Linear)
        for dropout in block.modules():
            if isinstance(dropout, Dropout):
                dropout.column = model_group.shard_bounds(layer.out_features)[0]
        layer.out_features = _shard_parameters(layer, {"weight": 0, "bias": 0}, model_group)
        dims |= {f"{path}.weight": 0, f"{path}.bias": 0}
        first = net.conv_dropout if index == 0 and net.conv_dropout is not None else block
        _gather_inputs(first, model_group, name, data_group if index == 0 else None)
    net.fc8.register_forward_hook(
        lambda layer, _, x: x if layer.training else _gather_logits(x, net.classes, model_group, data_group)
    )
    return dims


def _shard_convolution(block: nn.Sequential, group: RankGroup) -> dict[str, int]:
    """Keep this rank's feature maps of a convolutional layer; return the dimension that splits each parameter."""
    layer = block[0]
    if isinstance(layer, LocallyConnected):
        dims = {"weight": 2, "bias": 2}
        _shard_parameters(layer, dims, group)
        layer.towers = 1
    else:
        assert isinstance(layer, Convolution)
        dims = {"weight": 0, "bias": 0}
        layer.out_channels = _shard_parameters(layer, dims, group)
        layer.in_channels, layer.groups = layer.in_channels // layer.groups, 1
    for module in block:
        if isinstance(module, ResponseNormalisation | ContrastNormalisation):
            module.towers = 1
    return dims


def _shard_parameters(layer: nn.Module, dims: Mapping[str, int], group: RankGroup) -> int:
    """Replace parameters by this rank's shards of them; return the number of units of a shard."""
    units = 0
    for kind, dim in dims.items():
        shard = _local_shard(getattr(layer, kind).detach(), dim, group).clone()
        setattr(layer, kind, nn.Parameter(shard))
        units = shard.shape[dim]
    return units


def _local_shard(full: Tensor, dim: int, group: RankGroup) -> Tensor:
    """Return this rank's shard of a full tensor, as a view."""
    start, end = group.shard_bounds(full.shape[dim])
    return full.narrow(dim, start, end - start)


def _gather_inputs(block: nn.Module, group: RankGroup, name: str, data_group: RankGroup | None = None) -> None:
    """Let a layer gather its inputs: the units of all ranks, or the rows of `data_group` if it is given."""

    def gather(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = inputs
        return (all_gather_rows(x, data_group, name) if data_group else all_gather_units(x, group, name),)

    block.register_forward_pre_hook(gather)


def _gather_logits(logits: Tensor, classes: int, group: RankGroup, data_group: RankGroup | None) -> Tensor:
    """Gather the logits of all classes, for the pictures of this rank; without gradients.

    Args:
        logits: (N, classes of this rank).
        classes: The number of classes of all ranks.
        group: The ranks that share the classes.
        data_group: The ranks whose pictures the rows are of; None where all rows are of this rank's pictures.

    Returns:
        (N, classes), or (N / size of `data_group`, classes).
    """
    largest = -(-classes // group.size)
    padded = logits.new_zeros(len(logits), largest)
    padded[:, : logits.shape[1]] = logits
    shards = [torch.empty_like(padded) for _ in range(group.size)]
    dist.all_gather(shards, padded, group=group.process_group)
    size, remainder = divmod(classes, group.size)
    full = torch.cat([shard[:, : size + (rank < remainder)] for rank, shard in enumerate(shards)], 1)
    return full.chunk(data_group.size)[data_group.rank] if data_group is not None else full


def gather_full_tensors(tensors: Mapping[str, Tensor], dims: ShardDims, group: RankGroup) -> dict[str, Tensor]:
    """Gather the full tensors on the group's first rank; all its ranks must call this.

    Args:
        tensors: This rank's shards, by the names of the parameters that they belong to.
        dims: The dimension along which each parameter is split.
        group: The ranks that share the layers.

    Returns:
        On the first rank the full tensors, in the computer's memory; on the others an empty dictionary.
    """
    full = {}
    for name, tensor in tensors.items():
        if name in dims:
            shards = _gather_shards(tensor.detach(), dims[name], group)
        else:
            shards = [tensor.detach()] if group.rank == 0 else []
        if shards:
            full[name] = torch.cat([shard.cpu() for shard in shards], dims.get(name, 0))
    return full


def _gather_shards(shard: Tensor, dim: int, group: RankGroup) -> list[Tensor]:
    """Gather the shards of a tensor on the group's first rank; shards may differ in size by one."""
    size = torch.tensor(shard.shape[dim], device=shard.device)
    sizes = [torch.empty_like(size) for _ in range(group.size)]
    dist.all_gather(sizes, size, group=group.process_group)
    shape = list(shard.shape)
    shape[dim] = int(torch.stack(sizes).max())
    padded = shard.new_zeros(shape)
    padded.narrow(dim, 0, shard.shape[dim]).copy_(shard)
    shards = [torch.empty_like(padded) for _ in range(group.size)] if group.rank == 0 else None
    dist.gather(padded, shards, dst=group.global_first_rank(), group=group.process_group)
    return [tensor.narrow(dim, 0, int(size)) for tensor, size in zip(shards or (), sizes, strict=False)]


@torch.no_grad()
def scatter_full_tensors(
    full: Mapping[str, Tensor] | None, shards: Mapping[str, Tensor], dims: ShardDims, group: RankGroup
) -> None:
    """Give every rank its shard of the tensors that the main process has; all processes must call this.

    Args:
        full: The full tensors by name, in the main process; None in the others.
        shards: The tensors to write to: the same names in the same order in every process.
        dims: The dimension along which each tensor is split.
        group: The ranks that share the layers.
    """
    for name, shard in shards.items():
        shape = list(shard.shape)
        if name in dims:
            units = torch.tensor(shard.shape[dims[name]], device=shard.device)
            dist.all_reduce(units, group=group.process_group)
            shape[dims[name]] = int(units)
        tensor = full[name].to(shard) if full is not None else shard.new_empty(shape)
        tensor = tensor.contiguous()
        dist.broadcast(tensor, 0)
        shard.copy_(_local_shard(tensor, dims[name], group) if name in dims else tensor)

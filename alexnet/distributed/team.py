"""The processes that train one net together: by data, by towers, or both (section 4.2).

torchrun starts the processes; torch.distributed carries what they exchange.
"""

import contextlib
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from alexnet.architecture import Net
from alexnet.distributed.collectives import RankGroup, all_gather_rows, sharded_cross_entropy
from alexnet.distributed.data_parallel import HybridParallel, data_parallel, no_sync
from alexnet.distributed.sharding import (
    ShardDims,
    check_shardable,
    gather_full_tensors,
    scatter_full_tensors,
    shard_model,
)
from alexnet.distributed.watchdog import Watchdog
from alexnet.models.alexnet import AlexNet
from alexnet.utils.cores import available_cores
from alexnet.utils.processes import ReportedElsewhere, local_world_size, report_once

Scheme = Literal["none", "data", "towers", "hybrid"]


class Team:
    """The processes that train one net together, and this process's shard of the net and of each batch.

    Args:
        scheme: "none": a single process. "data": each process has the full net and its shard of each batch. "towers":
            each process has one tower of the convolutions and a shard of each fully connected layer; where there are
            more processes than towers, each group of them has a shard of each batch. "hybrid": the convolutions as for
            "data", the fully connected layers sharded over all processes (Krizhevsky 2014).
        device: The device of this process.
        watchdog: Gets the progress reports of this process, to find one that hangs.

    Attributes:
        rank, world_size: The rank of this process, and the number of processes.
        data_group: The ranks that have different pictures of a batch; set by `form_groups`.
        model_group: The ranks that have different units of the layers; set by `form_groups`.
        shard_dims: The dimension along which each sharded parameter is split; set by `shard_model`.
    """

    def __init__(
        self, scheme: Scheme = "none", device: torch.device | None = None, watchdog: Watchdog | None = None
    ) -> None:
        self.scheme, self.device = scheme, device or torch.device("cpu")
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if scheme != "none" else (0, 1)
        self.watchdog = watchdog or Watchdog(0, 1, math.inf, None)
        self.shard_dims: ShardDims = {}
        self.data_group = self.model_group = RankGroup()

    def form_groups(self, net: Net, classes: int) -> None:
        """Form the groups that share a batch and that share the layers; all processes must call this.

        Raises:
            ValueError: The number of processes does not suit the scheme or the net.
        """
        if self.world_size == 1 and self.scheme != "towers":
            return
        all_ranks = RankGroup(dist.group.WORLD, self.rank, self.world_size)
        if self.scheme in ("data", "hybrid"):
            self.data_group = all_ranks
        if self.scheme == "hybrid":
            self.model_group = all_ranks
        if self.scheme == "towers":
            if net.towers < 2 or self.world_size % net.towers:
                raise ValueError(
                    f"parallel 'towers' must have a process for each of at least two towers, or a multiple; got "
                    f"{self.world_size} for a net of {net.towers}: change torchrun's --nproc-per-node, or use "
                    "`parallel='data'`"
                )
            if net.normalises_across_towers:
                raise ValueError(
                    "net.normalise.all_towers must be false for parallel 'towers', whose processes do not exchange "
                    "maps for the normalisation; got true: use `parallel='data'` or `parallel='hybrid'`"
                )
            shape = (self.world_size // net.towers, net.towers)
            mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("data", "model"))
            self.data_group, self.model_group = (
                RankGroup(mesh.get_group(name), mesh.get_local_rank(name), size)
                for name, size in zip(("data", "model"), shape, strict=True)
            )
        check_shardable(net, classes, self.model_group.size)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes all files and reports."""
        return self.rank == 0

    def num_threads(self) -> int:
        """Return this process's share of the machine's cores."""
        return max(1, available_cores() // (local_world_size() if self.world_size > 1 else 1))

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """Run a block that succeeds in all processes or fails in all; the block must not wait for another process.

        Raises:
            ValueError, OSError: As raised in the block, on the first rank that failed; this rank reports it.
            ReportedElsewhere: On the other ranks.
        """
        failure: Exception | None = None
        try:
            yield
        except (ValueError, OSError) as error:
            failure = error
        if self.world_size == 1:
            if failure:
                raise failure
            return
        failed: list[bool] = [False] * self.world_size
        dist.all_gather_object(failed, failure is not None)
        if True in failed:
            if failure and failed.index(True) == self.rank:
                raise failure
            raise ReportedElsewhere

    def check_same(self, get_settings: Callable[[], Mapping[str, Any]]) -> None:
        """Check that all processes have the same settings.

        Args:
            get_settings: Returns the settings of this process by name; not called in a single process.

        Raises:
            ValueError: A setting differs; raised in the main process only.
            ReportedElsewhere: The same, in the other processes.
        """
        if self.world_size == 1:
            return
        with self.raise_together():
            local = (socket.gethostname(), dict(get_settings()))
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, local)
        expected = gathered[0][1]
        for rank, (machine, settings) in enumerate(gathered):
            for name in expected | settings:
                if settings.get(name) != expected.get(name):
                    raise report_once(
                        ValueError(
                            f"{name} must be the same in all processes; in process {rank} on machine {machine} it is "
                            f"{settings.get(name)!r}, in process 0 {expected.get(name)!r}: start all of them alike"
                        )
                    )

    def shard_model(self, net: AlexNet) -> None:
        """Keep this process's shard of the net."""
        if self.model_group.size > 1:
            self.shard_dims = shard_model(net, self.model_group, self.data_group if self.scheme == "hybrid" else None)

    def wrap_model(self, net: AlexNet) -> nn.Module:
        """Return the module to call in training in place of the net; it averages each gradient once it is ready."""
        if self.data_group.size == 1:
            return net
        if self.scheme == "hybrid":
            return HybridParallel(net, self.data_group)
        return data_parallel(net, self.data_group)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the gradients of a wrapped model are only accumulated, and not averaged."""
        return no_sync(model)

    def cross_entropy(
        self,
        logits: Tensor,
        labels: Tensor,
        classes: int,
        smoothing: float,
        reduction: Literal["none", "mean"] = "none",
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of each picture, or their mean, and the class of each picture's greatest logit.

        Args:
            logits: (N, classes of this process) float32, the output of the model.
            labels: (N,) int64.
            classes: The number of classes of the full net.
            smoothing: The share of the target that is spread evenly over all classes.
            reduction: "none" for the losses of all pictures, "mean" for their mean.

        Returns:
            The losses (N,) or their mean (), and the predicted classes (N,) int64.
        """
        if self.model_group.size == 1:
            return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=smoothing), logits.argmax(1)
        losses, predicted = sharded_cross_entropy(logits, labels, self.model_group, classes, smoothing)
        return losses.mean() if reduction == "mean" else losses, predicted

    @property
    def loss_factor(self) -> int:
        """The factor on this process's loss before the backward pass, so that averaged gradients are those of the mean.

        A process's loss contains the pictures of its own shard only; in "hybrid" it contains all pictures.
        """
        return 1 if self.scheme == "hybrid" else self.data_group.size

    def first_rows(self, start: int, shard_size: int) -> tuple[int, ...]:
        """Return the rows, in the whole batch, at which the pictures begin that the model gets in this process.

        Args:
            start: The first row within each shard.
            shard_size: Rows of a shard.

        Returns:
            One row; in "hybrid", one for each process, since the fully connected layers get the pictures of all.
        """
        ranks = range(self.data_group.size) if self.scheme == "hybrid" else (self.data_group.rank,)
        return tuple(rank * shard_size + start for rank in ranks)

    def all_rows(self, rows: Tensor) -> Tensor:
        """Return the values of all pictures that the model gets in this process, from those of its own shard (n,).

        They differ in "hybrid" only, where the fully connected layers get the pictures of all processes.
        """
        return all_gather_rows(rows, self.data_group, "labels") if self.scheme == "hybrid" else rows

    def local_rows(self, rows: Tensor) -> Tensor:
        """Return the values of this process's own pictures, from those of `all_rows`."""
        return rows.chunk(self.data_group.size)[self.data_group.rank] if self.scheme == "hybrid" else rows

    @property
    def adds_metrics(self) -> bool:
        """Whether this process adds its pictures to the metrics; of several with the same pictures, only one does."""
        return self.scheme == "hybrid" or self.model_group.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum of the values of all processes, in every process; the tensor is changed in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_agree(self, condition: bool) -> bool:
        """Return whether a condition is true in all processes."""
        return int(self.all_reduce(torch.tensor(int(not condition)))) == 0

    def all_gather_predictions(self, rows: Tensor) -> Tensor:
        """Gather the rows of all shards of a batch (n, ...), in the order of the shards."""
        if self.data_group.size == 1:
            return rows
        shards: list[Any] = [None] * self.data_group.size
        dist.all_gather_object(shards, rows, group=self.data_group.process_group)
        return torch.cat(shards)

    def gather_full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather the full tensors of the net in the main process; all processes must call this."""
        if self.model_group.size == 1:
            return dict(tensors)
        return gather_full_tensors(tensors, self.shard_dims, self.model_group)

    @torch.no_grad()
    def scatter(self, full: Mapping[str, Tensor] | None, shards: Mapping[str, Tensor]) -> None:
        """Write each process's shard of the full tensors that the main process has; all processes must call this."""
        if self.world_size > 1:
            scatter_full_tensors(full, shards, self.shard_dims, self.model_group)
        elif full is not None:
            for name, tensor in shards.items():
                tensor.copy_(full[name])

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value in every process; any object that pickle can write."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

"""One net trained by several processes: its towers apart, its batches apart, or both (section 4.2).

`torchrun` starts the processes and says who is who; torch.distributed carries what they exchange.
"""

import atexit
import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, cast, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from alexnet.architecture import Net
from alexnet.distributed.collectives import RankGroup, all_gather_rows, sharded_cross_entropy
from alexnet.distributed.coordinator import LostConnectionError, restart_id
from alexnet.distributed.sharding import (
    ShardDims,
    check_shardable,
    gather_full_tensors,
    scatter_full_tensors,
    shard_model,
)
from alexnet.distributed.watchdog import Watchdog, watched
from alexnet.models.alexnet import AlexNet
from alexnet.utils.console import format_error
from alexnet.utils.cores import available_cores
from alexnet.utils.device import choose_device
from alexnet.utils.processes import (
    ReportedElsewhere,
    local_rank,
    local_world_size,
    report_once,
    report_once_per_machine,
    world_size,
)

START_SECONDS = 300  # for all processes to have been started
LONGEST = 7 * 24 * 3600  # seconds that a process may stand still: torch's timeouts have an end
Scheme = Literal["none", "data", "towers", "hybrid"]


class Team:
    """The processes that train one net together, and this process's shard of the net and of each batch.

    Args:
        scheme: "none": a single process. "data": each process has the full net and its shard of each batch. "towers":
            each process has one tower of the convolutions and a shard of each fully connected layer; where there are
            more processes than towers, each group of them has a shard of each batch. "hybrid": the convolutions as for
            "data", the fully connected layers sharded over all processes (Krizhevsky 2014).
        device: The device of this process.
        watchdog: Gets the heartbeats of this process, to find one that hangs.

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
                    f"{self.world_size} for a net of {net.towers}: change --nproc-per-node, or use --parallel data"
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
            return Hybrid(net, self.data_group)
        return _data_parallel(net, self.data_group)

    def cross_entropy(self, logits: Tensor, labels: Tensor, classes: int, smoothing: float) -> tuple[Tensor, Tensor]:
        """Compute the loss of each picture, and the class of its greatest logit.

        Args:
            logits: (N, classes of this process) float32, the output of the model.
            labels: (N,) int64.
            classes: The number of classes of the full net.
            smoothing: The share of the target that is spread evenly over all classes.

        Returns:
            The losses (N,) and the predicted classes (N,) int64.
        """
        if self.model_group.size == 1:
            return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing), logits.argmax(1)
        return sharded_cross_entropy(logits, labels, self.model_group, classes, smoothing)

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


class Hybrid(nn.Module):
    """A net with replicated convolutions and sharded fully connected layers (Krizhevsky 2014).

    Each process computes its units for the pictures of all processes, so the gradient of their weights is complete.
    The gradient of the convolutions is the sum over the processes, but averaging divides it by their number.
    """

    def __init__(self, net: AlexNet, data_group: RankGroup) -> None:
        super().__init__()
        self.convs, self.size = _data_parallel(net.convs, data_group), data_group.size
        self._net = (net,)  # in a tuple, so that its parameters are not this module's

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 224, 224) -> (size * n, classes of this process)."""
        (net,) = self._net
        maps: Tensor = _ScaleGradient.apply(self.convs(net.scale_pixels(x)), self.size)
        return net.forward_head(maps)


class _ScaleGradient(torch.autograd.Function):
    """The identity in the forward pass; the backward pass multiplies the gradient by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None


def _data_parallel(module: nn.Module, data_group: RankGroup) -> DistributedDataParallel:
    """Wrap a module so that its gradients are averaged over the group, each as soon as it is ready."""
    device = next(module.parameters()).device
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, process_group=data_group.process_group
    )


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients are only accumulated in this process, and not averaged over the group."""
    wrapped = model.convs if isinstance(model, Hybrid) else model
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()


@contextlib.contextmanager
def init_team(scheme: str, device: str | torch.device | None, seconds: float) -> Iterator[Team]:
    """Be one of the processes that torchrun has started, watched over while it lasts.

    Args:
        scheme: One of `Scheme`.
        device: Where this process works; by default, where there are GPUs, the one of its number on this machine.
        seconds: Time after which a process that does not come forward is given up.

    Raises:
        ValueError: No such scheme, or one that does not suit how the process was started or this machine's GPUs.
        LostConnectionError: The other processes have not come.
        ReportedElsewhere: Another process of this machine raises one of these.
    """
    if fault := _fault(scheme, seconds):
        raise report_once_per_machine(ValueError(fault))
    if scheme == "none":
        yield Team(device=choose_device(device))
        return
    if not dist.is_initialized():
        _join(device, seconds)
    with watched(seconds) as watchdog:
        team = Team(cast(Scheme, scheme), watchdog=watchdog)
        with team.raise_together():
            team.device = choose_device(_own_gpu(device))
        yield team


def _join(device: str | torch.device | None, seconds: float) -> None:
    """Join torchrun's processes, until this one ends: joining a second time is not provided for."""
    gpus = torch.cuda.is_available() and str(device) != "cpu"
    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=max(seconds, START_SECONDS))))
        store = PrefixStore(f"restart {restart_id()}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=2 * seconds),
        )
    except RuntimeError as error:  # dist.DistError is one
        lost = LostConnectionError(
            f"process {os.environ['RANK']} (machine {socket.gethostname()}) has waited in vain for all "
            f"{world_size()} processes to come; another machine may say why, or have another command "
            f"({format_error(error)})"
        )
        raise report_once_per_machine(lost) from error
    atexit.register(dist.destroy_process_group)


def _fault(scheme: str, seconds: float) -> str | None:
    """What is wrong with a scheme, or with how this process was started for it; None if nothing."""
    if scheme not in get_args(Scheme):
        return f"parallel must be one of {', '.join(get_args(Scheme))}; got {scheme!r}"
    if not 0 < seconds <= LONGEST:
        return f"hang_seconds must be above 0 and at most {LONGEST:,}; got {seconds}"
    if scheme == "none" and world_size() > 1:
        return f"parallel must be data, towers or hybrid with torchrun's {world_size()} processes; got 'none'"
    if scheme != "none" and "RANK" not in os.environ:
        return f"parallel {scheme!r} must be started by torchrun: torchrun --nproc-per-node 2 -m alexnet train ..."
    try:
        restart_id()
    except ValueError as error:
        return str(error)
    return None


def _own_gpu(device: str | torch.device | None) -> str | torch.device | None:
    """The GPU of this process's number on its machine, where there are GPUs and another device is not asked for.

    Raises:
        ValueError: This machine has fewer GPUs than processes, or one of them is asked for by its number.
    """
    count = torch.cuda.device_count()
    if not count or str(device) == "cpu":
        return device
    if device is not None and str(device) != "cuda":
        raise ValueError(f"device must be cpu, or cuda: of several processes each takes the next GPU; got {device}")
    if local_world_size() > count:
        raise ValueError(
            f"processes on a machine must be at most its {count} GPUs; got {local_world_size()}: change "
            "--nproc-per-node, or use --device cpu"
        )
    return f"cuda:{local_rank()}"

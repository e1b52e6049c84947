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
from alexnet.distributed.collectives import Group, all_rows, split_cross_entropy
from alexnet.distributed.coordinator import LostConnectionError, store_generation
from alexnet.distributed.sharding import Dims, check_split, deal, split, whole
from alexnet.distributed.watchdog import Watch, watched
from alexnet.models.alexnet import AlexNet
from alexnet.utils.console import format_error
from alexnet.utils.device import choose_device
from alexnet.utils.prefetch import available_cores
from alexnet.utils.processes import ReportedElsewhere, report_once

START_SECONDS = 300  # for all processes to have been started
LONGEST = 7 * 24 * 3600  # seconds that a process may stand still: torch's timeouts have an end
Scheme = Literal["none", "data", "towers", "hybrid"]


class Team:
    """The processes that train one net together, and what this one has of the net and of each batch.

    Args:
        scheme: "none": this process is alone. "data": each has the whole net and its part of each batch. "towers":
            neighbours have a tower each of the convolutions and a part of each full layer; where there are more
            processes than towers, such groups have a part of each batch each. "hybrid": convolutions as "data", full
            layers split over all processes (Krizhevsky 2014).
        device: Where this process works.
        watch: Told how the work comes forward, to find a process that hangs.

    Attributes:
        rank, world: This process's number and how many there are.
        pictures: The processes that have different pictures of a batch; known after `form`.
        units: Those that have different units of the layers; known after `form`.
    """

    def __init__(self, scheme: Scheme = "none", device: torch.device | None = None, watch: Watch | None = None) -> None:
        self.scheme, self.device = scheme, device or torch.device("cpu")
        self.rank, self.world_size = (dist.get_rank(), dist.get_world_size()) if scheme != "none" else (0, 1)
        self.watch = watch or Watch(0, 1, math.inf, None)
        self.dims: Dims = {}
        self.data_group = self.model_group = Group()

    def form_groups(self, net: Net, classes: int) -> None:
        """Settle which process has which part, of a net and of a batch; all must call this.

        Raises:
            ValueError: The number of processes does not suit the scheme or the net.
        """
        if self.world_size == 1 and self.scheme != "towers":
            return
        everyone = Group(dist.group.WORLD, self.rank, self.world_size)
        if self.scheme in ("data", "hybrid"):
            self.data_group = everyone
        if self.scheme == "hybrid":
            self.model_group = everyone
        if self.scheme == "towers":
            if net.towers < 2 or self.world_size % net.towers:
                raise ValueError(
                    f"parallel 'towers' must have a process for each of at least two towers, or a multiple; got "
                    f"{self.world_size} for a net of {net.towers}: change --nproc-per-node, or use --parallel data"
                )
            shape = (self.world_size // net.towers, net.towers)
            mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("pictures", "units"))
            self.data_group, self.model_group = (
                Group(mesh.get_group(name), mesh.get_local_rank(name), size)
                for name, size in zip(("pictures", "units"), shape, strict=True)
            )
        check_split(net, classes, self.model_group.parts)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def threads(self) -> int:
        """This process's share of the machine's cores."""
        return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1") if self.world_size > 1 else 1))

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """What is done here succeeds in all processes, or fails in all; nothing in it may wait for another process.

        Raises:
            ValueError, OSError: As raised inside, in the first process where it was; it is the one that tells.
            ReportedElsewhere: In the others.
        """
        failed: Exception | None = None
        try:
            yield
        except (ValueError, OSError) as error:
            failed = error
        if self.world_size == 1:
            if failed:
                raise failed
            return
        told: list[bool] = [False] * self.world_size
        dist.all_gather_object(told, failed is not None)
        if True in told:
            if failed and told.index(True) == self.rank:
                raise failed
            raise ReportedElsewhere

    def on_main_only(self, error: Exception) -> BaseException:
        """What to raise for an error that all processes come to alike: one of them tells it."""
        return error if self.is_main else ReportedElsewhere()

    def check_same(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Raise a ValueError, which one process tells, where processes differ in what they must have in common.

        Args:
            facts: Finds what that is here; not called where this process is alone.
        """
        if self.world_size == 1:
            return
        with self.raise_together():
            here = (socket.gethostname(), dict(facts()))
        told: list[Any] = [None] * self.world_size
        dist.all_gather_object(told, here)
        ours = told[0][1]
        for rank, (machine, theirs) in enumerate(told):
            for name in ours | theirs:
                if theirs.get(name) != ours.get(name):
                    raise self.on_main_only(
                        ValueError(
                            f"{name} must be the same in all processes; in process {rank} on machine {machine} it is "
                            f"{theirs.get(name)!r}, in process 0 {ours.get(name)!r}: start all of them alike"
                        )
                    )

    def split(self, net: AlexNet) -> None:
        """Keep this process's part of the net."""
        if self.model_group.parts > 1:
            self.dims = split(net, self.model_group, self.data_group if self.scheme == "hybrid" else None)

    def model(self, net: AlexNet) -> nn.Module:
        """What to call in place of the net while training, so that gradients are averaged as they come."""
        if self.data_group.parts == 1:
            return net
        if self.scheme == "hybrid":
            return Hybrid(net, self.data_group)
        return averaged(net, self.data_group)

    def losses(self, logits: Tensor, labels: Tensor, classes: int, smoothing: float) -> tuple[Tensor, Tensor]:
        """The losses of this process's pictures, and the classes of greatest output.

        Args:
            logits: What the model put out, float32.
            labels: (n,) int64, of this process's pictures.
            classes: Of the whole net.
            smoothing: Share of the target spread evenly.

        Returns:
            Losses (n,) or, where the processes work on each other's pictures too, (parts * n,); and classes likewise.
        """
        if self.model_group.parts == 1:
            return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing), logits.argmax(1)
        return split_cross_entropy(logits, labels, self.model_group, classes, smoothing)

    def all_rows(self, mine: Tensor) -> Tensor:
        """A value of each picture that the model put out something for, from those of this process's pictures (n,)."""
        return all_rows(mine, self.data_group, "labels") if self.scheme == "hybrid" else mine

    def local_rows(self, seen: Tensor) -> Tensor:
        """The values of this process's pictures from those of all that the model put out something for."""
        return seen.chunk(self.data_group.parts)[self.data_group.part] if self.scheme == "hybrid" else seen

    @property
    def counts(self) -> bool:
        """Whether what this process counts of its pictures is added up; where several have the same, one's is."""
        return self.scheme == "hybrid" or self.model_group.part == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all processes' values, in every process."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def all_agree(self, yes: bool) -> bool:
        """Whether all processes say yes."""
        return int(self.sum(torch.tensor(int(not yes)))) == 0

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The rows of all parts of a batch (n, ...), as many in each as there may be, one after the other."""
        if self.data_group.parts == 1:
            return rows
        parts: list[Any] = [None] * self.data_group.parts
        dist.all_gather_object(parts, rows, group=self.data_group.handle)
        return torch.cat(parts)

    def gather_full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The net's tensors brought together, in the process that leads; all must call this."""
        if self.model_group.parts == 1:
            return dict(tensors)
        return whole(tensors, self.dims, self.model_group)

    @torch.no_grad()
    def scatter(self, tensors: Mapping[str, Tensor] | None, into: Mapping[str, Tensor]) -> None:
        """Give each process its part of what the leading one has whole; all must call this."""
        if self.world_size > 1:
            deal(tensors, into.items(), self.dims, self.model_group)
        elif tensors is not None:
            for name, tensor in into.items():
                tensor.copy_(tensors[name])

    def broadcast(self, thing: Any) -> Any:
        """What the leading process says, in every process."""
        if self.world_size == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, 0)
        return box[0]


class Hybrid(nn.Module):
    """A net whose convolutions every process has, and whose full layers are split (Krizhevsky 2014).

    Each process computes its units for everyone's pictures, so the gradient of a unit's weights is whole where it is
    made; that of the convolutions is the sum over the processes, of which averaging makes a `parts`-th.
    """

    def __init__(self, net: AlexNet, pictures: Group) -> None:
        super().__init__()
        self.convs, self.parts = averaged(net.convs, pictures), pictures.parts
        self._net = (net,)  # not a child: its parameters are not this module's

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 224, 224) -> (parts * n, this process's classes)."""
        (net,) = self._net
        maps: Tensor = _Scaled.apply(self.convs(net.scaled(x)), self.parts)
        return net.logits(maps)


class _Scaled(torch.autograd.Function):
    """The same forth; back the gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None


def averaged(module: nn.Module, pictures: Group) -> DistributedDataParallel:
    """A module whose gradients are averaged over processes, each as soon as it is there."""
    device = next(module.parameters()).device
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, process_group=pictures.handle
    )


def no_averaging(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """While gradients of several passes are added up, they need not be averaged after each."""
    wrapped = model.convs if isinstance(model, Hybrid) else model
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()


@contextlib.contextmanager
def join_team(scheme: str, device: str | torch.device | None, seconds: float) -> Iterator[Team]:
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
        raise report_once(ValueError(fault))
    if scheme == "none":
        yield Team(device=choose_device(device))
        return
    if not dist.is_initialized():
        _join(device, seconds)
    with watched(seconds) as watch:
        team = Team(cast(Scheme, scheme), watch=watch)
        with team.raise_together():
            team.device = choose_device(_own_gpu(device))
        yield team


def _join(device: str | torch.device | None, seconds: float) -> None:
    """Join torchrun's processes, until this one ends: joining a second time is not provided for."""
    gpus = torch.cuda.is_available() and str(device) != "cpu"
    try:
        store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=max(seconds, START_SECONDS))))
        store = PrefixStore(f"life {store_generation()}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=2 * seconds),
        )
    except RuntimeError as error:  # dist.DistError is one
        lost = LostConnectionError(
            f"process {os.environ['RANK']} (machine {socket.gethostname()}) has waited in vain for all "
            f"{os.environ['WORLD_SIZE']} processes to come; another machine may say why, or have another command "
            f"({format_error(error)})"
        )
        raise report_once(lost) from error
    atexit.register(dist.destroy_process_group)


def _fault(scheme: str, seconds: float) -> str | None:
    """What is wrong with a scheme, or with how this process was started for it; None if nothing."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if scheme not in get_args(Scheme):
        return f"parallel must be one of {', '.join(get_args(Scheme))}; got {scheme!r}"
    if not 0 < seconds <= LONGEST:
        return f"hang_seconds must be above 0 and at most {LONGEST:,}; got {seconds}"
    if scheme == "none" and world > 1:
        return f"parallel must be data, towers or hybrid with torchrun's {world} processes; got 'none'"
    if scheme != "none" and "RANK" not in os.environ:
        return f"parallel {scheme!r} must be started by torchrun: torchrun --nproc-per-node 2 -m alexnet train ..."
    try:
        store_generation()
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
    local, here = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here > count:
        raise ValueError(
            f"processes on a machine must be at most its {count} GPUs; got {here}: change --nproc-per-node, or use "
            "--device cpu"
        )
    return f"cuda:{local}"

"""The start of a process that torchrun has launched: it joins the others, and gets its device (section 4.2)."""

import atexit
import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import cast, get_args

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from alexnet.distributed.coordinator import LostConnectionError, restart_id
from alexnet.distributed.team import Scheme, Team
from alexnet.distributed.watchdog import run_watchdog
from alexnet.utils.console import format_error
from alexnet.utils.device import choose_device
from alexnet.utils.processes import local_rank, local_world_size, report_once_per_machine, world_size

_START_SECONDS = 300  # the least time in which all processes must start
_MAX_HANG_SECONDS = 7 * 24 * 3600  # torch's timeouts have a limit


@contextlib.contextmanager
def init_team(scheme: str, device: str | torch.device | None, hang_seconds: float) -> Iterator[Team]:
    """Join the processes that torchrun has launched, and run a watchdog over them while the block runs.

    Args:
        scheme: One of `Scheme`.
        device: The device of this process; by default the GPU with its local rank, or the CPU if there is no GPU.
        hang_seconds: After how many seconds without progress a process is taken to hang.

    Yields:
        The team of all processes, whose groups are not formed yet.

    Raises:
        ValueError: There is no such scheme, or it does not suit the launch of this process or this machine's GPUs.
        LostConnectionError: The other processes have not started in time.
        ReportedElsewhere: Another process of this machine raises one of these.
    """
    if problem := _check_launch(scheme, hang_seconds):
        raise report_once_per_machine(ValueError(problem))
    if scheme == "none":
        yield Team(device=choose_device(device))
        return
    if not dist.is_initialized():
        _init_process_group(device, hang_seconds)
    with run_watchdog(hang_seconds) as watchdog:
        team = Team(cast(Scheme, scheme), watchdog=watchdog)
        with team.raise_together():
            team.device = choose_device(choose_local_gpu(device))
        yield team


def _init_process_group(device: str | torch.device | None, hang_seconds: float) -> None:
    """Form the default process group, until this process ends: it cannot be formed a second time."""
    use_gpus = torch.cuda.is_available() and str(device) != "cpu"
    try:
        timeout = timedelta(seconds=max(hang_seconds, _START_SECONDS))
        store, rank, size = next(rendezvous("env://", timeout=timeout))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if use_gpus else "gloo",
            store=PrefixStore(f"restart {restart_id()}", store),
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=2 * hang_seconds),
        )
    except RuntimeError as error:  # dist.DistError is one
        missing = LostConnectionError(
            f"process {os.environ['RANK']} (machine {socket.gethostname()}) has started, but not all {world_size()} "
            "processes have: look for an error on the other machines, and run the same command on each "
            f"({format_error(error)})"
        )
        raise report_once_per_machine(missing) from error
    atexit.register(dist.destroy_process_group)


def _check_launch(scheme: str, hang_seconds: float) -> str | None:
    """Return what is wrong with a scheme, or with the launch of this process for it; None if nothing is."""
    if scheme not in get_args(Scheme):
        return f"parallel must be one of {', '.join(get_args(Scheme))}; got {scheme!r}"
    if not 0 < hang_seconds <= _MAX_HANG_SECONDS:
        return f"hang_seconds must be above 0 and at most {_MAX_HANG_SECONDS:,}; got {hang_seconds}"
    if scheme == "none" and world_size() > 1:
        return f"parallel must be data, towers or hybrid with torchrun's {world_size()} processes; got 'none'"
    if scheme != "none" and "RANK" not in os.environ:
        return f"parallel {scheme!r} must be started by torchrun: torchrun --nproc-per-node 2 -m alexnet train ..."
    try:
        restart_id()
    except ValueError as error:
        return str(error)
    return None


def choose_local_gpu(device: str | torch.device | None) -> str | torch.device | None:
    """Return the GPU with this process's local rank, unless there is no GPU or the CPU is asked for.

    Raises:
        ValueError: This machine has fewer GPUs than processes, or `device` names one GPU for all of them.
    """
    count = torch.cuda.device_count()
    if not count or str(device) == "cpu":
        return device
    if device is not None and str(device) != "cuda":
        raise ValueError(
            f"device must be cpu or cuda for several processes, as each of them takes another GPU; got {device}"
        )
    if local_world_size() > count:
        raise ValueError(
            f"processes on a machine must be at most its {count} GPUs; got {local_world_size()}: change "
            "torchrun's --nproc-per-node, or use `device='cpu'`"
        )
    return f"cuda:{local_rank()}"

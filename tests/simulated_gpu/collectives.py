"""NCCL of the simulated machine: its rules for what may be sent, and gloo to send it."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch._C._distributed_c10d as c10d
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future


class Processes(dist.ProcessGroup):
    """A process group for tensors on the CPU, and for those on this process's GPU as NCCL would take them."""

    def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self._rank, self._size = rank, size
        self.gloo = c10d.ProcessGroupGloo(store, rank, size, timeout=timeout)

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._size

    def getBackendName(self) -> str:  # noqa: N802 (torch's name)
        return "simulated"

    @property
    def group_name(self) -> str:
        return dist.distributed_c10d._world.pg_names[self]

    def _sent(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], send: Any) -> Any:
        """Let gloo fill copies of `outputs` from copies of `inputs`; check what would be NCCL's to check."""
        tensors = [*inputs, *outputs]
        devices = {x.device for x in tensors}
        assert len(devices) == 1, f"{name}: tensors on {sorted(map(str, devices))}"
        assert len({x.dtype for x in tensors}) == 1, f"{name}: tensors of different types"
        if tensors[0].is_cuda:
            mine = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            assert devices == {mine}, f"{name}: tensors on {devices.pop()}, this process has {mine}"
            assert all(dense(x) for x in tensors), f"{name}: memory with gaps"
        copies = [x.detach().cpu() for x in outputs]  # on the CPU the same memory
        try:
            send([x.detach().cpu() for x in inputs], copies).wait()
        except RuntimeError:  # another process is lost
            if not tensors[0].is_cuda:
                raise
            threading.Event().wait()  # NCCL's kernel waits on, and who asks for its result too
        for x, copy in zip(outputs, copies, strict=True):
            x.detach().copy_(copy)

    def allreduce(self, tensors: list[Tensor], options: Any = None) -> Any:
        self._sent("all_reduce", (), tensors, lambda _, ys: self.gloo.allreduce(ys, options or c10d.AllreduceOptions()))
        return done(tensors)

    def broadcast(self, tensors: list[Tensor], options: Any = None) -> Any:
        self._sent("broadcast", (), tensors, lambda _, ys: self.gloo.broadcast(ys, options or c10d.BroadcastOptions()))
        return done(tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any = None) -> Any:
        assert all(y.shape == inputs[0].shape for y in outputs[0]), "all_gather: parts of different sizes"
        options = options or c10d.AllgatherOptions()
        self._sent("all_gather", inputs, outputs[0], lambda xs, ys: self.gloo.allgather([ys], xs, options))
        return done(outputs)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any = None) -> Any:
        room, options = [y for ys in outputs for y in ys], options or c10d.GatherOptions()
        self._sent("gather", inputs, room, lambda xs, ys: self.gloo.gather([ys] if ys else [], xs, options))
        return done(outputs)

    def all_to_all_single(
        self, output: Tensor, given: Tensor, received: list[int], sent: list[int], options: Any = None
    ) -> Any:
        options = options or c10d.AllToAllOptions()
        self._sent(
            "all_to_all",
            [given],
            [output],
            lambda xs, ys: self.gloo.alltoall_base(ys[0], xs[0], received, sent, options),
        )
        return done([output])

    def shutdown(self) -> None:
        """End."""


def dense(x: Tensor) -> bool:
    """Whether a tensor's memory has no gaps."""
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def done(result: Any) -> Any:
    """Work that is done."""
    future: Future[Any] = Future()
    future.set_result(result)
    return c10d._create_work_from_future(future)


def install() -> None:
    """Take the place of "cpu:gloo,cuda:nccl"."""
    dist.Backend.register_backend("simulated", Processes, devices=["cpu", "cuda"])
    plain = dist.init_process_group

    def init_process_group(backend: str, **given: Any) -> None:
        plain("simulated" if backend == "cpu:gloo,cuda:nccl" else backend, **given)

    dist.init_process_group = init_process_group

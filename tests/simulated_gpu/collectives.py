"""NCCL of the simulated machine: it checks the tensors as NCCL does, and sends them with gloo."""

import os
import threading
from collections.abc import Sequence
from typing import Any

import torch
import torch._C._distributed_c10d as c10d
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future


class SimulatedProcessGroup(dist.ProcessGroup):
    """A process group for tensors on the CPU, and for tensors on the GPU of this process, as NCCL requires."""

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

    def _run(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], collective: Any) -> None:
        """Check tensors as NCCL does, and run a collective of gloo with copies of them."""
        tensors = [*inputs, *outputs]
        devices = {x.device for x in tensors}
        assert len(devices) == 1, f"{name}: tensors on {sorted(map(str, devices))}"
        assert len({x.dtype for x in tensors}) == 1, f"{name}: tensors of different types"
        if tensors[0].is_cuda:
            local = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            assert devices == {local}, f"{name}: tensors on {devices.pop()}, this process has {local}"
            assert all(_is_dense(x) for x in tensors), f"{name}: memory with gaps"
        copies = [x.detach().cpu() for x in outputs]  # for tensors of the CPU the same memory
        try:
            collective([x.detach().cpu() for x in inputs], copies).wait()
        except RuntimeError:  # another process is lost
            if not tensors[0].is_cuda:
                raise
            threading.Event().wait()  # NCCL's kernel never ends, and whoever needs its result waits forever
        for x, copy in zip(outputs, copies, strict=True):
            x.detach().copy_(copy)

    def allreduce(self, tensors: list[Tensor], options: Any = None) -> Any:
        self._run("all_reduce", (), tensors, lambda _, ys: self.gloo.allreduce(ys, options or c10d.AllreduceOptions()))
        return _completed_work(tensors)

    def broadcast(self, tensors: list[Tensor], options: Any = None) -> Any:
        self._run("broadcast", (), tensors, lambda _, ys: self.gloo.broadcast(ys, options or c10d.BroadcastOptions()))
        return _completed_work(tensors)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any = None) -> Any:
        assert all(y.shape == inputs[0].shape for y in outputs[0]), "all_gather: shards of different sizes"
        options = options or c10d.AllgatherOptions()
        self._run("all_gather", inputs, outputs[0], lambda xs, ys: self.gloo.allgather([ys], xs, options))
        return _completed_work(outputs)

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any = None) -> Any:
        shards, options = [y for ys in outputs for y in ys], options or c10d.GatherOptions()
        self._run("gather", inputs, shards, lambda xs, ys: self.gloo.gather([ys] if ys else [], xs, options))
        return _completed_work(outputs)

    def all_to_all_single(
        self, output: Tensor, input: Tensor, output_sizes: list[int], input_sizes: list[int], options: Any = None
    ) -> Any:
        options = options or c10d.AllToAllOptions()
        self._run(
            "all_to_all",
            [input],
            [output],
            lambda xs, ys: self.gloo.alltoall_base(ys[0], xs[0], output_sizes, input_sizes, options),
        )
        return _completed_work([output])

    def shutdown(self) -> None:
        """Do nothing: the process ends."""


def _is_dense(x: Tensor) -> bool:
    """Return whether the memory of a tensor has no gaps."""
    return x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)


def _completed_work(result: Any) -> Any:
    """Return a work object that is complete."""
    future: Future[Any] = Future()
    future.set_result(result)
    return c10d._create_work_from_future(future)


def install() -> None:
    """Replace the backend "cpu:gloo,cuda:nccl"."""
    dist.Backend.register_backend("simulated", SimulatedProcessGroup, devices=["cpu", "cuda"])
    original = dist.init_process_group

    def init_process_group(backend: str, **options: Any) -> None:
        original("simulated" if backend == "cpu:gloo,cuda:nccl" else backend, **options)

    dist.init_process_group = init_process_group

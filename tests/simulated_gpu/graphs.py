"""CUDA graphs of the simulated machine: what is called while one is captured is written down, and done at a replay.

As in CUDA nothing that is captured is done at once, nor may it need the computer: an operation that waits for a number,
or reads or writes memory of the computer, fails.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from alexnet.kernels.compile import has_triton

WAIT = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")


class Graph:
    """What was captured."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    @torch.no_grad()
    def replay(self) -> None:
        """Do it, with what memory now holds."""
        for call in self.calls:
            call()


class Capture(TorchDispatchMode):
    """Writes down each operation on tensors of a GPU; results get their memory, and at a replay their values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        asked = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if asked != "cuda" and not any(x.is_cuda for x in tensors):
            return operation(*args, **kwargs)
        schema = operation._schema
        if schema.name in WAIT or asked == "cpu" or any(not x.is_cuda and x.ndim for x in tensors):
            raise RuntimeError(f"operation not permitted when stream is capturing: {schema.name}")
        if schema.is_mutable:
            self.graph.calls.append(lambda: operation(*args, **kwargs))
            written = [x for x, known in zip(args, schema.arguments, strict=False) if known.is_write]
            return written[0] if len(schema.returns) == 1 else tuple(written) if schema.returns else None
        results = operation(*args, **kwargs)
        if not any(known.alias_info for known in schema.returns):  # a view has no memory of its own

            def again() -> None:
                for old, new in zip(tree_leaves(results), tree_leaves(operation(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)

            self.graph.calls.append(again)
        return results


@contextlib.contextmanager
def capture(graph: Graph, stream: Any = None) -> Iterator[None]:
    """What `torch.cuda.graph` is."""
    free, state = torch.cuda.is_current_stream_capturing, torch.get_rng_state()
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        with Capture(graph), torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.is_current_stream_capturing = free
        torch.set_rng_state(state)  # the numbers that results were given in passing do not count


def launches(plain: Callable[..., None]) -> Callable[..., None]:
    """How Triton's interpreter starts a kernel: on the current GPU, and into the graph that is being captured."""

    def launch(grid: Any, *args: Any, **kwargs: Any) -> None:
        here = torch.device("cuda", torch.cuda.current_device())
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and x.is_cuda and x.device != here:
                raise RuntimeError(f"a kernel is launched on {here}, a tensor of it lies on {x.device}")
        mode = _get_current_dispatch_mode()
        if isinstance(mode, Capture):
            mode.graph.calls.append(lambda: plain(grid, *args, **kwargs))
        else:
            plain(grid, *args, **kwargs)

    return launch


def install() -> None:
    """Give torch.cuda graphs, and Triton's interpreter GPUs."""
    torch.cuda.CUDAGraph, torch.cuda.graph = Graph, capture  # type: ignore[misc, assignment]
    if has_triton():
        from triton.runtime.interpreter import GridExecutor

        GridExecutor.__call__ = launches(GridExecutor.__call__)

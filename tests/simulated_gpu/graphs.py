"""CUDA graphs of the simulated machine: a capture records operations, and a replay runs them.

As in CUDA, an operation does not run when it is captured, and it must not need the computer: one that waits for a
number, or reads or writes memory of the computer, fails.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from alexnet.kernels.compile import has_triton

_WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")


class Graph:
    """A captured graph."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    @torch.no_grad()
    def replay(self) -> None:
        """Run the operations on the present contents of the memory."""
        for call in self.calls:
            call()


class Capture(TorchDispatchMode):
    """Records each operation on tensors of a GPU; the results get memory at once, and values at a replay."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        requested = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        if requested != "cuda" and not any(x.is_cuda for x in tensors):
            return operation(*args, **kwargs)
        schema = operation._schema
        if schema.name in _WAITING or requested == "cpu" or any(not x.is_cuda and x.ndim for x in tensors):
            raise RuntimeError(f"operation not permitted when stream is capturing: {schema.name}")
        if schema.is_mutable:
            self.graph.calls.append(lambda: operation(*args, **kwargs))
            written = [x for x, argument in zip(args, schema.arguments, strict=False) if argument.is_write]
            return written[0] if len(schema.returns) == 1 else tuple(written) if schema.returns else None
        results = operation(*args, **kwargs)
        if not any(value.alias_info for value in schema.returns):  # a view has no memory of its own

            def run_again() -> None:
                for old, new in zip(tree_leaves(results), tree_leaves(operation(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor):
                        old.copy_(new)

            self.graph.calls.append(run_again)
        return results


@contextlib.contextmanager
def capture(graph: Graph, stream: Any = None) -> Iterator[None]:
    """The simulated `torch.cuda.graph`."""
    is_capturing, state = torch.cuda.is_current_stream_capturing, torch.get_rng_state()
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        with Capture(graph), torch.cuda.stream(stream):
            yield
    finally:
        torch.cuda.is_current_stream_capturing = is_capturing
        torch.set_rng_state(state)  # the numbers that were drawn to get the memory of results do not count


def _checked_launch(original: Callable[..., None]) -> Callable[..., None]:
    """Return how Triton's interpreter launches a kernel: on the current GPU, and recorded during a capture."""

    def launch(grid: Any, *args: Any, **kwargs: Any) -> None:
        current = torch.device("cuda", torch.cuda.current_device())
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and x.is_cuda and x.device != current:
                raise RuntimeError(f"a kernel is launched on {current}, one of its tensors is on {x.device}")
        mode = _get_current_dispatch_mode()
        if isinstance(mode, Capture):
            mode.graph.calls.append(lambda: original(grid, *args, **kwargs))
        else:
            original(grid, *args, **kwargs)

    return launch


def install() -> None:
    """Install the graphs in torch.cuda, and the launch in Triton's interpreter."""
    torch.cuda.CUDAGraph, torch.cuda.graph = Graph, capture  # type: ignore[misc, assignment]
    if has_triton():
        from triton.runtime.interpreter import GridExecutor

        GridExecutor.__call__ = _checked_launch(GridExecutor.__call__)

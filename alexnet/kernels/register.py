"""Custom operations of torch from kernels for the CPU (Numba) and CUDA (Triton), with their shapes and gradients.

Each operation has up to three modules: X.py with the public function, its checks, its plain reference and its
registration; X_cpu.py with the loops for the CPU; X_triton.py with the kernels for CUDA.
"""

import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alexnet.kernels.compile import has_triton
from alexnet.utils.console import note_once

HAS_TRITON = has_triton()  # looked up at import, so that torch.compile need not trace the look-up


def runs_triton(x: Tensor, operation: str) -> bool:
    """Return whether x is on a GPU and Triton is installed; print a note once where only Triton is missing.

    Args:
        x: A tensor that the operation reads.
        operation: What the user calls the operation, for the note.
    """
    if x.device.type != "cuda":
        return False
    if not HAS_TRITON:
        note_once(f"{operation} on the GPU runs in plain torch, several times slower: Triton is not installed")
    return HAS_TRITON


def register(
    name: str,
    schema: str,
    compute: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    device_type: str | None = None,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Any:
    """Register a function as the custom operation `alexnet::name`, which torch.compile and torch.export leave as it is.

    Args:
        name: Name of the operation.
        schema: Types of the arguments and results in torch's notation: "(Tensor x, SymInt size) -> Tensor".
        compute: Computes the results.
        fake: Returns empty results of the same shapes, types and strides.
        device_type: The only type of device that `compute` works on, "cpu" or "cuda"; None for all.
        setup_context, backward: The gradient, as for torch.library.register_autograd; None for none.

    Returns:
        The operation, a torch._ops.OpOverload; its arguments are positional.
    """
    # torch.library.custom_op would import torch._dynamo at the first call, which takes as long as importing torch.
    operation = f"alexnet::{name}"
    torch.library.define(operation, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(operation, device_type or "default", compute)
    torch.library.register_fake(operation, fake)
    torch.library.register_autograd(operation, backward or _refuse_gradient, setup_context=setup_context)
    return getattr(torch.ops.alexnet, name).default


def register_kernels(
    name: str,
    schema: str,
    *,
    allocate: Callable[..., Tensor | tuple[Tensor, ...]],
    cpu: Callable[..., None],
    cuda: str | None = None,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Any:
    """Register kernels that write into allocated memory as the custom operation `alexnet::name`.

    Args:
        name, schema, setup_context, backward: As for `register`.
        allocate: Returns uninitialised memory for the results, on the device of the arguments.
        cpu: The kernel for the CPU; called with the arguments and then the results to write.
        cuda: The kernel for CUDA, called likewise, as "package.module:function": Triton is imported when a GPU first
            needs it. None if there is none.

    Returns:
        The operation, as `register` does.
    """

    def on_device(kernel: Callable[..., None]) -> Callable[..., Any]:
        def compute(*arguments: Any) -> Any:
            results = allocate(*arguments)
            kernel(*arguments, *(results if isinstance(results, tuple) else (results,)))
            return results

        return compute

    operation = register(
        name,
        schema,
        on_device(cpu),
        fake=allocate,
        device_type="cpu",
        setup_context=setup_context,
        backward=backward,
    )
    if cuda is not None:
        torch.library.impl(f"alexnet::{name}", "cuda", on_device(lambda *arguments: _import(cuda)(*arguments)))
    return operation


def _refuse_gradient(*_: Any) -> None:
    raise RuntimeError("this operation has no gradient: it is itself part of one")


@cache
def _import(kernel: str) -> Callable[..., None]:
    """Return the function "package.module:function"."""
    function: Callable[..., None] = pkgutil.resolve_name(kernel)
    return function

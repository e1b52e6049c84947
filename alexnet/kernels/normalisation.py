"""What `response_norm` and `map_norm` share: the reach of a window, the division by a power, and the gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alexnet.kernels.register import register_kernels


def window_reach(size: int) -> tuple[int, int]:
    """Return how far a window of `size` reaches before and after its centre: one further before, where size is even."""
    return size // 2, size - 1 - size // 2


def divide_by_power(x: Tensor, divisor: Tensor, beta: float) -> Tensor:
    """Return x / divisor**beta; at the paper's 0.75 by square roots, which are several times faster than powers."""
    if beta == 0.75:
        root = divisor.rsqrt()
        return x * (root * root.sqrt())
    return x * divisor.pow(-beta)


def register_normalisation(
    name: str, constants: str, *, cpu: tuple[Callable[..., None], Callable[..., None]], cuda: tuple[str, str]
) -> Any:
    """Register a normalisation, which keeps nothing but its input for the backward pass.

    Args:
        name: Name of the operation; that of its gradient is `name`_backward.
        constants: Types of the arguments after x, in torch's notation: "SymInt size, float k".
        cpu, cuda: The forward and the backward kernel, as for `register_kernels`.

    Returns:
        The operation: (N, C, H, W) -> (N, C, H, W) in channels_last memory.
    """

    def allocate(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def allocate_gradient(_g: Tensor, x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch's signature)
        x, *ctx.constants = inputs
        ctx.save_for_backward(x)

    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        return (gradient(g, x, *ctx.constants), *(None for _ in ctx.constants))

    gradient = register_kernels(
        f"{name}_backward",
        f"(Tensor g, Tensor x, {constants}) -> Tensor",
        allocate=allocate_gradient,
        cpu=cpu[1],
        cuda=cuda[1],
    )
    return register_kernels(
        name,
        f"(Tensor x, {constants}) -> Tensor",
        allocate=allocate,
        cpu=cpu[0],
        cuda=cuda[0],
        setup_context=setup_context,
        backward=backward,
    )

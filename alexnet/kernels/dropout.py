"""Dropout (section 5.2) whose mask depends on an entry's position in the full matrix, however that is split.

The entry in row r and column c of layer l is dropped if a 32-bit random number is below p * 2**32. It is the (c % 4)th
of the four that Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) computes from the
key and the counter (c // 4, r, l, 0). So a process that has some rows or columns drops what a process that has all
would drop. The backward pass computes the mask again instead of storing it. A CPU (dropout_cpu.py) and a GPU
(dropout_triton.py, whose `tl.philox` is the same generator) drop the same entries.
"""

from typing import Any

import torch
from torch import Tensor

from alexnet.kernels import dropout_cpu
from alexnet.kernels.dropout_cpu import BITS, KEY_INCREMENTS, MULTIPLIERS, RANGE, ROUNDS, drop_threshold
from alexnet.kernels.register import register_kernels, runs_triton


def dropout(x: Tensor, key: Tensor, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """Set each entry to 0 with probability p, by its position in the matrix that x is a part of (section 5.2).

    The other entries are not scaled: the paper multiplies by 1 - p at test time instead. The gradient has the same
    mask.

    Args:
        x: (N, C) activations, of any floating type.
        key: One int64 on x's device, read when the operation runs: a CUDA graph's replay reads the key again. It must
            not change between the forward and the backward pass.
        p: Probability of dropping, in steps of 2**-32.
        layer: Number of the layer; layers with the same key and different numbers have different masks.
        row, column: Position of x's first entry in the full matrix; any, not only multiples of 4.

    Returns:
        (N, C) of x's type, contiguous.

    Raises:
        ValueError: x is not a matrix of a floating type, the key is not one int64 on x's device, or a number is out of
            range.
    """
    _check(x, key, p, layer, row, column)
    if not _has_kernel(x):
        return dropout_reference(x, key, p=p, layer=layer, row=row, column=column)
    y: Tensor = _dropout(x, key, p, layer, row, column)
    return y


def dropout_reference(x: Tensor, key: Tensor, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """Compute `dropout` in plain differentiable torch."""
    rows = torch.arange(row, row + x.shape[0], device=x.device)[:, None]
    quads = torch.arange(column // 4, (column + x.shape[1] + 3) // 4, device=x.device)
    numbers = torch.stack(_philox_reference(key.reshape(()), quads, rows, layer), 2).flatten(1)
    return x.masked_fill(numbers[:, column % 4 : column % 4 + x.shape[1]] < drop_threshold(p), 0)


def _philox_reference(key: Tensor, first: Tensor, row: Tensor, layer: int) -> tuple[Tensor, ...]:
    """Return the four numbers of each counter (first, row, layer, 0), in int64, whose products wrap as they should."""
    low = RANGE - 1
    a, b = torch.broadcast_tensors(first, row)
    c, d = torch.full_like(a, layer), torch.zeros_like(a)
    k, l = key & low, key >> 32 & low  # noqa: E741
    for _ in range(ROUNDS):
        e, g = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (g >> 32 & low) ^ b ^ k, g & low, (e >> 32 & low) ^ d ^ l, e & low
        k, l = k + KEY_INCREMENTS[0] & low, l + KEY_INCREMENTS[1] & low  # noqa: E741
    return a, b, c, d


def _check(x: Tensor, key: Tensor, p: float, layer: int, row: int, column: int) -> None:
    if x.ndim != 2 or not x.is_floating_point() or x.itemsize not in BITS:
        raise ValueError(f"x must be a matrix of a floating type of 16 to 64 bits; got {tuple(x.shape)} of {x.dtype}")
    if key.dtype != torch.int64 or key.numel() != 1 or key.device != x.device:
        raise ValueError(
            f"key must be one int64 on {x.device}, where x is; got {tuple(key.shape)} of {key.dtype} on {key.device}"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability from 0 to 1; got {p}")
    if not 0 <= layer < RANGE:
        raise ValueError(f"layer must be from 0 to below 2**32, a number of the counter; got {layer}")
    if row < 0 or row + x.shape[0] > RANGE:
        raise ValueError(f"row must be at least 0 and rows end at 2**32; got {row} and {x.shape[0]} rows")
    if column < 0 or column + x.shape[1] > RANGE:
        raise ValueError(f"column must be at least 0 and columns end at 2**32; got {column} and {x.shape[1]} columns")


def _has_kernel(x: Tensor) -> bool:
    """Return whether there is a kernel for x's device."""
    return x.device.type == "cpu" or runs_triton(x, "dropout")


def _allocate(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch's signature)
    _, key, *ctx.constants = inputs
    ctx.save_for_backward(key)


def _gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (key,) = ctx.saved_tensors
    return (_dropout(g, key, *ctx.constants), None, *(None for _ in ctx.constants))


_dropout = register_kernels(
    "dropout",
    "(Tensor x, Tensor key, float p, SymInt layer, SymInt row, SymInt column) -> Tensor",
    allocate=_allocate,
    cpu=dropout_cpu.dropout,
    cuda="alexnet.kernels.dropout_triton:dropout",
    setup_context=_setup_context,
    backward=_gradient,
)

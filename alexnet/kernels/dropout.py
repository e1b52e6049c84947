"""Dropout (section 5.2) whose mask depends on an entry's place in the whole matrix, however that is split.

The entry in row r and column c of layer l is dropped if a 32-bit random word is below p * 2**32. The word is the
(c % 4)th of four that Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) makes of the
key and the counter (c // 4, r, l, 0). So a process that holds some rows or columns drops what one process that holds
all would, the way back makes the mask again instead of keeping it, and a CPU and a GPU (Triton's own `tl.philox` is
the same generator) drop the same entries.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels.compile import has_triton, jit
from alexnet.kernels.threads import parallel_for
from alexnet.utils.console import note_once

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key in each round
_ROUNDS = 10
_WORDS = 2**32
_QUADS = 128  # counters of a block: their words stay in the nearest cache
_WHOLE = 2**14  # entries below which waking a thread costs more than its help gains
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # what entries are moved as; all bits 0 is 0.0


def _threshold(p: float) -> int:
    """Below which a word means "dropped"; from 0 (none is) to 2**32 (all are)."""
    return round(p * _WORDS)


def _words_reference(key: Tensor, first: Tensor, row: Tensor, layer: int) -> tuple[Tensor, ...]:
    """The four words of each counter (first, row, layer, 0), in int64, whose products wrap as they should."""
    low = _WORDS - 1
    a, b = torch.broadcast_tensors(first, row)
    c, d = torch.full_like(a, layer), torch.zeros_like(a)
    k, l = key & low, key >> 32 & low  # noqa: E741
    for _ in range(_ROUNDS):
        e, g = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (g >> 32 & low) ^ b ^ k, g & low, (e >> 32 & low) ^ d ^ l, e & low
        k, l = k + _WEYL[0] & low, l + _WEYL[1] & low  # noqa: E741
    return a, b, c, d


def dropout_reference(x: Tensor, key: Tensor, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """What `dropout` computes, in plain differentiable torch."""
    rows = torch.arange(row, row + x.shape[0], device=x.device)[:, None]
    quads = torch.arange(column // 4, (column + x.shape[1] + 3) // 4, device=x.device)
    words = torch.stack(_words_reference(key.reshape(()), quads, rows, layer), 2).flatten(1)
    return x.masked_fill(words[:, column % 4 : column % 4 + x.shape[1]] < _threshold(p), 0)


@jit
def _fill(words, first, row, layer, key):  # type: ignore[no-untyped-def]
    """words (4 * counters) = those of the counters (first, row, layer, 0), (first + 1, row, layer, 0) and so on."""
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    m, n = np.uint64(_MULTIPLIERS[0]), np.uint64(_MULTIPLIERS[1])
    for quad in range(len(words) // 4):
        a, b, c, d = np.uint64(first + quad), np.uint64(row), np.uint64(layer), np.uint64(0)
        k, l = key & low, key >> half  # noqa: E741
        for _ in range(_ROUNDS):
            e, g = a * m, c * n
            a, b, c, d = (g >> half) ^ b ^ k, g & low, (e >> half) ^ d ^ l, e & low
            k, l = k + np.uint64(_WEYL[0]) & low, l + np.uint64(_WEYL[1]) & low  # noqa: E741
        words[4 * quad], words[4 * quad + 1], words[4 * quad + 2], words[4 * quad + 3] = a, b, c, d


@jit
def _drop(x, y, start, stop, key, threshold, layer, row, column):  # type: ignore[no-untyped-def]
    """y = x, but 0 where dropped, in rows start to stop."""
    columns = x.shape[1]
    words = np.empty(4 * _QUADS, np.uint32)
    for n in range(start, stop):
        for quad in range(column // 4, (column + columns + 3) // 4, _QUADS):
            _fill(words, quad, row + n, layer, key)
            begin = 4 * quad - column  # the column of the first word, which may lie before x
            first, last = max(begin, 0), min(begin + len(words), columns)
            word, old, new = words[first - begin : last - begin], x[n, first:last], y[n, first:last]
            for i in range(len(word)):
                new[i] = old[i] * (word[i] >= threshold)  # of bits, so that NaN and infinity drop to 0 too


@torch.library.custom_op("alexnet::dropout", mutates_args=(), device_types="cpu")
def _dropout(x: Tensor, key: Tensor, p: float, layer: int, row: int, column: int) -> Tensor:
    y: Tensor = _shape(x)
    old, new = (tensor.view(_BITS[x.itemsize]).numpy() for tensor in (x.detach().contiguous(), y))
    numbers = np.uint64(key.item() % 2**64), np.uint64(_threshold(p)), layer, row, column

    def part(start: int, stop: int) -> None:
        _drop(old, new, start, stop, *numbers)

    if x.numel() < _WHOLE:
        part(0, len(x))
    else:
        parallel_for(part, len(x))
    return y


@_dropout.register_kernel("cuda")
def _(x: Tensor, key: Tensor, p: float, layer: int, row: int, column: int) -> Tensor:
    from alexnet.kernels.dropout_triton import dropout_triton  # when a GPU first needs it

    return dropout_triton(x, key, _threshold(p), layer, row, column)


@_dropout.register_fake
def _shape(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
    _, key, *ctx.constants = inputs
    ctx.save_for_backward(key)


def _gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    (key,) = ctx.saved_tensors
    return (_dropout(g, key, *ctx.constants), None, *(None for _ in ctx.constants))


_dropout.register_autograd(_gradient, setup_context=_keep)

_TRITON = has_triton()  # here, so that torch.compile need not look into it


def _has_kernel(x: Tensor) -> bool:
    """Whether there are loops for x's device; on others plain torch works."""
    if x.device.type == "cuda" and not _TRITON:
        note_once("dropout on the GPU runs in plain torch, several times slower: Triton is not installed")
    return x.device.type == "cpu" or (x.device.type == "cuda" and _TRITON)


def _check(x: Tensor, key: Tensor, p: float, layer: int, row: int, column: int) -> None:
    if x.ndim != 2 or not x.is_floating_point() or x.itemsize not in _BITS:
        raise ValueError(f"x must be a matrix of a floating type of 16 to 64 bits; got {tuple(x.shape)} of {x.dtype}")
    if key.dtype != torch.int64 or key.numel() != 1 or key.device != x.device:
        raise ValueError(
            f"key must be one int64 on {x.device}, where x is; got {tuple(key.shape)} of {key.dtype} on {key.device}"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability from 0 to 1; got {p}")
    if not 0 <= layer < _WORDS:
        raise ValueError(f"layer must be from 0 to below 2**32, a word of the counter; got {layer}")
    if row < 0 or row + x.shape[0] > _WORDS:
        raise ValueError(f"row must be at least 0 and rows end at 2**32; got {row} and {x.shape[0]} rows")
    if column < 0 or column + x.shape[1] > _WORDS:
        raise ValueError(f"column must be at least 0 and columns end at 2**32; got {column} and {x.shape[1]} columns")


def dropout(x: Tensor, key: Tensor, *, p: float, layer: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """Set each entry to 0 with probability p, by its place in the matrix that x is a part of (section 5.2).

    What remains is not scaled: the paper multiplies by 1 - p at test time instead. The gradient is dropped alike.

    Args:
        x: (N, C) activities, of any floating type.
        key: One int64 on x's device, read when the operation runs: a CUDA graph's replay takes the key it finds there.
            It must not change between the way forth and the way back.
        p: Probability of dropping, in steps of 2**-32.
        layer: Number that sets a layer's mask apart from those of other layers with the same key.
        row, column: The place of x's first entry in the whole matrix; any, not only multiples of 4.

    Returns:
        (N, C) of x's type, contiguous.

    Raises:
        ValueError: x is no matrix of a floating type, the key is not one int64 beside it, or a number out of range.
    """
    _check(x, key, p, layer, row, column)
    if not _has_kernel(x):
        return dropout_reference(x, key, p=p, layer=layer, row=row, column=column)
    result: Tensor = _dropout(x, key, p, layer, row, column)
    return result

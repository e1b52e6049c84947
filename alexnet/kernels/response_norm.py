"""Response normalisation (section 4.3): across the maps of a tower and, as the 2012 program also did, within a map.

Each operation has a plain torch version (`..._reference`), and a compiled one for the CPU that reads and writes every
activity once and keeps nothing but its input for the way back. It works on channels_last memory, where the maps'
activities at one place lie side by side; other memory is converted.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels import compiled, in_parallel


def _divide(x: Tensor, divisor: Tensor, beta: float) -> Tensor:
    """x / divisor**beta; at the paper's 0.75 by square roots, which are several times faster than powers."""
    if beta == 0.75:
        root = divisor.rsqrt()
        return x * (root * root.sqrt())
    return x * divisor.pow(-beta)


def _wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is: what squares are summed in."""
    return x if x.dtype == torch.float64 else x.float()


def response_norm_reference(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, towers: int = 1, relu: bool = False
) -> Tensor:
    """What `response_norm` computes, in plain differentiable torch: a sum of `size` shifted slices."""
    a = _wide(x.relu() if relu else x)
    before, after = size // 2, size - 1 - size // 2
    squares = a.square().unflatten(1, (towers, -1))  # (N, towers, C / towers, H, W)
    maps = squares.shape[2]
    padded = F.pad(squares, (0, 0, 0, 0, before, after))
    total = padded[:, :, :maps]
    for j in range(1, size):
        total = total + padded[:, :, j : j + maps]
    return _divide(a, k + alpha * total.flatten(1, 2), beta).to(x.dtype)


def map_norm_reference(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """What `map_norm` computes, in plain differentiable torch."""
    before, after = size // 2, size - 1 - size // 2
    a = _wide(x)
    squares = F.pad(a.square(), (before, after, before, after))
    total = F.avg_pool2d(squares, size, stride=1, divisor_override=1)
    return _divide(a, k + alpha * total, beta).to(x.dtype)


class _Pair(NamedTuple):
    """An operation's compiled loops: on activities, and on activities and the result's gradient."""

    forward: Callable[..., None]
    backward: Callable[..., None]


@compiled
def _powers(divisor, beta, square_roots):  # type: ignore[no-untyped-def]
    """(divisor**-beta, 1 / divisor); by square roots, which needs beta 0.75, if asked."""
    one = type(divisor)(1)
    if square_roots:
        root = one / math.sqrt(divisor)
        return root * math.sqrt(root), root * root
    return divisor**-beta, one / divisor


# What the inner loop does must be known when it is compiled: the window's sum is then unrolled, and the loop over the
# maps becomes one of vectors, two to eight times as fast. So the loops are made for each size, once.


@lru_cache
def _across_maps(size: int, square_roots: bool) -> _Pair:
    """The loops of `response_norm`, on arrays (places, C); `low` is 0 with a ReLU and minus infinity without."""
    before, after = size // 2, size - 1 - size // 2

    @compiled
    def forward(x, y, start, stop, k, alpha, beta, towers, low):  # type: ignore[no-untyped-def]
        maps = x.shape[1] // towers
        squares = np.zeros(maps + size - 1, x.dtype)  # zeros on both sides, for what lies outside the tower
        for p in range(start, stop):
            for first in range(0, towers * maps, maps):
                x_tower, y_tower = x[p, first : first + maps], y[p, first : first + maps]
                for i in range(maps):
                    a = low if x_tower[i] <= low else x_tower[i]  # so written, NaN stays
                    squares[before + i] = a * a
                for i in range(maps):
                    total = squares[i]
                    for j in range(1, size):
                        total += squares[i + j]
                    a = low if x_tower[i] <= low else x_tower[i]
                    y_tower[i] = a * _powers(k + alpha * total, beta, square_roots)[0]

    @compiled
    def backward(x, g, dx, start, stop, k, alpha, beta, towers, low):  # type: ignore[no-untyped-def]
        # dx_i = g_i d_i^-beta - 2 alpha beta a_i * (sum over the j whose window holds i of g_j a_j d_j^(-beta - 1)).
        # The divisors d are computed anew: to have kept and to read them would take longer.
        maps = x.shape[1] // towers
        squares, through = np.zeros(maps + size - 1, x.dtype), np.zeros(maps + size - 1, x.dtype)
        zero, factor = x.dtype.type(0), x.dtype.type(2) * alpha * beta
        for p in range(start, stop):
            for first in range(0, towers * maps, maps):
                x_tower, g_tower = x[p, first : first + maps], g[p, first : first + maps]
                dx_tower = dx[p, first : first + maps]
                for i in range(maps):
                    a = low if x_tower[i] <= low else x_tower[i]
                    squares[before + i] = a * a
                for i in range(maps):
                    total = squares[i]
                    for j in range(1, size):
                        total += squares[i + j]
                    scale, inverse = _powers(k + alpha * total, beta, square_roots)
                    a = low if x_tower[i] <= low else x_tower[i]
                    dx_tower[i] = g_tower[i] * scale
                    through[after + i] = dx_tower[i] * a * inverse
                for i in range(maps):
                    total = through[i]
                    for j in range(1, size):
                        total += through[i + j]
                    value = dx_tower[i] - factor * x_tower[i] * total
                    dx_tower[i] = zero if x_tower[i] <= low else value

    return _Pair(forward, backward)


@compiled
def _add_rows(rows, first, last, total):  # type: ignore[no-untyped-def]
    """total = the sum of rows first to last, as far as there are such."""
    total[:] = 0
    for n in range(max(0, first), min(len(rows), last + 1)):
        row = rows[n]
        for i in range(len(total)):
            total[i] += row[i]


@compiled
def _add_neighbours(padded, size, step, total):  # type: ignore[no-untyped-def]
    """total[i] = the sum of padded[i], padded[i + step] ..., `size` of them."""
    total[:] = 0
    for j in range(size):
        shifted = padded[j * step : j * step + len(total)]
        for i in range(len(total)):
            total[i] += shifted[i]


@compiled
def _map_forward(x, y, start, stop, k, alpha, beta, square_roots, size, maps):  # type: ignore[no-untyped-def]
    """The loops of `map_norm`, on arrays (N, H, W * maps): sums over rows first, then along the sum."""
    height, width = x.shape[1:]
    before, after = size // 2, size - 1 - size // 2
    squares, total = np.empty((height, width), x.dtype), np.empty(width, x.dtype)
    rows = np.zeros(width + (size - 1) * maps, x.dtype)  # zeros left and right, for what lies outside the map
    for n in range(start, stop):
        squares[:] = x[n] * x[n]
        for h in range(height):
            _add_rows(squares, h - before, h + after, rows[before * maps : before * maps + width])
            _add_neighbours(rows, size, maps, total)
            for i in range(width):
                y[n, h, i] = x[n, h, i] * _powers(k + alpha * total[i], beta, square_roots)[0]


@compiled
def _map_backward(x, g, dx, start, stop, k, alpha, beta, square_roots, size, maps):  # type: ignore[no-untyped-def]
    """As `_across_maps`'s backward, with the neighbourhood of `_map_forward`."""
    height, width = x.shape[1:]
    before, after = size // 2, size - 1 - size // 2
    squares, through = np.empty((height, width), x.dtype), np.empty((height, width), x.dtype)
    rows, rows_back = np.zeros(width + (size - 1) * maps, x.dtype), np.zeros(width + (size - 1) * maps, x.dtype)
    total, factor = np.empty(width, x.dtype), x.dtype.type(2) * alpha * beta
    for n in range(start, stop):
        squares[:] = x[n] * x[n]
        for h in range(height):
            _add_rows(squares, h - before, h + after, rows[before * maps : before * maps + width])
            _add_neighbours(rows, size, maps, total)
            for i in range(width):
                scale, inverse = _powers(k + alpha * total[i], beta, square_roots)
                dx[n, h, i] = g[n, h, i] * scale
                through[h, i] = dx[n, h, i] * x[n, h, i] * inverse
        for h in range(height):
            _add_rows(through, h - after, h + before, rows_back[after * maps : after * maps + width])
            _add_neighbours(rows_back, size, maps, total)
            for i in range(width):
                dx[n, h, i] -= factor * x[n, h, i] * total[i]


def _memory(x: Tensor) -> np.ndarray:
    """(N, C, H, W) activities as an (N, H, W, C) array, float32 unless they are float64; copied only where needed."""
    wide = x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    return wide.permute(0, 2, 3, 1).contiguous().numpy()


def _tensor(memory: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(memory).permute(0, 3, 1, 2).to(like.dtype)


def _constants(x: np.ndarray, k: float, alpha: float, beta: float) -> tuple[Any, Any, Any]:
    number = x.dtype.type
    return number(k), number(alpha), number(beta)


def _low(x: np.ndarray, relu: bool) -> Any:
    return x.dtype.type(0 if relu else -math.inf)


@torch.library.custom_op("alexnet::response_norm", mutates_args=(), device_types="cpu")
def _response_norm(x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool) -> Tensor:
    memory = _memory(x)
    out = np.empty_like(memory)
    rows, y = memory.reshape(-1, x.shape[1]), out.reshape(-1, x.shape[1])
    constants, loop = _constants(memory, k, alpha, beta), _across_maps(size, beta == 0.75).forward
    low = _low(memory, relu)
    in_parallel(lambda start, stop: loop(rows, y, start, stop, *constants, towers, low), len(rows))
    return _tensor(out, x)


@torch.library.custom_op("alexnet::response_norm_backward", mutates_args=(), device_types="cpu")
def _response_norm_backward(
    g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float, towers: int, relu: bool
) -> Tensor:
    memory = _memory(x)
    out = np.empty_like(memory)
    rows, g_rows, dx = (array.reshape(-1, x.shape[1]) for array in (memory, _memory(g), out))
    constants, loop = _constants(memory, k, alpha, beta), _across_maps(size, beta == 0.75).backward
    low = _low(memory, relu)
    in_parallel(lambda start, stop: loop(rows, g_rows, dx, start, stop, *constants, towers, low), len(rows))
    return _tensor(out, x)


@torch.library.custom_op("alexnet::map_norm", mutates_args=(), device_types="cpu")
def _map_norm(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    memory, maps = _memory(x), x.shape[1]
    out, shape = np.empty_like(memory), (*memory.shape[:2], memory.shape[2] * maps)
    rows, y = memory.reshape(shape), out.reshape(shape)
    constants = _constants(memory, k, alpha, beta)
    in_parallel(lambda start, stop: _map_forward(rows, y, start, stop, *constants, beta == 0.75, size, maps), len(rows))
    return _tensor(out, x)


@torch.library.custom_op("alexnet::map_norm_backward", mutates_args=(), device_types="cpu")
def _map_norm_backward(g: Tensor, x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
    memory, maps = _memory(x), x.shape[1]
    out, shape = np.empty_like(memory), (*memory.shape[:2], memory.shape[2] * maps)
    rows, g_rows, dx = (array.reshape(shape) for array in (memory, _memory(g), out))
    constants = _constants(memory, k, alpha, beta)
    in_parallel(
        lambda start, stop: _map_backward(rows, g_rows, dx, start, stop, *constants, beta == 0.75, size, maps),
        len(rows),
    )
    return _tensor(out, x)


def _register(forward: Any, backward: Any) -> None:
    """Give an operator and its gradient their shape functions, and the operator its gradient."""

    def shape(x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def shape_back(_g: Tensor, x: Tensor, *_: Any) -> Tensor:
        return torch.empty_like(x, memory_format=torch.channels_last)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 (torch names it)
        x, *ctx.constants = inputs
        ctx.save_for_backward(x)

    def gradient(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        return (backward(g, x, *ctx.constants), *(None for _ in ctx.constants))

    forward.register_fake(shape)
    backward.register_fake(shape_back)
    forward.register_autograd(gradient, setup_context=keep)


_register(_response_norm, _response_norm_backward)
_register(_map_norm, _map_norm_backward)


def _check(x: Tensor, size: int, towers: int) -> None:
    if x.ndim != 4:
        raise ValueError(f"x must have four dimensions (pictures, maps, rows, columns); got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"x must be of a floating type; got {x.dtype}")
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    if towers < 1 or x.shape[1] % towers:
        raise ValueError(f"towers must divide the number of maps, {x.shape[1]}; got {towers}")


def response_norm(
    x: Tensor, *, size: int, k: float, alpha: float, beta: float, towers: int = 1, relu: bool = False
) -> Tensor:
    """Divide each activity by (k + alpha * sum of squares over `size` neighbouring maps at its place)**beta (4.3).

    Args:
        x: (N, C, H, W) activities, of any floating type; sums are made in float32 or better.
        size: The paper's n: map i's window is i - size // 2 to i - size // 2 + size - 1, cut at its tower's ends.
        k, alpha, beta: The paper's constants. (The 2012 program, torch and Caffe divide alpha by size; a caller who
            wants that passes it divided.)
        towers: Number of equal groups of maps; no window reaches into another group.
        relu: Whether to apply max(0, x) first, in the same pass.

    Returns:
        (N, C, H, W); in channels_last memory on the CPU.

    Raises:
        ValueError: The towers do not divide the maps, or a size below 1.
    """
    _check(x, size, towers)
    if x.device.type != "cpu":
        return response_norm_reference(x, size=size, k=k, alpha=alpha, beta=beta, towers=towers, relu=relu)
    result: Tensor = _response_norm(x, size, k, alpha, beta, towers, relu)
    return result


def map_norm(x: Tensor, *, size: int, k: float, alpha: float, beta: float) -> Tensor:
    """Divide each activity by (k + alpha * sum of squares over size x size places of its own map)**beta.

    The 2012 program's second normalisation; not in the paper. Places outside the map count as zeros.

    Args:
        x: (N, C, H, W) activities, of any floating type; sums are made in float32 or better.
        size: Side of the neighbourhood, in pixels; from size // 2 before an activity's place, in rows and columns.
        k, alpha, beta: The constants of the divisor; alpha as it is, not divided by the number of places.

    Returns:
        (N, C, H, W); in channels_last memory on the CPU.

    Raises:
        ValueError: A size below 1.
    """
    _check(x, size, 1)
    if x.device.type != "cpu":
        return map_norm_reference(x, size=size, k=k, alpha=alpha, beta=beta)
    result: Tensor = _map_norm(x, size, k, alpha, beta)
    return result

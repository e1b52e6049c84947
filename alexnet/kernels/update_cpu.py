"""The update rule of section 6 for the CPU: all parameters as one sequence of elements, divided among the threads."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels.compile import jit
from alexnet.kernels.layout import compute_type, widen
from alexnet.kernels.threads import parallel_for
from alexnet.kernels.vectors import LANES, load, store

_SERIAL = 2**18  # elements below which waking a thread costs more than its help gains


def update_cpu(parameters: Sequence[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]) -> None:
    """Update parameters on the CPU; those of a type that Numba does not have, one by one in plain torch.

    Args:
        parameters: Weight, velocity, gradient, coefficients and bfloat16 copy of each
            (`alexnet.kernels.update.ParameterUpdate`), all but the coefficients as vectors without gaps.
    """
    vectors: list[tuple[Any, ...]] = []
    for weight, velocity, gradient, coefficients, bfloat16 in parameters:
        rate, decayed, momentum = coefficients.tolist()
        if rate == 0:
            continue
        if weight.dtype in (torch.float32, torch.float64):
            number = compute_type(weight)
            # The loop without a copy has no 16-bit numbers.
            tensors = (
                (weight, velocity, widen(gradient)) if bfloat16 is None else (weight, velocity, gradient, bfloat16)
            )
            constants = (number(rate), number(decayed), number(momentum))
            vectors.append(([_to_numpy(tensor) for tensor in tensors], constants))
        else:
            update_plain(weight, velocity, gradient, rate, decayed, momentum)
    ends = list(accumulate(len(memory[0]) for memory, _ in vectors))
    if not ends or ends[-1] == 0:
        return

    def update(start: int, stop: int) -> None:
        begin = 0
        for (memory, constants), end in zip(vectors, ends, strict=True):
            a, b = max(start, begin) - begin, min(stop, end) - begin
            if a < b:
                kernel = _update if len(memory) == 3 else _update_with_copy
                kernel(*(array[a:b] for array in memory), *constants)
            begin = end

    if ends[-1] < _SERIAL:
        update(0, ends[-1])
    else:
        parallel_for(update, ends[-1])


def update_plain(
    weight: Tensor, velocity: Tensor, gradient: Tensor, rate: float, decayed: float, momentum: float
) -> None:
    """Update one parameter in plain torch; `decayed` is decay * rate."""
    w, v, g = widen(weight), widen(velocity), widen(gradient)
    v = (momentum * v - decayed * w) - rate * g
    velocity.copy_(v)
    weight.copy_(w + v)


def _to_numpy(vector: Tensor) -> np.ndarray:
    """Return a vector's memory, bfloat16 as the loops take it (vectors.py)."""
    return (vector.view(torch.uint16) if vector.dtype == torch.bfloat16 else vector).numpy()


@jit
def _update(weight, velocity, gradient, rate, decayed, momentum):
    for i in range(len(weight)):
        v = momentum * velocity[i] - decayed * weight[i] - rate * gradient[i]
        velocity[i] = v
        weight[i] += v


@jit
def _update_with_copy(weight, velocity, gradient, bfloat16, rate, decayed, momentum):
    """Update as `_update` does, a vector at a time, and write the new weights in bfloat16 too."""
    for i in range(0, len(weight), LANES):
        count = len(weight) - i
        w = load(weight, i, count)
        v = momentum * load(velocity, i, count) - decayed * w - rate * load(gradient, i, count)
        w = w + v
        store(velocity, i, v, count)
        store(weight, i, w, count)
        store(bfloat16, i, w, count)

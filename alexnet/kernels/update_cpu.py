"""The update rule of section 6 for the CPU: all parameters as one sequence of elements, divided among the threads."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from alexnet.kernels.compile import jit
from alexnet.kernels.layout import compute_type, widen
from alexnet.kernels.threads import parallel_for

_SERIAL = 2**18  # elements below which waking a thread costs more than its help gains


def update_cpu(parameters: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> None:
    """Update parameters on the CPU; those of a type that Numba does not have, one by one in plain torch.

    Args:
        parameters: Weight, velocity, gradient and coefficients of each (`alexnet.kernels.update.ParameterUpdate`), the
            first three as vectors without gaps.
    """
    vectors: list[tuple[Any, ...]] = []
    for weight, velocity, gradient, coefficients in parameters:
        rate, decayed, momentum = coefficients.tolist()
        if rate == 0:
            continue
        if weight.dtype in (torch.float32, torch.float64):
            number = compute_type(weight)
            memory = (weight.numpy(), velocity.numpy(), gradient.numpy())
            vectors.append((*memory, number(rate), number(decayed), number(momentum)))
        else:
            update_plain(weight, velocity, gradient, rate, decayed, momentum)
    ends = list(accumulate(len(vector[0]) for vector in vectors))
    if not ends or ends[-1] == 0:
        return

    def update(start: int, stop: int) -> None:
        begin = 0
        for (weight, velocity, gradient, *constants), end in zip(vectors, ends, strict=True):
            a, b = max(start, begin) - begin, min(stop, end) - begin
            if a < b:
                _update(weight[a:b], velocity[a:b], gradient[a:b], *constants)
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


@jit
def _update(weight, velocity, gradient, rate, decayed, momentum):
    for i in range(len(weight)):
        v = momentum * velocity[i] - decayed * weight[i] - rate * gradient[i]
        velocity[i] = v
        weight[i] += v

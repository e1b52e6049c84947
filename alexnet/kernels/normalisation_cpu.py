"""What the CPU loops of `response_norm` and `map_norm` share: the powers of the divisor."""

import math
from typing import Any

import torch
from torch import Tensor

from alexnet.kernels.compile import constexpr, jit_without_wrapper
from alexnet.kernels.layout import compute_type
from alexnet.kernels.vectors import fma, guess_fourth_root, where_above


def to_compute_type(x: Tensor, *numbers: float) -> tuple[Any, ...]:
    """Return numbers in the type that the loops compute x in."""
    number_type = compute_type(x)
    return tuple(number_type(number) for number in numbers)


def newton_steps(x: Tensor, beta: float) -> tuple[int, ...]:
    """Return the number of steps that `powers` takes for x's type, as a `constexpr`; 0 for `pow`."""
    # One step leaves an error of 2e-4 of a power, a tenth of the rounding to bfloat16; two leave float32's rounding.
    return constexpr(0 if beta != 0.75 else {torch.float64: 3, torch.bfloat16: 1}.get(x.dtype, 2))


@jit_without_wrapper
def _newton_step(divisor, y):
    """Return a better approximation y of divisor**-0.25: of a relative error e / 4, about 0.03 * e**3 remains."""
    square = y * y
    error = fma(divisor * square, -1.0 * square, 1.0)  # in this order, which cannot overflow
    return fma(y * error, fma(error, 0.15625, 0.25), y)


@jit_without_wrapper
def powers(divisor, beta, steps):
    """Return (divisor**-beta, 1 / divisor) of a vector; without roots and divisions where beta is 0.75.

    These would take most of the time.
    """
    if len(steps) > 0:
        y = guess_fourth_root(divisor)
        for _ in range(len(steps)):
            y = _newton_step(divisor, y)
        y = where_above(math.inf, divisor, y)  # 0, not NaN, where the squares have overflowed
        square = y * y
        return square * y, square * square
    return divisor**-beta, 1.0 / divisor

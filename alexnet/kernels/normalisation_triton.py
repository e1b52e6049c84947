"""What the Triton kernels of `response_norm` and `map_norm` share: the powers of the divisor, and the window."""

from typing import Any

import triton
import triton.language as tl

from alexnet.kernels.normalisation import window_reach


@triton.jit
def powers(divisor, beta, square_roots: tl.constexpr):
    """Return (divisor**-beta, 1 / divisor); by square roots where asked for, which needs beta 0.75."""
    if square_roots:
        root = tl.math.rsqrt(divisor)
        return root * tl.sqrt(root), root * root
    return tl.exp2(-beta * tl.log2(divisor)), 1.0 / divisor


def window_constants(size: int, count: int, beta: float) -> dict[str, Any]:
    """Return the compile-time constants of a window over `count` numbers: its reach, and whether square roots do."""
    before, after = window_reach(size)
    return {"before": min(before, count), "after": min(after, count), "square_roots": beta == 0.75}

"""Rates of this machine that bound all other work: FLOP/s of a matrix product, bytes/s of a copy."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.timing import time_interleaved

# The side of the square matrices and the bytes of the copy, by device: so large that the cost of the call does not
# matter and no cache holds them, so small that a CPU finishes within a second.
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}


@dataclass(frozen=True)
class ReferenceOperation:
    """An operation that runs at the highest rate of the machine.

    Args:
        function: Runs the operation once.
        amount: The work of one call, in FLOP or in bytes.
    """

    function: Callable[[], object]
    amount: float

    def rate(self, device: torch.device, repeats: int = 5) -> float:
        """Return the median rate, in FLOP/s or bytes/s, of the operation timed alone."""
        times = time_interleaved({"operation": self.function}, repeats, device)
        return self.amount / statistics.median(times["operation"])


def matrix_product(device: torch.device, dtype: torch.dtype) -> ReferenceOperation:
    """Return a product of two large square matrices; its amount is in FLOP."""
    side = _MATRIX_SIDE[device.type]
    a, b, out = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    return ReferenceOperation(lambda: torch.mm(a, b, out=out), 2 * side**3)


def memory_copy(device: torch.device) -> ReferenceOperation:
    """Return a copy of a large array; its amount is the bytes read plus the bytes written."""
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return ReferenceOperation(lambda: target.copy_(source), 2 * source.nbytes)

"""The update rule of section 6 over all parameters in one pass: every weight, velocity and gradient is touched once.

    v := (momentum * v - (decay * rate) * w) - rate * gradient
    w := w + v

Each product, difference and sum is rounded by itself, in this order (no fused multiply-add), decay * rate as one
number made in float64. So every version gives the same bits: the loops compiled for the CPU, the kernel in Triton for
CUDA, the one of torch's operations for a CUDA without Triton, and `update_reference`. Weights narrower than float32 are
moved in float32 and rounded at the end.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from alexnet.kernels.compile import has_triton, jit
from alexnet.kernels.threads import parallel_for
from alexnet.utils.console import note_once

_WHOLE = 2**18  # elements below which waking a thread costs more than its help gains
_PLAIN, _FORMATS = torch.contiguous_format, {4: torch.channels_last}


class ParameterUpdate(NamedTuple):
    """A parameter to move.

    Args:
        weight, velocity, gradient: Of one shape, type and device; the first two are written.
        coefficients: (3,) float64 on that device: rate, decay * rate, momentum. A parameter of rate 0 stays, and so
            does its velocity.
    """

    weight: Tensor
    velocity: Tensor
    gradient: Tensor
    coefficients: Tensor


def update_coefficients(rate: float, momentum: float, decay: float) -> list[float]:
    """What `ParameterUpdate.coefficients` holds."""
    return [rate, decay * rate, momentum]


@torch.no_grad()
def update_reference(
    weight: Tensor, velocity: Tensor, gradient: Tensor, rate: float, momentum: float, decay: float
) -> None:
    """What `update` does to one parameter, in plain torch; operations that may fuse (alpha=, addcmul) are not used."""
    if rate != 0:
        _plain(weight, velocity, gradient, *update_coefficients(rate, momentum, decay))


def _plain(weight: Tensor, velocity: Tensor, gradient: Tensor, rate: float, decayed: float, momentum: float) -> None:
    w, v, g = _wide(weight), _wide(velocity), _wide(gradient)
    v = (momentum * v - decayed * w) - rate * g
    velocity.copy_(v)
    weight.copy_(w + v)


@torch.no_grad()
def update(parts: Sequence[ParameterUpdate]) -> None:
    """Move parameters by the rule of section 6.

    Memory of any strides will do; it is fastest where a parameter's three tensors have the same, without gaps. Safe to
    capture in a CUDA graph: then the rates are those in memory at each replay.

    Args:
        parts: The parameters, each once.
    """
    torch.autograd.graph.increment_version([part.weight for part in parts])  # for what autograd has kept of them
    flat, moved = _flat_parts(parts)
    for kind in {part.weight.device for part in flat}:
        here = [part for part in flat if part.weight.device == kind]
        if kind.type == "cpu":
            _update_cpu(here)
        elif kind.type == "cuda" and has_triton():
            from alexnet.kernels.update_triton import update_triton

            update_triton(here)
        else:
            if kind.type == "cuda":
                note_once("parameters are moved by several passes in place of one, since Triton is not installed")
            update_foreach(here)
    for tensor, memory in moved:
        tensor.copy_(memory)


def _wide(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


def _flat_parts(parts: Sequence[ParameterUpdate]) -> tuple[list[ParameterUpdate], list[tuple[Tensor, Tensor]]]:
    """The parts with their memory as vectors, element for element; and the tensors that must be copied back from them.

    Only a tensor whose strides have gaps, or are not its weight's, is copied.
    """
    flat: list[ParameterUpdate] = []
    moved: list[tuple[Tensor, Tensor]] = []
    for part in parts:
        weight, count = part.weight, part.weight.numel()
        alike = weight.stride() == part.velocity.stride() == part.gradient.stride()
        if alike and (weight.is_contiguous() or weight.is_contiguous(memory_format=_FORMATS.get(weight.ndim, _PLAIN))):
            w, v, g = (tensor.as_strided((count,), (1,)) for tensor in part[:3])  # the usual, at little cost
        else:
            order = sorted(range(weight.ndim), key=weight.stride, reverse=True)
            permuted = [tensor.permute(order) for tensor in part[:3]]
            whole = [tensor.contiguous() for tensor in permuted]
            moved += [(old, new) for old, new in zip(permuted[:2], whole[:2], strict=True) if new is not old]
            w, v, g = (tensor.view(-1) for tensor in whole)
        flat.append(ParameterUpdate(w, v, g, part.coefficients))
    return flat, moved


@jit
def _rule(weight, velocity, gradient, rate, decayed, momentum):  # type: ignore[no-untyped-def]
    for i in range(len(weight)):
        v = momentum * velocity[i] - decayed * weight[i] - rate * gradient[i]
        velocity[i] = v
        weight[i] += v


def _update_cpu(parts: list[ParameterUpdate]) -> None:
    """All parameters as one run of elements, divided among the threads; those Numba has no type for one by one."""
    vectors: list[tuple[Any, ...]] = []
    for weight, velocity, gradient, rates in parts:
        rate, decayed, momentum = rates.tolist()
        if rate == 0:
            continue
        if weight.dtype in (torch.float32, torch.float64):
            number = np.float32 if weight.dtype == torch.float32 else np.float64
            memory = (weight.numpy(), velocity.numpy(), gradient.numpy())
            vectors.append((*memory, number(rate), number(decayed), number(momentum)))
        else:
            _plain(weight, velocity, gradient, rate, decayed, momentum)
    ends = list(accumulate(len(vector[0]) for vector in vectors))
    if not ends or ends[-1] == 0:
        return

    def run(start: int, stop: int) -> None:
        begin = 0
        for (weight, velocity, gradient, *constants), end in zip(vectors, ends, strict=True):
            a, b = max(start, begin) - begin, min(stop, end) - begin
            if a < b:
                _rule(weight[a:b], velocity[a:b], gradient[a:b], *constants)
            begin = end

    if ends[-1] < _WHOLE:
        run(0, ends[-1])
    else:
        parallel_for(run, ends[-1])


def update_foreach(parts: Sequence[ParameterUpdate]) -> None:
    """What `update` does, by torch's operations over lists of tensors, for a device that has no kernel here.

    The rates are never read back to the host, so that it can be captured in a CUDA graph.
    """
    by_rates: dict[tuple[int, torch.dtype], list[ParameterUpdate]] = {}
    for part in parts:
        by_rates.setdefault((part.coefficients.data_ptr(), part.weight.dtype), []).append(part)
    for group in by_rates.values():
        weights, velocities = [part.weight for part in group], [part.velocity for part in group]
        wide = [_wide(w) for w in weights], [_wide(v) for v in velocities], [_wide(part.gradient) for part in group]
        rate, decayed, momentum = group[0].coefficients.to(wide[0][0].dtype).unbind()
        moving = rate != 0
        v = torch._foreach_mul(wide[1], momentum)
        torch._foreach_sub_(v, torch._foreach_mul(wide[0], decayed))
        torch._foreach_sub_(v, torch._foreach_mul(wide[2], rate))
        for weight, velocity, old_w, old_v, new in zip(weights, velocities, *wide[:2], v, strict=True):
            weight.copy_(torch.where(moving, old_w + new, old_w))
            velocity.copy_(torch.where(moving, new, old_v))

"""The update rule of section 6 over all parameters in one pass: every weight, velocity and gradient is touched once.

    v := (momentum * v - (decay * rate) * w) - rate * gradient
    w := w + v

Each product, difference and sum is rounded by itself, in this order (no fused multiply-add); decay * rate is one number
computed in float64. So all versions give the same bits: the loops for the CPU (update_cpu.py), the kernel for CUDA
(update_triton.py), `update_foreach` for CUDA without Triton, and `update_reference`. Weights narrower than float32 are
updated in float32 and rounded at the end.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alexnet.kernels.layout import widen
from alexnet.kernels.register import runs_triton
from alexnet.kernels.update_cpu import update_cpu, update_plain

_CONTIGUOUS, _CHANNELS_LAST = torch.contiguous_format, {4: torch.channels_last}


class ParameterUpdate(NamedTuple):
    """A parameter to update.

    Args:
        weight, velocity, gradient: Of one shape and device; the first two are written. They have one type; the gradient
            of a float32 weight may be bfloat16.
        coefficients: (3,) float64 on that device, as `update_coefficients` returns them. A parameter of rate 0 stays as
            it is, and so does its velocity.
        bfloat16: A bfloat16 copy of a float32 weight, which is written too; None for none.
    """

    weight: Tensor
    velocity: Tensor
    gradient: Tensor
    coefficients: Tensor
    bfloat16: Tensor | None = None


def update_coefficients(rate: float, momentum: float, decay: float) -> list[float]:
    """Return the coefficients of a `ParameterUpdate`: rate, decay * rate, momentum."""
    return [rate, decay * rate, momentum]


@torch.no_grad()
def update(parameters: Sequence[ParameterUpdate]) -> None:
    """Update parameters by the rule of section 6.

    Their memory may have any strides; it is fastest where a parameter's three tensors have the same strides, without
    gaps. It may be captured in a CUDA graph: then each replay reads the coefficients in memory at that time.

    Args:
        parameters: The parameters, each once.
    """
    # Autograd must know of the change, for the weights it has saved.
    torch.autograd.graph.increment_version([parameter.weight for parameter in parameters])
    flat, copies = _flatten(parameters)
    for device in {parameter.weight.device for parameter in flat}:
        on_device = [parameter for parameter in flat if parameter.weight.device == device]
        if device.type == "cpu":
            update_cpu(on_device)
        elif runs_triton(on_device[0].weight, "the update of parameters"):
            from alexnet.kernels.update_triton import update_triton  # Triton is imported when a GPU first needs it

            update_triton([parameter[:4] for parameter in on_device])
        else:
            update_foreach(on_device)
    for tensor, copy in copies:
        tensor.copy_(copy)
    for parameter, vectors in zip(parameters, flat, strict=True):
        is_written = parameter.weight.device.type == "cpu" and vectors.bfloat16 is not None
        if parameter.bfloat16 is not None and not is_written:
            parameter.bfloat16.copy_(parameter.weight)


@torch.no_grad()
def update_reference(
    weight: Tensor, velocity: Tensor, gradient: Tensor, rate: float, momentum: float, decay: float
) -> None:
    """Update one parameter as `update` does, in plain torch, without operations that may fuse (alpha=, addcmul)."""
    if rate != 0:
        update_plain(weight, velocity, gradient, *update_coefficients(rate, momentum, decay))


def update_foreach(parameters: Sequence[ParameterUpdate]) -> None:
    """Update parameters as `update` does, by torch's operations over lists of tensors, for a device without a kernel.

    The coefficients are never read back to the host, so that it can be captured in a CUDA graph.
    """
    groups: dict[tuple[int, torch.dtype], list[ParameterUpdate]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.coefficients.data_ptr(), parameter.weight.dtype), []).append(parameter)
    for group in groups.values():
        weights, velocities, gradients = (
            [widen(tensor) for tensor in tensors] for tensors in list(zip(*group, strict=True))[:3]
        )
        rate, decayed, momentum = group[0].coefficients.to(weights[0].dtype).unbind()
        is_moving = rate != 0
        updated = torch._foreach_mul(velocities, momentum)
        torch._foreach_sub_(updated, torch._foreach_mul(weights, decayed))
        torch._foreach_sub_(updated, torch._foreach_mul(gradients, rate))
        for parameter, w, v, new_v in zip(group, weights, velocities, updated, strict=True):
            parameter.weight.copy_(torch.where(is_moving, w + new_v, w))
            parameter.velocity.copy_(torch.where(is_moving, new_v, v))


def _flatten(parameters: Sequence[ParameterUpdate]) -> tuple[list[ParameterUpdate], list[tuple[Tensor, Tensor]]]:
    """Return the parameters as vectors of their memory, and pairs of tensors: (one to copy back to, its copy).

    Only a tensor whose strides have gaps, or differ from its weight's, is copied.
    """
    flat: list[ParameterUpdate] = []
    copies: list[tuple[Tensor, Tensor]] = []
    for parameter in parameters:
        weight, count = parameter.weight, parameter.weight.numel()
        same_strides = weight.stride() == parameter.velocity.stride() == parameter.gradient.stride()
        dense_format = _CHANNELS_LAST.get(weight.ndim, _CONTIGUOUS)
        if same_strides and (weight.is_contiguous() or weight.is_contiguous(memory_format=dense_format)):
            w, v, g = (tensor.as_strided((count,), (1,)) for tensor in parameter[:3])  # the usual case, at little cost
            bfloat16 = parameter.bfloat16
            if bfloat16 is not None:  # where the strides differ, `update` writes it
                bfloat16 = bfloat16.as_strided((count,), (1,)) if bfloat16.stride() == weight.stride() else None
        else:
            order = sorted(range(weight.ndim), key=weight.stride, reverse=True)
            permuted = [tensor.permute(order) for tensor in parameter[:3]]
            dense = [tensor.contiguous() for tensor in permuted]
            copies += [(old, new) for old, new in zip(permuted[:2], dense[:2], strict=True) if new is not old]
            w, v, g = (tensor.view(-1) for tensor in dense)
            bfloat16 = None  # `update` writes it
        flat.append(ParameterUpdate(w, v, g, parameter.coefficients, bfloat16))
    return flat, copies

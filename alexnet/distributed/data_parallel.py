"""Modules whose gradients are averaged over the processes that have different pictures of a batch (section 4.2)."""

import contextlib
from typing import Any

from torch import Tensor, autograd, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet.distributed.collectives import RankGroup
from alexnet.models.alexnet import AlexNet


class HybridParallel(nn.Module):
    """A net with replicated convolutions and sharded fully connected layers (Krizhevsky 2014).

    Each process computes its units for the pictures of all processes, so the gradient of their weights is complete.
    The gradient of the convolutions is the sum over the processes, but averaging divides it by their number.
    """

    def __init__(self, net: AlexNet, data_group: RankGroup) -> None:
        super().__init__()
        self.convs, self.size = data_parallel(net.convs, data_group), data_group.size
        self._net = (net,)  # in a tuple, so that its parameters are not this module's

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 224, 224) -> (size * n, classes of this process)."""
        (net,) = self._net
        maps: Tensor = _ScaleGradient.apply(self.convs(net.scale_pixels(x)), self.size)
        return net.forward_head(maps)


class _ScaleGradient(autograd.Function):
    """The identity in the forward pass; the backward pass multiplies the gradient by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None


def data_parallel(module: nn.Module, data_group: RankGroup) -> nn.Module:
    """Wrap a module so that its gradients are averaged over the group, each as soon as it is ready.

    A module that is frozen has no gradients, and is returned as it is.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    device = next(module.parameters()).device
    return DistributedDataParallel(
        module, device_ids=[device] if device.type == "cuda" else None, process_group=data_group.process_group
    )


def no_sync(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients are only accumulated in this process, and not averaged over the group."""
    wrapped = model.convs if isinstance(model, HybridParallel) else model
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else contextlib.nullcontext()

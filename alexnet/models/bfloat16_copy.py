"""A copy in bfloat16 of a weight that learns in float32: it spares each training step the conversion."""

from typing import Any

import torch
from torch import Tensor, autograd


class Bfloat16Copy:
    """A bfloat16 copy of a weight, which the update rule writes in the pass that updates the weight.

    The results are the same bits as with a conversion in each step (autocast's). The gradient stays in bfloat16, in
    which it is computed. It may not be added up over several passes: that would round each sum.

    Args:
        weight: The weight, float32. It gets bfloat16 gradients from now on.

    Attributes:
        values: The copy.
    """

    def __init__(self, weight: Tensor) -> None:
        self.values = weight.detach().bfloat16()
        self._version = weight._version
        weight.grad_dtype = torch.bfloat16

    def mark_written(self, weight: Tensor) -> None:
        """Note that `values` has been written with the weight's new numbers."""
        self._version = weight._version

    def read(self, weight: Tensor) -> Tensor:
        """Return the copy, as a function of the weight; it is written anew if anything else has changed the weight."""
        if weight._version != self._version:
            self.values.copy_(weight.detach())
            self.mark_written(weight)
        copy: Tensor = _ReadCopy.apply(weight, self.values)
        return copy


class _ReadCopy(autograd.Function):
    """The copy in the forward pass; the backward pass hands its gradient to the weight, in bfloat16."""

    @staticmethod
    def forward(_ctx: Any, weight: Tensor, values: Tensor) -> Tensor:  # noqa: ARG004 (the weight gets the gradient)
        return values.view_as(values)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None

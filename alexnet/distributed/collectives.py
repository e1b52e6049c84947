"""What processes that share one net send each other: activities, their gradients, and the parts of a softmax."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


@dataclass
class Group:
    """Processes that each hold a part of something, and this process's place among them.

    Attributes:
        handle: PyTorch's process group; None where this process is alone.
        part, parts: This process's number, from 0, and how many there are.
        sent: Bytes this process has sent to others of the group, by what they were.
    """

    handle: dist.ProcessGroup | None = None
    part: int = 0
    parts: int = 1
    sent: Counter[str] = field(default_factory=Counter)

    def bounds(self, count: int) -> tuple[int, int]:
        """The first of this process's share of `count` things and the first after it; shares differ by one at most."""
        each, over = divmod(count, self.parts)
        first = self.part * each + min(self.part, over)
        return first, first + each + (self.part < over)

    def first(self) -> int:
        """The rank, among all processes, of the group's first."""
        return dist.get_global_rank(self.handle, 0) if self.handle is not None else 0


def all_units(x: Tensor, group: Group, name: str) -> Tensor:
    """All units of a layer, of which each process of the group has computed a part (4.2: where the GPUs communicate).

    The gradient of each part is the sum of what all processes of the group have found for it.

    Args:
        x: (N, C / parts) or (N, C / parts, H, W).
        group: The processes; the units lie part after part.
        name: What the bytes are counted as.

    Returns:
        (N, C) or (N, C, H, W), the same in every process.
    """
    if group.parts == 1:
        return x
    # Units last: memory is channels_last, and so it stays without a copy.
    gathered: Tensor = _Gather.apply(x.movedim(1, -1), group, -1, name)
    return gathered.movedim(-1, 1)


def all_rows(x: Tensor, group: Group, name: str) -> Tensor:
    """The rows of all processes, (N, ...) -> (parts * N, ...); gradients as for `all_units`."""
    if group.parts == 1:
        return x
    gathered: Tensor = _Gather.apply(x, group, 0, name)
    return gathered


class _Gather(Function):
    """All-gather along an axis; backwards each process gets the sum of the gradients of its part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group, axis: int, name: str) -> Tensor:
        ctx.group, ctx.axis, ctx.name = group, axis, name
        x = x.contiguous()
        group.sent[f"{name} forward"] += (group.parts - 1) * x.nbytes
        parts = [torch.empty_like(x) for _ in range(group.parts)]
        dist.all_gather(parts, x, group=group.handle)
        return torch.cat(parts, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        group, axis = ctx.group, ctx.axis
        parts = torch.stack(gradients[0].chunk(group.parts, axis))  # (parts, ...)
        group.sent[f"{ctx.name} backward"] += (group.parts - 1) * parts[0].nbytes
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group.handle)
        # Added here and not by the collective: in float32, in the same order everywhere and every time.
        return received.sum(0, dtype=torch.float32).to(parts.dtype), None, None, None


def split_cross_entropy(
    logits: Tensor, labels: Tensor, group: Group, classes: int, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The loss of each picture where each process has the outputs for a part of the classes.

    Args:
        logits: (N, this process's classes) float32.
        labels: (N,) int64, the same in every process of the group.
        group: The processes; the classes lie part after part.
        classes: How many there are in all.
        smoothing: Share of the target spread evenly over all classes.

    Returns:
        Losses (N,) with their gradient, and the class of greatest output (N,) int64, the first among equals.
    """
    found: tuple[Tensor, Tensor] = _SplitCrossEntropy.apply(logits, labels, group, classes, smoothing)
    return found


class _SplitCrossEntropy(Function):
    """log(sum exp) - output of the class, each sum over all processes' classes; backwards nothing is sent."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, group: Group, classes: int, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        first, end = group.bounds(classes)
        best, place = logits.max(1)
        ours = torch.stack([best.double(), (place + first).double()])  # (2, N)
        parts = [torch.empty_like(ours) for _ in range(group.parts)]
        dist.all_gather(parts, ours, group=group.handle)
        bests, places = torch.stack(parts, 1)  # (parts, N) each
        greatest, winner = bests.max(0)
        predicted = places.gather(0, winner[None])[0].long()

        shifted = logits - greatest[:, None].to(logits.dtype)
        exponentials = shifted.exp()
        here = ((labels >= first) & (labels < end)).to(logits.dtype)
        at = (labels - first).clamp(0, end - first - 1)[:, None]
        of_label = shifted.gather(1, at)[:, 0] * here
        sums = torch.stack([exponentials.sum(1), of_label, shifted.sum(1)])  # (3, N)
        group.sent["softmax"] += (group.parts - 1) * (ours.nbytes + 2 * sums.nbytes // group.parts)
        dist.all_reduce(sums, group=group.handle)
        losses = sums[0].log() - (1 - smoothing) * sums[1] - smoothing / classes * sums[2]
        ctx.save_for_backward(exponentials / sums[0][:, None], at, here)
        ctx.classes, ctx.smoothing = classes, smoothing
        ctx.mark_non_differentiable(predicted)
        return losses, predicted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        probabilities, at, here = ctx.saved_tensors
        slope = probabilities - ctx.smoothing / ctx.classes
        slope.scatter_add_(1, at, -(1 - ctx.smoothing) * here[:, None])
        return slope * gradients[0][:, None], None, None, None, None


def shard_rows(count: int, part: int, parts: int) -> tuple[np.ndarray, int]:
    """The rows of a batch that one of several processes takes: neighbours, as many for each of them.

    Args:
        count: Rows of the batch.
        part, parts: Which process, from 0, of how many.

    Returns:
        (ceil(count / parts),) int64, and how many of them count: the last processes may have rows beyond the end, which
        are the first ones again and are there because all must take part.
    """
    each = -(-count // parts)
    return np.arange(part * each, (part + 1) * each) % count, max(0, min(each, count - part * each))

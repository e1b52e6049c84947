"""The collectives of a net that several processes share: activations, their gradients, and a sharded softmax."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


@dataclass
class RankGroup:
    """A process group, and the rank of this process in it.

    Attributes:
        process_group: PyTorch's process group; None for a single process.
        rank: The rank of this process in the group.
        size: The number of processes in the group.
        bytes_sent: The bytes that this process has sent to the other ranks, by the name of what they were.
    """

    process_group: dist.ProcessGroup | None = None
    rank: int = 0
    size: int = 1
    bytes_sent: Counter[str] = field(default_factory=Counter)

    def shard_bounds(self, count: int) -> tuple[int, int]:
        """Return the start and the end of this rank's shard of `count` units; shards differ in size by one at most."""
        size, remainder = divmod(count, self.size)
        start = self.rank * size + min(self.rank, remainder)
        return start, start + size + (self.rank < remainder)

    def global_first_rank(self) -> int:
        """Return the global rank of the group's first process."""
        return dist.get_global_rank(self.process_group, 0) if self.process_group is not None else 0


def all_gather_units(x: Tensor, group: RankGroup, name: str) -> Tensor:
    """Gather all units of a layer, of which each rank has computed a shard (4.2: where the GPUs communicate).

    In the backward pass each rank gets the gradient of its shard, summed over all ranks.

    Args:
        x: (N, C / size) or (N, C / size, H, W).
        group: The ranks that share the layer; the units are in the order of the ranks.
        name: The key in `group.bytes_sent`.

    Returns:
        (N, C) or (N, C, H, W), the same on every rank.
    """
    if group.size == 1:
        return x
    # Units last: the memory is channels_last, so this makes no copy.
    gathered: Tensor = _AllGather.apply(x.movedim(1, -1), group, -1, name)
    return gathered.movedim(-1, 1)


def all_gather_rows(x: Tensor, group: RankGroup, name: str) -> Tensor:
    """Gather the rows of all ranks, (N, ...) -> (size * N, ...); the backward pass is that of `all_gather_units`."""
    if group.size == 1:
        return x
    gathered: Tensor = _AllGather.apply(x, group, 0, name)
    return gathered


class _AllGather(Function):
    """All-gather along a dimension; the backward pass is a reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: RankGroup, dim: int, name: str) -> Tensor:
        ctx.group, ctx.dim, ctx.name = group, dim, name
        x = x.contiguous()
        group.bytes_sent[f"{name} forward"] += (group.size - 1) * x.nbytes
        shards = [torch.empty_like(x) for _ in range(group.size)]
        dist.all_gather(shards, x, group=group.process_group)
        return torch.cat(shards, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        group = ctx.group
        shards = torch.stack(gradients[0].chunk(group.size, ctx.dim))  # (size, ...)
        group.bytes_sent[f"{ctx.name} backward"] += (group.size - 1) * shards[0].nbytes
        received = torch.empty_like(shards)
        dist.all_to_all_single(received, shards, group=group.process_group)
        # Summed here and not by the collective: in float32, and in the same order on every rank and in every run.
        return received.sum(0, dtype=torch.float32).to(shards.dtype), None, None, None


def sharded_cross_entropy(
    logits: Tensor, labels: Tensor, group: RankGroup, classes: int, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of each picture where each rank has the logits of a shard of the classes.

    Args:
        logits: (N, classes of this rank) float32.
        labels: (N,) int64, the same on every rank.
        group: The ranks that share the classes; the classes are in the order of the ranks.
        classes: The number of classes of all ranks.
        smoothing: The share of the target that is spread evenly over all classes.

    Returns:
        The losses (N,), differentiable, and the class of the greatest logit (N,) int64, the first of equal ones.
    """
    losses_and_predictions: tuple[Tensor, Tensor] = _ShardedCrossEntropy.apply(
        logits, labels, group, classes, smoothing
    )
    return losses_and_predictions


class _ShardedCrossEntropy(Function):
    """log(sum exp) - the label's logit, each summed over the classes of all ranks; the backward pass sends nothing."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, group: RankGroup, classes: int, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        start, end = group.shard_bounds(classes)
        greatest, predicted, bytes_gathered = _sharded_argmax(logits, start, group)
        shifted = logits - greatest[:, None].to(logits.dtype)
        exponentials = shifted.exp()
        is_local = ((labels >= start) & (labels < end)).to(logits.dtype)
        columns = (labels - start).clamp(0, end - start - 1)[:, None]
        label_logits = shifted.gather(1, columns)[:, 0] * is_local
        sums = torch.stack([exponentials.sum(1), label_logits, shifted.sum(1)])  # (3, N)
        group.bytes_sent["softmax"] += (group.size - 1) * (bytes_gathered + 2 * sums.nbytes // group.size)
        dist.all_reduce(sums, group=group.process_group)
        losses = sums[0].log() - (1 - smoothing) * sums[1] - smoothing / classes * sums[2]
        ctx.save_for_backward(exponentials / sums[0][:, None], columns, is_local)
        ctx.classes, ctx.smoothing = classes, smoothing
        ctx.mark_non_differentiable(predicted)
        return losses, predicted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        probabilities, columns, is_local = ctx.saved_tensors
        gradient = probabilities - ctx.smoothing / ctx.classes
        gradient.scatter_add_(1, columns, -(1 - ctx.smoothing) * is_local[:, None])
        return gradient * gradients[0][:, None], None, None, None, None


def _sharded_argmax(logits: Tensor, start: int, group: RankGroup) -> tuple[Tensor, Tensor, int]:
    """Return the greatest logits (N,), their classes (N,) int64, and the bytes that this rank gave to the gather."""
    maxima, columns = logits.max(1)
    candidates = torch.stack([maxima.double(), (columns + start).double()])  # (2, N)
    shards = [torch.empty_like(candidates) for _ in range(group.size)]
    dist.all_gather(shards, candidates, group=group.process_group)
    all_maxima, all_classes = torch.stack(shards, 1)  # (size, N) each
    greatest, winners = all_maxima.max(0)
    return greatest, all_classes.gather(0, winners[None])[0].long(), candidates.nbytes


def shard_rows(count: int, shard: int, num_shards: int) -> tuple[np.ndarray, int]:
    """Return the rows of a batch that one of several processes takes: consecutive rows, the same number for each.

    Args:
        count: The number of rows of the batch.
        shard, num_shards: The shard of this process, from 0, and the number of shards.

    Returns:
        (ceil(count / num_shards),) int64, and how many of these rows count. The last shards may have rows beyond the
        end of the batch. These are the first rows again; they exist because all processes must take part.
    """
    size = -(-count // num_shards)
    return np.arange(shard * size, (shard + 1) * size) % count, max(0, min(size, count - shard * size))

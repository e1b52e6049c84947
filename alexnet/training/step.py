"""One training step as a whole: forward, loss, back, update (section 6); on a GPU replayed as one CUDA graph."""

import contextlib

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.distributed.data_parallel import no_sync
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.precision import autocast
from alexnet.training.sgd import SGD
from alexnet.utils.console import format_error

EAGER_STEPS = 3  # before a graph is captured: libraries choose their algorithms and take their memory in the first


class Step:
    """Makes training steps on batches that lie on the net's device.

    On a GPU a net of this size is done with a batch before Python has named its few hundred kernels. So a step on a
    full batch is captured once as a CUDA graph and then replayed; short batches go kernel by kernel. The rates of the
    optimiser's groups are read from the device's memory, so they may change between replays.

    Args:
        net: In training mode.
        optimiser: Its update rule.
        recipe: Says batch size, precision and label smoothing.
        graph: Whether to capture a graph where the device is a GPU and this process is alone.
        team: The processes that make the step together, and this one's part.
        micro_batch: Pictures that go through the net at a time; their gradients are added up. All by default.
    """

    def __init__(
        self,
        net: AlexNet,
        optimiser: SGD,
        recipe: Recipe,
        *,
        graph: bool = True,
        team: Team | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self.net, self.optimiser, self.recipe = net, optimiser, recipe
        self.team, self.micro_batch = team or Team(), micro_batch
        self.model = self.team.wrap_model(net)
        self.device = net.fc8.weight.device
        full_batch = (micro_batch or recipe.batch_size) >= recipe.batch_size
        self._wants_graph = graph and self.device.type == "cuda" and self.team.world_size == 1 and full_batch
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_steps = 0
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches have one size: the fastest convolution is worth a search
            self._stream = torch.cuda.Stream(self.device)

    def __call__(self, images: Tensor, labels: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
        """Make a step.

        Args:
            images: (N, 3, crop, crop) float32 centred pixels, channels_last: this process's part of the batch.
            labels: (N,) int64.
            total: Pictures of the whole batch; by default those given. What this process is given beyond its end, so
                that all have as many, does not count.

        Returns:
            This process's share of the mean loss (), and how many of its pictures were not given their class's
            greatest output (); on the device.
        """
        if self.team.data_group.size > 1 or (self.micro_batch or len(labels)) < len(labels):
            return self._in_parts(images, labels, total if total is not None else len(labels))
        if not self._wants_graph or len(labels) != self.recipe.batch_size:
            return self._eager(images, labels)
        if self._graph is None and self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            # Beside the main stream, as capturing will be: what autograd remembers of a stream must not be the main.
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self._stream):
                loss, wrong = self._eager(images, labels)
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
            return loss, wrong
        if self._graph is None:
            try:
                self._capture(images, labels)
            except RuntimeError as error:
                # What a broken capture leaves of streams, random state and memory cannot be relied on: no way on here.
                reason = format_error(error, with_type=False)
                raise ValueError(
                    f"the step must go into a CUDA graph; it does not ({reason}): try --no-graph"
                ) from error
        assert self._graph is not None
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss.clone(), self._wrong.clone()  # the next replay writes over them

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Record a step; recording computes nothing and moves no weight."""
        self._images, self._labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        self.optimiser.zero_grad()  # so that the gradients are made in the graph's own memory
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._loss, self._wrong = self._eager(self._images, self._labels)
        self._graph = graph

    def _eager(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self._draw_masks()
        with autocast(self.device, self.recipe):
            logits = self.model(images)  # (N, classes)
        if self.team.model_group.size == 1:
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
            found = logits.argmax(1)
        else:
            losses, found = self._losses(logits, labels)
            loss = losses.mean()
        self.optimiser.zero_grad()
        loss.backward()
        self._forget_masks()
        self.optimiser.step()
        return loss.detach(), (found != labels).sum()

    def _in_parts(self, images: Tensor, labels: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """A step on a part of a batch, possibly in several passes through the net."""
        data_group, count = self.team.data_group, len(labels)
        micro_batch = min(self.micro_batch or count, count)
        place = data_group.rank * count + torch.arange(count, device=self.device)  # in the whole batch
        shares, wrongs = [], []
        self._draw_masks()
        self.optimiser.zero_grad()
        for first in range(0, count, micro_batch):
            part = slice(first, min(first + micro_batch, count))
            # In "hybrid" the rows of all processes come together, each process's own after the other.
            parts = range(data_group.size) if self.team.scheme == "hybrid" else (data_group.rank,)
            self._place_masks(tuple(number * count + first for number in parts))
            real = self.team.all_rows(place[part]) < total
            with self._averaging(part.stop == count):
                with autocast(self.device, self.recipe):
                    logits = self.model(images[part])
                losses, found = self._losses(logits, self.team.all_rows(labels[part]))
                share = (losses * real).sum() / total
                # Gradients are averaged over the parts, of which each has only its own pictures' share of the mean.
                (share * (1 if self.team.scheme == "hybrid" else data_group.size)).backward()
            own = self.team.local_rows
            shares.append((own(losses.detach()) * own(real)).sum() / total)
            wrongs.append(((own(found) != labels[part]) & own(real)).sum())
        self._forget_masks()
        self.optimiser.step()
        return torch.stack(shares).sum(), torch.stack(wrongs).sum()

    def _losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return self.team.cross_entropy(logits.float(), labels, self.net.classes, self.recipe.label_smoothing)

    def _draw_masks(self) -> None:
        """Draw what this step's dropout masks are made from: the same number in all processes."""
        key = torch.randint(2**63 - 1, (1,), device=self.device)
        for dropout in self.net.dropouts():
            dropout.key = key

    def _forget_masks(self) -> None:
        """Leave the net as others expect it, drawing masks of its own."""
        for dropout in self.net.dropouts():
            dropout.key, dropout.rows = None, (0,)

    def _place_masks(self, rows: tuple[int, ...]) -> None:
        for dropout in self.net.dropouts():
            dropout.rows = rows

    def _averaging(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients are averaged over the processes in the last pass only; before they are added up in each."""
        return contextlib.nullcontext() if last else no_sync(self.model)

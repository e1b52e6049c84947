"""One training step: forward, loss, backward, update (section 6); on a GPU replayed as one CUDA graph."""

import contextlib

import torch
from torch import Tensor, nn

from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import FullyConnected
from alexnet.recipe import Recipe
from alexnet.training.precision import autocast, uses_bfloat16
from alexnet.training.sgd import SGD

EAGER_STEPS = 3  # before a graph is captured: in the first steps libraries choose algorithms and allocate memory


class Step:
    """Makes training steps on batches that are on the net's device.

    A GPU finishes a batch of a net of this size before Python has launched its few hundred kernels. So a step on a full
    batch is captured once as a CUDA graph and then replayed; short batches are launched kernel by kernel. The learning
    rates are read from the device's memory, so they may change between replays.

    Args:
        net: The net, in training mode.
        optimiser: The update rule.
        recipe: The recipe, for batch size, precision and label smoothing.
        graph: Whether to capture a graph; only on a GPU, in a single process, for batches of one micro-batch.
        team: The processes that make the step together.
        micro_batch: Pictures that go through the net at a time, whose gradients are added up; all by default.
        class_weights: (classes,) float32, factors on the losses of the pictures of each class; by default none.
        head: The layers of the net that are trained, if the batches are activities of the frozen layers before them.
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
        class_weights: Tensor | None = None,
        head: nn.Module | None = None,
    ) -> None:
        self.net, self.optimiser, self.recipe = net, optimiser, recipe
        self.team = team or Team()
        self.micro_batch = micro_batch or recipe.batch_size
        self._model = head or self.team.wrap_model(net)
        self._device = net.device
        self._dropouts = net.dropouts()
        self._class_weights = None if class_weights is None else class_weights.to(self._device)
        is_single = self.team.world_size == 1 and self.micro_batch >= recipe.batch_size
        self._uses_graph = graph and self._device.type == "cuda" and is_single
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_steps = 0
        if is_single and self._device.type == "cpu" and uses_bfloat16(self._device, recipe):
            self._keep_copies()
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all batches have one size: searching the fastest algorithm pays off
            self._stream = torch.cuda.Stream(self._device)

    def _keep_copies(self) -> None:
        """Let the fully connected layers, which have most weights, compute with bfloat16 copies of theirs."""
        for layer in self.net.layers().values():
            if isinstance(layer, FullyConnected) and layer.weight.requires_grad:
                layer.bfloat16_copy = self.optimiser.keep_copy(layer.weight)

    def __call__(self, images: Tensor, labels: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
        """Make a step.

        Args:
            images: (N, 3, crop, crop) float32 centred pixels, channels_last: this process's shard of the batch; or what
                the head reads.
            labels: (N,) int64.
            total: Pictures of the whole batch; N by default. All shards have the same size, so the last ones may have
                rows beyond the end of the batch, which do not count.

        Returns:
            This process's share of the mean loss (), and its number of errors (), on the device.
        """
        total = len(labels) if total is None else total
        if not self._uses_graph or len(labels) != self.recipe.batch_size:
            return self._make_step(images, labels, total)
        if self._graph is not None and images.shape != self._images.shape:
            self._graph, self._eager_steps = None, 0  # the training crops have another side from now on
        if self._graph is None and self._eager_steps < EAGER_STEPS:
            self._eager_steps += 1
            # On the stream of the later capture: autograd must not remember the main stream.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                result = self._make_step(images, labels, total)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            return result
        if self._graph is None:
            self._graph = self._capture(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._loss.clone(), self._errors.clone()  # the next replay overwrites them

    def _capture(self, images: Tensor, labels: Tensor) -> torch.cuda.CUDAGraph:
        """Capture a step, which computes nothing and changes no weight yet."""
        self._images, self._labels = images.clone(memory_format=torch.preserve_format), labels.clone()
        self.optimiser.zero_grad()  # so that the gradients are allocated in the graph's own memory
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._loss, self._errors = self._make_step(self._images, self._labels, len(labels))
        except RuntimeError as error:
            # A failed capture leaves streams, random state and memory undefined: the training cannot continue.
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"the step must go into a CUDA graph; it does not ({reason}): try `graph=False`"
            ) from error
        return graph

    def _make_step(self, images: Tensor, labels: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """Take one micro-batch after another, usually one, through the net, and update the weights once."""
        count = len(labels)
        starts = range(0, count, self.micro_batch)
        losses, errors = [], []
        self._draw_dropout_key()
        self.optimiser.zero_grad()
        for start, x, y in zip(starts, images.split(self.micro_batch), labels.split(self.micro_batch), strict=True):
            self._set_dropout_rows(self.team.first_rows(start, count))
            # Gradients are averaged over the processes in the last pass only; before, they are accumulated.
            is_last = start == starts[-1]
            with contextlib.nullcontext() if is_last else self.team.no_sync(self._model):
                with autocast(self._device, self.recipe):
                    logits = self._model(x)  # (n, classes)
                loss, loss_share, error_count = self._compute_loss(logits, y, start, count, total)
                loss.backward()
            losses.append(loss_share)
            errors.append(error_count)
        self._reset_dropout()
        loss = _sum(losses)
        # On a CPU it costs nothing to leave the weights as they were, so that those that caused it can be named.
        if self._device.type != "cpu" or loss.isfinite():
            self.optimiser.step()
        return loss, _sum(errors)

    def _compute_loss(
        self, logits: Tensor, labels: Tensor, start: int, count: int, total: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss of a micro-batch.

        Args:
            logits: (n, classes), the output of the model.
            labels: (n,) int64, of this process's pictures.
            start, count: The first row of the micro-batch in this process's shard, and the size of the shard.
            total: Pictures of the whole batch.

        Returns:
            The loss for the backward pass (), this process's share of the whole batch's mean loss () and its errors ().
        """
        team, classes, smoothing = self.team, self.net.classes, self.recipe.label_smoothing
        if team.data_group.size == 1 and len(labels) == total and self._class_weights is None:  # the whole batch
            loss, predicted = team.cross_entropy(logits.float(), labels, classes, smoothing, "mean")
            return loss, loss.detach(), (predicted != labels).sum()
        rows = team.data_group.rank * count + torch.arange(start, start + len(labels), device=self._device)
        counted = team.all_rows(rows) < total
        all_labels = team.all_rows(labels)
        losses, predicted = team.cross_entropy(logits.float(), all_labels, classes, smoothing)
        losses = losses * counted
        if self._class_weights is not None:
            losses = losses * self._class_weights[all_labels]
        loss_share = team.local_rows(losses.detach()).sum() / total
        errors = (team.local_rows(predicted) != labels) & team.local_rows(counted)
        return losses.sum() / total * team.loss_factor, loss_share, errors.sum()

    def _draw_dropout_key(self) -> None:
        """Draw the key of this step's dropout masks; it is the same in all processes."""
        key = torch.randint(2**63 - 1, (1,), device=self._device)
        for dropout in self._dropouts:
            dropout.key = key

    def _set_dropout_rows(self, rows: tuple[int, ...]) -> None:
        """Tell the dropout layers which rows of the whole batch they get."""
        for dropout in self._dropouts:
            dropout.rows = rows

    def _reset_dropout(self) -> None:
        """Let the dropout layers draw keys of their own again."""
        for dropout in self._dropouts:
            dropout.key, dropout.rows = None, (0,)


def _sum(values: list[Tensor]) -> Tensor:
    """Add up tensors (); a single one is returned as it is, which saves a GPU two kernels."""
    return values[0] if len(values) == 1 else torch.stack(values).sum()

"""One training step as a whole: forward, loss, back, update (section 6); on a GPU replayed as one CUDA graph."""

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.learning.measure import autocast
from alexnet.learning.sgd import SGD
from alexnet.nets.alexnet import AlexNet
from alexnet.recipe import Recipe

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
        graph: Whether to capture a graph where the device is a GPU.
    """

    def __init__(self, net: AlexNet, optimiser: SGD, recipe: Recipe, *, graph: bool = True) -> None:
        self.net, self.optimiser, self.recipe = net, optimiser, recipe
        self.device = net.fc8.weight.device
        self._wants_graph = graph and self.device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._eager_steps = 0
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # batches have one size: the fastest convolution is worth a search
            self._stream = torch.cuda.Stream(self.device)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Make a step.

        Args:
            images: (N, 3, crop, crop) float32 centred pixels, channels_last.
            labels: (N,) int64.

        Returns:
            The mean loss (), and how many pictures were not given their class's greatest output (); on the device.
        """
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
                reason = " ".join(str(error).split())[:200]
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
        with autocast(self.device, self.recipe):
            logits = self.net(images)  # (N, classes)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.detach(), (logits.argmax(1) != labels).sum()

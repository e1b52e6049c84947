"""The transfer of batches to a GPU: one batch ahead, on a CUDA stream of its own, while the network computes."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

_Host = TypeVar("_Host")
_Tensors = tuple[Tensor, ...]
_Transfer = tuple[_Host, _Tensors, torch.cuda.Event | None]


@dataclass(frozen=True)
class HostBatch:
    """A batch in host memory as it is copied to a GPU: crops as bytes, and the other steps of their augmentation.

    Attributes:
        crops: (N, crop, crop, 3) uint8.
        reflect: (N,) bool.
        colour_shift: (N, 3) float32, what is added to red, green and blue.
        labels: (N,) int64.
        draws: (N,) int64, which pictures, as `Loader.batch_draws` numbers them.
    """

    crops: Tensor
    reflect: Tensor
    colour_shift: Tensor
    labels: Tensor
    draws: np.ndarray

    @classmethod
    def empty(cls, draws: np.ndarray, crop: int, pinned: bool) -> "HostBatch":
        """Return a batch whose tensors are not initialised yet; torch caches and reuses pinned memory."""
        count = len(draws)

        def allocate(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, pin_memory=pinned)

        return cls(
            allocate(count, crop, crop, 3, dtype=torch.uint8),
            allocate(count, dtype=torch.bool),
            allocate(count, 3, dtype=torch.float32),
            allocate(count, dtype=torch.int64),
            draws,
        )

    def to(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return crops, reflect, colour_shift and labels on a device; the copies may still be running."""
        tensors = (self.crops, self.reflect, self.colour_shift, self.labels)
        return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


def prefetch_to_device(
    host_batches: Iterable[_Host], transfer: Callable[[_Host], _Tensors], device: torch.device
) -> Generator[tuple[_Host, _Tensors], None, None]:
    """Yield batches with their tensors on a device. Each transfer begins before the previous batch is yielded.

    Args:
        host_batches: Batches in host memory. If it is not pinned, the host waits for each copy.
        transfer: Starts the copies of a batch and the work on the device. On a GPU it runs on a stream of its own.
        device: The device to copy to.

    Yields:
        A batch and its tensors, ready for the stream that is the current one at that moment.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:  # what `transfer` reads on the device may still be computed
        stream.wait_stream(torch.cuda.current_stream(device))
    pending: _Transfer[_Host] | None = None
    for host_batch in host_batches:
        with torch.cuda.stream(stream):
            tensors = transfer(host_batch)
            event = stream.record_event() if stream is not None else None
        if pending is not None:
            yield _wait_on_current_stream(pending, device)
        pending = host_batch, tensors, event
    if pending is not None:
        yield _wait_on_current_stream(pending, device)


def _wait_on_current_stream(pending: _Transfer[_Host], device: torch.device) -> tuple[_Host, _Tensors]:
    """Let the current stream wait for a transfer, but not the host; return the batch and its tensors."""
    host_batch, tensors, event = pending
    if event is not None:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(stream)  # else its memory may be reused for the next batch while it is still read
    return host_batch, tensors

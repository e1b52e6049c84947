"""Batches on their way to a GPU: sent one ahead, on a stream of their own, while the net computes on another."""

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import torch
from torch import Tensor

Host = TypeVar("Host")
Tensors = tuple[Tensor, ...]
Sent = tuple[Host, Tensors, torch.cuda.Event | None]


def prefetch_to_device(
    made: Iterable[Host], send: Callable[[Host], Tensors], device: torch.device
) -> Generator[tuple[Host, Tensors], None, None]:
    """Each batch with what `send` makes of it on the device, begun before the batch in front of it is handed over.

    Args:
        made: Batches in the computer's memory; in pinned memory, or the computer waits for each copy.
        send: Starts the copies, and what is to be done on the device; runs on a stream of its own where that is a GPU.
        device: Where to.

    Yields:
        A batch and its tensors, for the stream that is the current one when it is asked for.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:  # what `send` reads on the device may be in the making
        stream.wait_stream(torch.cuda.current_stream(device))
    waiting: Sent[Host] | None = None
    for host in made:
        with torch.cuda.stream(stream):
            tensors = send(host)
            event = stream.record_event() if stream is not None else None
        if waiting is not None:
            yield _received(waiting, device)
        waiting = host, tensors, event
    if waiting is not None:
        yield _received(waiting, device)


def _received(sent: Sent[Host], device: torch.device) -> tuple[Host, Tensors]:
    """A batch that the current stream may use: it waits for the batch, and the computer does not."""
    host, tensors, event = sent
    if event is not None:
        stream = torch.cuda.current_stream(device)
        stream.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(stream)  # else its memory may be given to the next batch while it is read here
    return host, tensors

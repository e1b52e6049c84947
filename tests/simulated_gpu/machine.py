"""`torch.cuda` of the simulated machine."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # imports nothing of CUDA as long as torch seems to have been built without it
import torch._inductor


def index_of(device: Any) -> int:
    """The number of a GPU; the current one's where none is named."""
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return torch.cuda.current_device() if index is None else index


class Stream:
    """Everything is done at once, so that nothing needs to be waited for."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.device = torch.device("cuda", index_of(device))

    def wait_stream(self, stream: "Stream") -> None:
        """Wait for what was begun in another stream."""

    def wait_event(self, event: "Event") -> None:
        """Wait for what was begun before an event."""

    def record_event(self, event: "Event | None" = None) -> "Event":
        """An event after what was begun so far."""
        return event or Event()


class Event:
    """As `Stream`."""

    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        """Put it after what was begun so far."""

    def synchronize(self) -> None:
        """Wait for it."""


class OnDevice:
    """Makes a GPU the current one in a block."""

    def __init__(self, device: Any) -> None:
        self.index = index_of(device)

    def __enter__(self) -> None:
        self.old = torch.cuda.current_device()
        torch.cuda.set_device(self.index)

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_device(self.old)


class OnDeviceOf(OnDevice):
    """Makes the GPU of a tensor the current one; of a tensor on the CPU, none."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__(tensor.device if tensor.is_cuda else None)


class OnStream(OnDevice):
    """Makes the GPU of a stream the current one."""

    def __init__(self, stream: Stream | None) -> None:
        super().__init__(stream.device if stream is not None else None)


def copied(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """A copy of memory, where it lies."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).clone().untyped_storage()


def always(value: Any) -> Callable[..., Any]:
    """A function that returns a value, whatever it is given."""
    return lambda *_, **__: value


def install(library: ctypes.CDLL) -> None:
    """Let torch.cuda describe this machine."""

    def count() -> int:
        return int(os.environ["SIMULATED_GPUS"]) if os.environ.get("CUDA_VISIBLE_DEVICES") != "" else 0

    found: dict[str, Any] = {
        "_lazy_init": always(None),
        "_is_compiled": always(True),
        "is_available": lambda: count() > 0,
        "is_initialized": always(True),
        "is_bf16_supported": always(True),
        "is_current_stream_capturing": always(False),
        "get_device_capability": always((9, 0)),
        "device_count": count,
        "current_device": library.simulated_current,
        "set_device": lambda device: library.simulated_set_current(index_of(device)),
        "synchronize": always(None),
        "_sleep": always(None),
        "manual_seed_all": always(None),  # the CPU's kernels draw from its own stream
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "Stream": Stream,
        "Event": Event,
        "stream": OnStream,
        "current_stream": Stream,
        "device": OnDevice,
        "device_of": OnDeviceOf,
    }
    for name, value in found.items():
        setattr(torch.cuda, name, value)
    torch.UntypedStorage.clone = copied  # type: ignore[method-assign]
    torch.Tensor.record_stream = always(None)  # type: ignore[method-assign]

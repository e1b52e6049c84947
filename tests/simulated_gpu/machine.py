"""`torch.cuda` of the simulated machine."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # imports nothing of CUDA as long as torch seems to have been built without it
import torch._inductor


def _device_index(device: Any) -> int:
    """Return the number of a GPU; of the current one if `device` names none."""
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return torch.cuda.current_device() if index is None else index


class Stream:
    """A stream in which every operation is complete at once, so nothing has to wait."""

    def __init__(self, device: Any = None, **_: Any) -> None:
        self.device = torch.device("cuda", _device_index(device))

    def wait_stream(self, stream: "Stream") -> None:
        """Wait for the operations of another stream."""

    def wait_event(self, event: "Event") -> None:
        """Wait for the operations before an event."""

    def record_event(self, event: "Event | None" = None) -> "Event":
        """Return an event after the operations so far."""
        return event or Event()


class Event:
    """An event that is always complete."""

    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        """Put the event after the operations so far."""

    def synchronize(self) -> None:
        """Wait for the event."""


class OnDevice:
    """Makes a GPU the current one in a block."""

    def __init__(self, device: Any) -> None:
        self.index = _device_index(device)

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


def _clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Return a copy of memory, on the same device."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).clone().untyped_storage()


def _always(value: Any) -> Callable[..., Any]:
    """Return a function that returns a value for any arguments."""
    return lambda *_, **__: value


def install(library: ctypes.CDLL) -> None:
    """Replace the functions and classes of torch.cuda."""

    def count() -> int:
        return int(os.environ["SIMULATED_GPUS"]) if os.environ.get("CUDA_VISIBLE_DEVICES") != "" else 0

    replacements: dict[str, Any] = {
        "_lazy_init": _always(None),
        "_is_compiled": _always(True),
        "is_available": lambda: count() > 0,
        "is_initialized": _always(True),
        "is_bf16_supported": _always(True),
        "is_current_stream_capturing": _always(False),
        "get_device_capability": _always((9, 0)),
        "device_count": count,
        "current_device": library.simulated_current,
        "set_device": lambda device: library.simulated_set_current(_device_index(device)),
        "synchronize": _always(None),
        "_sleep": _always(None),
        "manual_seed_all": _always(None),  # the CPU's kernels draw from its own stream
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "Stream": Stream,
        "Event": Event,
        "stream": OnStream,
        "current_stream": Stream,
        "device": OnDevice,
        "device_of": OnDeviceOf,
    }
    for name, value in replacements.items():
        setattr(torch.cuda, name, value)
    torch.UntypedStorage.clone = _clone  # type: ignore[method-assign]
    torch.Tensor.record_stream = _always(None)  # type: ignore[method-assign]

"""Stopping a training by a signal, after the current step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class StopRequest:
    """A request to stop the training.

    Args:
        signal: The number of the signal that this process has received; None before.
        agreed: Whether all processes know of a request and stop after the same step.
    """

    signal: int | None = None
    agreed: bool = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Let Ctrl-C and SIGTERM request a stop after the current step; a second Ctrl-C ends the process at once."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers; the caller decides what they do there
        return

    def handle(number: int, _: object) -> None:
        stop.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

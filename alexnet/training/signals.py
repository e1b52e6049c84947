"""Stopping a training by a signal, after the current step."""

import contextlib
import os
import signal
import threading
import time
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
def stop_at(deadline: float | None) -> Iterator[None]:
    """Let the trainings in the block stop at a time as at SIGTERM, after the current step.

    Args:
        deadline: The time on the monotonic clock; None for never.
    """
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # Outside a training, which has a handler of its own, the signal must not end the process.
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    is_left = threading.Event()

    def terminate() -> None:
        delay = max(0.0, deadline - time.monotonic())
        while not is_left.wait(delay):
            os.kill(os.getpid(), signal.SIGTERM)
            delay = 1.0  # once more, in case the training had not begun

    thread = threading.Thread(target=terminate, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_left.set()
        thread.join()
        signal.signal(signal.SIGTERM, previous)


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

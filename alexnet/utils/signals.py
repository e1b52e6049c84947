"""What a command that a signal has stopped ends with."""

from signal import SIGINT


class SignalInterrupt(KeyboardInterrupt):
    """A signal has stopped the command, as Ctrl-C does; the same command resumes what can be resumed.

    Args:
        signal: The number of the signal; None for that of Ctrl-C.
    """

    def __init__(self, signal: int | None) -> None:
        super().__init__()
        self.signal = SIGINT if signal is None else signal

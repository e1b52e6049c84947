"""What a command that a signal has stopped ends with."""


class SignalInterrupt(KeyboardInterrupt):
    """A signal has stopped the command, as Ctrl-C does; the same command resumes what can be resumed.

    Args:
        signal: The number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal

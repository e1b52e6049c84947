"""Progress on standard error: a bar on a terminal, else a line at least every minute."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from alexnet.utils.console import format_duration

LINE_SECONDS = 60.0  # between two lines where standard error is not a terminal


class Progress:
    """How much of some work is done.

    Args:
        label: What is done.
        total: How much there is to do.
        unit: What is counted, in the plural.
        done: How much an earlier call has done.
        shown: Whether to show anything.
    """

    def __init__(self, label: str, total: int, unit: str, *, done: int = 0, shown: bool = True) -> None:
        is_terminal = sys.stderr.isatty()
        self._label, self._total, self._unit = label, total, unit
        self._done, self._done_before = done, done
        self._prints_lines = shown and not is_terminal
        self._start_time = self._line_time = time.monotonic()
        self._bar = tqdm(
            desc=label, total=total, initial=done, unit=f" {unit}", leave=False, disable=not (shown and is_terminal)
        )

    def update(self, count: int = 1, note: str = "") -> None:
        """Add to what is done, and show it.

        Args:
            count: How much more is done.
            note: What else to show.
        """
        self._done += count
        self._bar.update(count)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        now = time.monotonic()
        if self._prints_lines and now - self._line_time >= LINE_SECONDS:
            self._line_time = now
            left = (now - self._start_time) / max(self._done - self._done_before, 1) * (self._total - self._done)
            texts = [
                f"{self._label}: {self._done:,} of {self._total:,} {self._unit}",
                note,
                f"{format_duration(left)} left",
            ]
            print(", ".join(filter(None, texts)), file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

"""Progress on standard error: a bar on a terminal, else a line from time to time, at least every minute."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from alexnet.utils.console import format_duration

LINE_SECONDS = 60.0  # between two lines where standard error is not a terminal
EARLY_SECONDS = 5.0  # before an early first line


class Progress:
    """How much of some work is done.

    Args:
        label: What is done.
        total: How much there is to do.
        unit: What is counted, in the plural.
        done: How much an earlier call has done.
        shown: Whether to show anything.
        early_line: Whether the first line comes after five seconds, as for work of minutes.
    """

    def __init__(
        self, label: str, total: int, unit: str, *, done: int = 0, shown: bool = True, early_line: bool = False
    ) -> None:
        is_terminal = sys.stderr.isatty()
        self._label, self._total, self._unit = label, total, unit
        self._done, self._done_before = done, done
        self._prints_lines = shown and not is_terminal
        self._start_time = time.monotonic()
        self._next_line_time = self._start_time + (EARLY_SECONDS if early_line else LINE_SECONDS)
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
        if self._prints_lines and now >= self._next_line_time:
            self._next_line_time = now + LINE_SECONDS
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

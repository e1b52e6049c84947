"""The progress of `prepare` on standard error: a bar on a terminal, else a line from time to time."""

import sys
import time

from tqdm import tqdm

LINE_SECONDS = 30.0  # between two lines if standard error is not a terminal


class ProgressReport:
    """Shows how many pictures all processes have prepared, the rate and the time left.

    Args:
        total: Number of pictures.
        done: Number of pictures that earlier calls have prepared.
        shown: Whether to show anything.
    """

    def __init__(self, total: int, done: int, shown: bool) -> None:
        self._total, self._done_before, self._done = total, done, done
        self._prints_lines = shown and not sys.stderr.isatty()
        self._start_time = self._last_line_time = time.monotonic()
        self._bar = tqdm(
            total=total, initial=done, unit=" pictures", disable=None if shown else True, dynamic_ncols=True
        )

    def update(self, prepared: int) -> None:
        """Show that all processes together have prepared so many pictures since the start of this call."""
        done = self._done_before + prepared
        self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._prints_lines and now - self._last_line_time >= LINE_SECONDS:
            self._last_line_time = now
            rate = prepared / (now - self._start_time)
            time_left = tqdm.format_interval((self._total - done) / rate)
            print(f"prepare: {done:,} of {self._total:,} pictures, {rate:,.0f}/s, {time_left} left", file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

"""The limit on files that are not readable pictures."""

import json
from typing import NoReturn

from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.prepare.record import read_skipped_lines
from alexnet.data.store.format import SKIPPED_FILE
from alexnet.distributed.coordinator import Coordinator
from alexnet.utils.files import write_atomic

_ALWAYS_ALLOWED = 2  # so many never stop the work, however few pictures there are, unless none is allowed


class FailureLimit:
    """Counts the files that all processes skip, and stops the work when there are too many.

    Args:
        plan: The plan of the store.
        max_failures: Share of the files that may be skipped.
        coordinator: The processes that share the work.
    """

    def __init__(self, plan: Plan, max_failures: float, coordinator: Coordinator) -> None:
        self._plan, self._coordinator = plan, coordinator
        self.allowed = max(_ALWAYS_ALLOWED, int(max_failures * plan.picture_count)) if max_failures > 0 else 0

    def add(self, skipped: int, shard: Shard | None = None, skipped_lines: bytes = b"") -> None:
        """Count files that were skipped. Only the process that exceeds the limit raises the error.

        Args:
            skipped: Number of files skipped since the last call.
            shard: The shard they belong to, if it has no record yet.
            skipped_lines: The lines of skipped.jsonl for that shard.

        Raises:
            ValueError: There are now too many.
        """
        if skipped:
            count = self._coordinator.add("skipped", skipped)
            if count - skipped <= self.allowed < count:
                self._fail(count, shard, skipped_lines)

    def _fail(self, count: int, shard: Shard | None, skipped_lines: bytes) -> NoReturn:
        """Write skipped.jsonl, so that the user can look at the files, and raise the error."""
        store = self._plan.store
        lines = b""
        for other in self._plan.shards:
            if other == shard:
                lines += skipped_lines
            elif (store / other.record_name).exists():
                lines += read_skipped_lines(store / other.record_name)
        write_atomic(store / SKIPPED_FILE, lines)
        last = json.loads(lines.splitlines()[-1])
        raise ValueError(
            f"{store}: {count} of {self._plan.picture_count} files are not readable pictures, but only {self.allowed} "
            f"are allowed; the last is {last['name']} ({last['reason']}); see {store / SKIPPED_FILE}: raise "
            "`max_failures` to go on without them, or repair or remove them, remove the store and prepare it again"
        )

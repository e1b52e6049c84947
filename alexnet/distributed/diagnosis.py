"""Diagnosis of processes that train together: which of them hangs, is lost or has failed, from their statuses."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexnet.distributed.status import Status

_FIRST_STEP_SECONDS = 300.0  # the least timeout before the second progress report: kernels are compiled
_MAX_NAMED = 4  # processes that one line names

Statuses = Mapping[int, Status | None]
"""The statuses of some processes by rank; None for one that has published nothing yet."""


@dataclass
class StatusHistory:
    """The latest status of a process, and the times of its last heartbeat and of its last progress.

    Times are in seconds, by the clock of the process that reads the statuses.
    """

    status: Status | None = None
    heartbeat_time: float = 0.0
    progress_time: float = 0.0

    def update(self, status: Status | None, now: float) -> None:
        """Compare the status that was read at `now` with the one before."""
        if status and (self.status is None or status.heartbeats != self.status.heartbeats):
            if self.status is None or (status.reports, status.state) != (self.status.reports, self.status.state):
                self.progress_time = now
            self.status, self.heartbeat_time = status, now


def diagnose(histories: Sequence[StatusHistory], now: float, timeout: float, short_timeout: float) -> str | None:
    """Find the processes that hang, are lost or have failed.

    Args:
        histories: The history of each rank.
        now: The time by the clock of `histories`, in seconds.
        timeout: After how many seconds without a heartbeat, or without progress, a process has failed.
        short_timeout: The same for one without a heartbeat while others are disconnected or terminating.

    Returns:
        The first part of an error message; empty if the failed process has reported the error itself; None as long as
        all is well.
    """
    statuses = {rank: h.status for rank, h in enumerate(histories) if h.status is None or h.status.state != "done"}
    stopping = any(status and status.state in ("disconnected", "terminating") for status in statuses.values())
    for rank, status in list(statuses.items()):
        if status and status.state in ("failed", "reported"):
            if stopping or now - histories[rank].heartbeat_time > short_timeout:
                failure = f"{format_processes({rank: status})} failed with {status.note}, {format_step(status)}"
                return failure if status.state == "failed" else ""
            del statuses[rank]
    patience = short_timeout if stopping else timeout
    silent = {rank: status for rank, status in statuses.items() if now - histories[rank].heartbeat_time > patience}
    if silent:
        if stopping:
            problem = "was lost" if len(silent) == 1 else "were lost"
        else:
            problem = f"sent no heartbeat for {timeout:g} s"
        # Their last status may be old. The others cannot be further than the step in which they wait for them.
        others = {rank: status for rank, status in statuses.items() if rank not in silent}
        return f"{format_processes(silent)} {problem}, {format_step(_earliest(others) or _earliest(silent))}"
    return _diagnose_hang(histories, statuses, now, timeout)


def _diagnose_hang(histories: Sequence[StatusHistory], statuses: Statuses, now: float, timeout: float) -> str | None:
    """Find the processes that hang, where all send heartbeats."""
    first = _earliest(statuses)
    if first is None:
        return None
    patience = max(timeout, _FIRST_STEP_SECONDS) if first.reports < 2 else timeout
    # The others may wait for a process that still makes progress, as for the main process when it writes for all.
    if any(now - histories[rank].progress_time <= patience for rank in statuses):
        return None
    behind = {rank: status for rank, status in statuses.items() if status and status.position == first.position}
    if len(behind) < len(statuses):
        return f"{format_processes(behind)} made no progress for {patience:g} s, {format_step(first)}, {first.note}"
    return f"no process made progress for {patience:g} s, {format_step(first)}: {_format_lines_of_code(behind)}"


def _earliest(statuses: Statuses) -> Status | None:
    """Return the status that is furthest behind."""
    return min((status for status in statuses.values() if status), key=lambda status: status.position, default=None)


def _format_lines_of_code(statuses: Mapping[int, Status]) -> str:
    """Say which processes execute which line; those that differ from most come first, as most wait for them."""
    by_line: dict[str, dict[int, Status | None]] = defaultdict(dict)
    for rank, status in statuses.items():
        by_line[status.note][rank] = status
    rarest_first = sorted(by_line.items(), key=lambda entry: len(entry[1]))
    return "; ".join(f"{format_processes(ranks)} {line}" for line, ranks in rarest_first[:_MAX_NAMED])


def format_processes(statuses: Statuses) -> str:
    """Name processes and their machines: "process 1 (machine a, pid 12)"."""
    texts = [
        f"process {rank} (machine {status.machine}, pid {status.pid})" if status else f"process {rank} (no status yet)"
        for rank, status in statuses.items()
    ]
    more = f" and {len(texts) - _MAX_NAMED} more" if len(texts) > _MAX_NAMED else ""
    return ", ".join(texts[:_MAX_NAMED]) + more


def format_step(status: Status | None) -> str:
    """Name the step of a process: "in step 37 (training)"."""
    return f"in step {status.step} ({status.phase})" if status else "before its first step"

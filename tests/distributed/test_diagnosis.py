"""The diagnosis of a failed process from the statuses of all."""

import pytest

from alexnet.distributed.diagnosis import StatusHistory, diagnose
from alexnet.distributed.status import Status


def history(
    step: int,
    *,
    reports_in_step: int = 0,
    state: str = "running",
    note: str = "",
    heartbeat_time: float = 99,
    progress_time: float = 0,
) -> StatusHistory:
    """The history of a process at 100 seconds; its process id is its step."""
    status = Status("m", step, step, "training", reports_in_step, 7, 9, state, note)
    return StatusHistory(status, heartbeat_time, progress_time)


@pytest.mark.parametrize(
    ("histories", "expected"),
    [
        ([history(3), history(3, progress_time=80)], None),  # the others may wait for one that makes progress
        (
            [history(3, note="at a.py:1"), history(4)],
            "process 0 (machine m, pid 3) made no progress for 60 s, in step 3 (training), at a.py:1",
        ),
        (
            [history(4), history(4, reports_in_step=1), history(4, reports_in_step=1)],
            "process 0 (machine m, pid 4) made no progress",
        ),
        (
            [history(3, note="x"), history(3, note="y"), history(3, note="x")],
            "no process made progress for 60 s, in step 3 (training): process 1 (machine m, pid 3) y; "
            "process 0 (machine m, pid 3), process 2 (machine m, pid 3) x",
        ),
        (
            [history(3), history(2, heartbeat_time=30), history(4)],
            "process 1 (machine m, pid 2) sent no heartbeat for 60 s, in step 3",
        ),
        ([history(3), history(2, heartbeat_time=95), history(4, progress_time=98)], None),
        (
            [history(3, state="disconnected"), history(2, heartbeat_time=95)],
            "process 1 (machine m, pid 2) was lost, in step 3 (training)",
        ),
        (
            [history(3, state="terminating"), history(2, heartbeat_time=95)],
            "process 1 (machine m, pid 2) was lost, in step 3 (training)",
        ),
        # They end when their step is done.
        ([history(3, state="terminating", progress_time=98), history(2, state="terminating")], None),
        ([history(3, progress_time=98), history(2, state="done", heartbeat_time=1)], None),
        # The other process may fail with the same error.
        ([history(3, progress_time=98), history(2, state="failed", note="x", heartbeat_time=98)], None),
        (
            [history(3, state="disconnected"), history(2, state="failed", note="MemoryError: no")],
            "process 1 (machine m, pid 2) failed with MemoryError: no, in step 2 (training)",
        ),
        (
            [history(3, progress_time=98), StatusHistory()],
            "process 1 (no status yet) sent no heartbeat for 60 s, in step 3",
        ),
        (
            [history(3, progress_time=98), *[history(2, heartbeat_time=0)] * 6],
            ", process 4 (machine m, pid 2) and 2 more sent no heartbeat",
        ),
    ],
)  # fmt: skip
def test_the_failed_process_has_no_heartbeat_or_is_furthest_behind(
    histories: list[StatusHistory], expected: str | None
) -> None:
    diagnosis = diagnose(histories, now=100, timeout=60, short_timeout=3)
    assert diagnosis is None if expected is None else expected in (diagnosis or "")


def test_the_first_step_may_take_long() -> None:
    compiling = StatusHistory(Status("m", 1, 1, "training", 0, 1, 9, "running", ""), 99, 0)
    assert diagnose([compiling] * 2, now=100, timeout=60, short_timeout=3) is None
    late = [StatusHistory(compiling.status, 399, 0)] * 2
    assert "no process made progress for 300 s" in (diagnose(late, now=400, timeout=60, short_timeout=3) or "")

"""The watchdog: a process that is killed, stopped or out of reach is named, a slow one is not."""

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import torch.distributed as dist
from build_once import build_once
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from alexnet.distributed import watchdog as watchdog_module
from alexnet.distributed.status import Status, StatusBoard
from alexnet.distributed.watchdog import MONITORS, Watchdog, is_collective_error, run_watchdog

FOLDER = Path(__file__).parent
MACHINE = socket.gethostname()
REMEDY = ": all processes end; torchrun restarts them from the last checkpoint if --max-restarts allows it"

Output = tuple[int, list[str], dict[str, int]]
"""An exit status, the lines that were printed, and the process id of rank 1 for each event."""


@pytest.fixture(scope="module")
def output(warm_python: str, request: pytest.FixtureRequest) -> Output:
    """The output of watchdog_worker.py with three restarts."""
    folder = build_once(request, "watchdog", lambda folder: run_watchdog_worker(warm_python, folder))
    status, lines, pids = json.loads((folder / "output.json").read_text())
    return status, lines, pids


def run_watchdog_worker(python: str, folder: Path) -> None:
    """Write the exit status, the lines and the process ids to a file."""
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3"]
    command += [str(FOLDER / "watchdog_worker.py")]
    path = os.pathsep.join([str(FOLDER), str(FOLDER.parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    lines: list[str] = []
    pids: dict[str, int] = {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("SIG"):
                event, pid = line.split(": ")
                pids[event] = int(pid)
            if "sent no heartbeat" in line:  # torchrun would kill it too, half a minute later
                os.kill(pids["SIGSTOP"], signal.SIGKILL)
    (folder / "output.json").write_text(json.dumps([process.returncode, lines, pids]))


def test_a_killed_process_is_named_with_its_machine_and_step(output: Output) -> None:
    _, lines, pids = output
    assert (
        f"alexnet: process 1 (machine {MACHINE}, pid {pids['SIGKILL']}) was lost, in step 5 (training)" + REMEDY
        in lines
    )


def test_a_killed_process_is_named_where_no_collective_fails(output: Output) -> None:
    _, lines, pids = output
    name = f"process 1 (machine {MACHINE}, pid {pids['SIGKILL without error']})"
    assert f"alexnet: {name} was lost, in step 6 (training)" + REMEDY in lines


def test_a_stopped_process_is_named_with_its_machine_and_step(output: Output) -> None:
    _, lines, pids = output
    name = f"process 1 (machine {MACHINE}, pid {pids['SIGSTOP']})"
    assert f"alexnet: {name} sent no heartbeat for 3 s, in step 7 (training)" + REMEDY in lines


def test_each_failure_is_reported_once_and_a_slow_process_is_not_one(output: Output) -> None:
    status, lines, _ = output
    assert status == 0, "\n".join(lines)
    assert {"end 0", "end 1"} <= set(lines)
    assert sum("alexnet: " in line for line in lines) == 3


@pytest.fixture
def final_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that processes print as they terminate; here each is a watchdog of this one process."""
    lines: list[str] = []
    monkeypatch.setattr(watchdog_module, "terminate", lines.append)
    return lines


def wait_for_end(watchdog: Watchdog) -> None:
    """Wait until a watchdog terminates its process."""
    assert watchdog.thread is not None
    watchdog.thread.join()


def test_if_all_processes_hang_one_reports_the_line_of_code_of_each(final_lines: list[str]) -> None:
    store = HashStore()
    watchdogs = [Watchdog(rank, 2, 0.5, PrefixStore("watchdog", store)) for rank in range(2)]
    for watchdog in watchdogs:
        watchdog.report_progress(1, "training")
        watchdog.report_progress(2, "training")
        watchdog.start()
    for watchdog in watchdogs:
        wait_for_end(watchdog)
        watchdog.stop("failed")
    assert sorted(map(bool, final_lines)) == [False, True]
    expected = "no process made progress for 0.5 s, in step 2 (training): process 0 (machine "
    assert max(final_lines).startswith(expected)
    assert "at test_watchdog.py:" in max(final_lines)


class UnreachableStore(Store):
    """A store whose machine is gone: calls fail, or never return."""

    def __init__(self, calls_fail: bool) -> None:
        super().__init__()
        self.calls_fail, self.calls, self.released = calls_fail, 0, threading.Event()

    def set(self, key: str, value: str) -> None:  # noqa: ARG002
        self.calls += 1
        if self.calls > 1 and self.calls_fail:
            raise dist.DistNetworkError("Connection reset by peer")
        if self.calls > 1:
            self.released.wait()

    def check(self, keys: list[str]) -> bool:  # noqa: ARG002
        return False


@pytest.mark.parametrize("calls_fail", [True, False])
def test_an_unreachable_store_ends_a_process_which_names_the_machine_of_the_store(
    calls_fail: bool, final_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "far")
    store = UnreachableStore(calls_fail)
    watchdog = Watchdog(1, 2, 0.5, store)
    watchdog.report_progress(7, "training")
    watchdog.start()
    wait_for_end(watchdog)
    store.released.set()
    watchdog.stop("failed")
    name = f"process 1 (machine {MACHINE}, pid {os.getpid()})"
    assert final_lines == [f"{name} cannot reach process 0 (machine far), in step 7 (training)" + REMEDY]


def test_a_disconnected_process_that_finds_no_lost_one_reports_itself(final_lines: list[str]) -> None:
    store = HashStore()
    watchdogs = [Watchdog(rank, 2, 0.5, PrefixStore("watchdog", store)) for rank in range(2)]
    for watchdog in watchdogs:
        watchdog.report_progress(4, "training")
        watchdog.start()
    watchdogs[0].short_timeout = 0.2
    line = watchdogs[0].diagnose_disconnect(RuntimeError("gloo: Connection closed by peer"))
    watchdogs[0].stop("failed")
    wait_for_end(watchdogs[1])
    watchdogs[1].stop("failed")
    name = f"process 0 (machine {MACHINE}, pid {os.getpid()})"
    assert line.startswith(f"{name} lost the connection to another")
    assert final_lines == [""]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (RuntimeError("NCCL communicator was aborted on rank 0"), True),
        (dist.DistBackendError("anything"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # for example of an object store
    ],
)
def test_an_error_of_a_collective_is_recognised(error: Exception, expected: bool) -> None:
    assert is_collective_error(error) == expected


def test_the_status_that_is_read_is_the_one_that_was_published() -> None:
    store = HashStore()
    watchdog, board = Watchdog(1, 2, 60, store), StatusBoard(store, 2)
    watchdog.report_progress(3, "training")
    watchdog.report_progress(3, "validation")
    watchdog._send_heartbeat(board)
    missing, status = board.read_all()
    assert missing is None
    assert status == Status(MACHINE, os.getpid(), 3, "validation", 1, 2, 1, "running", "")
    assert json.loads(store.get("status/1"))[0] == MACHINE


@pytest.mark.parametrize(("world_size", "timeout"), [(2, 300), (17, 60), (1024, 300)])
def test_many_processes_do_not_flood_the_store(world_size: int, timeout: float) -> None:
    watchdogs = [Watchdog(rank, world_size, timeout, None) for rank in range(world_size)]
    monitors = sum(watchdog.is_monitor for watchdog in watchdogs)
    assert min(world_size, 2) <= monitors <= MONITORS
    assert world_size / watchdogs[0].interval <= 256


def test_a_single_process_has_no_watchdog_threads() -> None:
    before = threading.active_count()
    with run_watchdog() as watchdog:
        watchdog.report_progress(1, "training")
        assert threading.active_count() == before


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_the_timeout_must_be_positive_and_finite(timeout: float) -> None:
    with pytest.raises(ValueError, match=f"must be above 0 and finite; got {timeout}"), run_watchdog(timeout):
        pass

"""Processes that train together: one killed, stopped, deadlocked or out of reach is named, a slow one left alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed import HashStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from alexnet.distributed import watchdog as module
from alexnet.distributed.diagnosis import Heard, Sign, judge
from alexnet.distributed.watchdog import READERS, Watchdog, lost, of_a_collective, watched

ROOT = Path(__file__).parents[2]
MACHINE = socket.gethostname()
LINE = ": all that are left end; torchrun starts all again from the last checkpoint where --max-restarts allows"

# Each start of the processes has its own fate: the culprit is killed, is stopped, and at last is slow only.
SCRIPT = """
import os, signal, sys, threading, time, torch
import torch.distributed as dist
from alexnet.distributed.watchdog import watched

signal.signal(signal.SIGTERM, lambda *_: None)  # as the training, which ends when the step is done
dist.init_process_group("gloo")
rank = dist.get_rank()
fates = [("SIGKILL", 5), ("SIGSTOP", 7), ("SIGKILL unheard", 6), ("slow", None)]
fate, at = fates[int(os.environ["TORCHELASTIC_RESTART_COUNT"])]
with watched(seconds=3) as watch:
    for step in range(10):
        watch.heartbeat(step, "training")
        if rank == 1 and step == at:
            print(f"{fate}: {os.getpid()}", flush=True)
            os.kill(os.getpid(), getattr(signal, fate.split()[0]))
        if rank == 1 and fate == "slow":
            time.sleep(0.5)
        if fate == "SIGKILL unheard" and step == at:
            threading.Event().wait()  # for what NCCL will never end
        dist.all_reduce(torch.ones(1))
print("end", rank, flush=True)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[str], dict[str, int]]:
    """Exit status, lines, and the culprits' process numbers of SCRIPT under torchrun with three restarts."""
    script = tmp_path_factory.mktemp("watch") / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    lines: list[str] = []
    culprits: dict[str, int] = {}
    with subprocess.Popen(
        [*torchrun, "--max-restarts", "3", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("SIG"):
                fate, number = line.split(": ")
                culprits[fate] = int(number)
            if "has said nothing" in line:  # torchrun would kill it too, half a minute later
                os.kill(culprits["SIGSTOP"], signal.SIGKILL)
    return process.returncode, lines, culprits


def test_a_killed_process_is_named_with_its_machine_and_step(told: tuple[int, list[str], dict[str, int]]) -> None:
    _, lines, culprits = told
    assert (
        f"alexnet: process 1 (machine {MACHINE}, pid {culprits['SIGKILL']}) is lost, in step 5 (training)" + LINE
        in lines
    )


def test_a_killed_process_is_named_where_no_collective_fails(told: tuple[int, list[str], dict[str, int]]) -> None:
    _, lines, culprits = told
    name = f"process 1 (machine {MACHINE}, pid {culprits['SIGKILL unheard']})"
    assert f"alexnet: {name} is lost, in step 6 (training)" + LINE in lines


def test_a_stopped_process_is_named_with_its_machine_and_step(told: tuple[int, list[str], dict[str, int]]) -> None:
    _, lines, culprits = told
    name = f"process 1 (machine {MACHINE}, pid {culprits['SIGSTOP']})"
    assert f"alexnet: {name} has said nothing for 3 s, in step 7 (training)" + LINE in lines


def test_each_is_told_once_and_a_slow_process_is_waited_for(told: tuple[int, list[str], dict[str, int]]) -> None:
    status, lines, _ = told
    assert status == 0, "\n".join(lines)
    assert {"end 0", "end 1"} <= set(lines)
    assert sum("alexnet: " in line for line in lines) == 3


def heard(
    step: int, *, within: int = 0, state: str = "running", note: str = "", new: float = 99, moved: float = 0
) -> Heard:
    """A process heard of last at `new` and moved last at `moved`, of a hundred seconds."""
    return Heard(Sign("m", step, step, "training", within, 7, 9, state, note), new, moved)


@pytest.mark.parametrize(
    ("all_heard", "expected"),
    [
        ([heard(3), heard(3, moved=80)], None),  # what one still does, the others may wait for
        (
            [heard(3, note="at a.py:1"), heard(4)],
            "process 0 (machine m, pid 3) has not moved for 60 s, in step 3 (training), at a.py:1",
        ),
        ([heard(4), heard(4, within=1), heard(4, within=1)], "process 0 (machine m, pid 4) has not moved"),
        (
            [heard(3, note="x"), heard(3, note="y"), heard(3, note="x")],
            "no process has moved for 60 s, in step 3 (training): process 1 (machine m, pid 3) y; "
            "process 0 (machine m, pid 3), process 2 (machine m, pid 3) x",
        ),
        ([heard(3), heard(2, new=30), heard(4)], "process 1 (machine m, pid 2) has said nothing for 60 s, in step 3"),
        ([heard(3), heard(2, new=95), heard(4, moved=98)], None),
        ([heard(3, state="cut off"), heard(2, new=95)], "process 1 (machine m, pid 2) is lost, in step 3 (training)"),
        ([heard(3, state="asked"), heard(2, new=95)], "process 1 (machine m, pid 2) is lost, in step 3 (training)"),
        ([heard(3, state="asked", moved=98), heard(2, state="asked")], None),  # they end when their step is done
        ([heard(3, moved=98), heard(2, state="done", new=1)], None),
        ([heard(3, moved=98), heard(2, state="failed", note="x", new=98)], None),  # the other may end so too
        (
            [heard(3, state="cut off"), heard(2, state="failed", note="MemoryError: no")],
            "process 1 (machine m, pid 2) ended with MemoryError: no, in step 2 (training)",
        ),
        ([heard(3, moved=98), Heard()], "process 1 (not heard of yet) has said nothing for 60 s, in step 3"),
        ([heard(3, moved=98), *[heard(2, new=0)] * 6], ", process 4 (machine m, pid 2) and 2 more have said nothing"),
    ],
)  # fmt: skip
def test_the_one_at_fault_is_silent_or_furthest_behind(all_heard: list[Heard], expected: str | None) -> None:
    found = judge(all_heard, now=100, seconds=60, brief=3)
    assert found is None if expected is None else expected in (found or "")


def test_a_first_step_may_take_long() -> None:
    compiling = Heard(Sign("m", 1, 1, "training", 0, 1, 9, "running", ""), 99, 0)
    assert judge([compiling] * 2, now=100, seconds=60, brief=3) is None
    assert "no process has moved for 300 s" in (judge([Heard(compiling.sign, 399, 0)] * 2, 400, 60, 3) or "")


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What processes said as they left, which here are watches of this one process."""
    lines: list[str] = []
    monkeypatch.setattr(module, "leave", lines.append)
    return lines


def test_where_all_stand_one_says_where_each_stands(left: list[str]) -> None:
    store = HashStore()
    watches = [Watchdog(rank, 2, 0.5, PrefixStore("watch", store)) for rank in range(2)]
    for watch in watches:
        watch.heartbeat(1, "training")
        watch.heartbeat(2, "training")
        watch.begin()
    for watch in watches:
        watch.threads[1].join()
        watch.end("failed")
    assert sorted(map(bool, left)) == [False, True]
    assert max(left).startswith("no process has moved for 0.5 s, in step 2 (training): process 0 (machine ")
    assert "at test_watch.py:" in max(left)


class Unreachable(Store):
    """A store whose machine is gone: calls fail, or never come back."""

    def __init__(self, answers: bool) -> None:
        super().__init__()
        self.answers, self.calls, self.open = answers, 0, threading.Event()

    def set(self, key: str, value: str) -> None:  # noqa: ARG002
        self.calls += 1
        if self.calls > 1 and self.answers:
            raise dist.DistNetworkError("Connection reset by peer")
        if self.calls > 1:
            self.open.wait()

    def check(self, keys: list[str]) -> bool:  # noqa: ARG002
        return False


@pytest.mark.parametrize("answers", [True, False])
def test_a_store_out_of_reach_ends_a_process_that_says_whose_machine_it_misses(
    answers: bool, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "far")
    store = Unreachable(answers)
    watch = Watchdog(1, 2, 0.5, store)
    watch.heartbeat(7, "training")
    watch.begin()
    watch.threads[1].join()
    store.open.set()
    watch.end("failed")
    mine = f"process 1 (machine {MACHINE}, pid {os.getpid()})"
    assert left == [f"process 0 (machine far) is out of reach of {mine}, in step 7 (training)" + LINE]


def test_one_cut_off_that_finds_nobody_lost_says_so_itself(left: list[str]) -> None:
    store = HashStore()
    watches = [Watchdog(rank, 2, 0.5, PrefixStore("watch", store)) for rank in range(2)]
    for watch in watches:
        watch.heartbeat(4, "training")
        watch.begin()
    watches[0].brief = 0.2
    line = lost(RuntimeError("gloo: Connection closed by peer"), watches[0])
    watches[0].end("failed")
    watches[1].threads[1].join()
    watches[1].end("failed")
    assert line.startswith(f"process 0 (machine {MACHINE}, pid {os.getpid()}) has lost the connection to another")
    assert left == [""]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), True),
        (RuntimeError("NCCL communicator was aborted on rank 0"), True),
        (dist.DistBackendError("anything"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ConnectionResetError("Connection reset by peer"), False),  # of a store of pictures, say
    ],
)
def test_an_error_of_a_collective_is_told_from_others(error: Exception, expected: bool) -> None:
    assert of_a_collective(error) == expected


def test_what_is_read_is_what_was_posted() -> None:
    store = HashStore()
    watch = Watchdog(1, 2, 60, store)
    watch.heartbeat(3, "training")
    watch.heartbeat(3, "validation")
    watch.post()
    unheard, sign = watch.read()
    assert unheard is None
    assert sign == Sign(MACHINE, os.getpid(), 3, "validation", 1, 2, 1, "running", "")
    assert json.loads(store.get("sign/1"))[0] == MACHINE


@pytest.mark.parametrize(("world", "seconds"), [(2, 300), (17, 60), (1024, 300)])
def test_many_processes_do_not_flood_the_store(world: int, seconds: float) -> None:
    watches = [Watchdog(rank, world, seconds, None) for rank in range(world)]
    readers = sum(watch.reads for watch in watches)
    assert min(world, 2) <= readers <= READERS
    assert world / watches[0].interval <= 256


def test_one_process_alone_is_not_watched() -> None:
    before = threading.active_count()
    with watched() as watch:
        watch.heartbeat(1, "training")
        assert threading.active_count() == before


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_must_be_positive_and_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"must be above 0 and finite; got {seconds}"), watched(seconds):
        pass

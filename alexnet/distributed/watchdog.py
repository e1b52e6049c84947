"""A watchdog for processes that train together: it finds one that hangs or is lost, names it, and ends all.

A collective waits in C++ for a missing process until the timeout of the backend (half an hour with gloo), and its error
names no process. So each process sends heartbeats: a few times a minute it publishes its status in torchrun's key-value
store, and some processes check the statuses of all. When one process fails, all others wait for it. The failed one is
the one without heartbeats (stopped, killed, its machine gone), or else the one that is furthest behind. One process
reports it in one line, and all end with status 1, so that torchrun restarts them.
"""

import contextlib
import math
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from alexnet.distributed.diagnosis import StatusHistory, diagnose, format_processes, format_step
from alexnet.distributed.status import Status, StatusBoard
from alexnet.utils.console import format_error
from alexnet.utils.processes import ReportedElsewhere, is_local_main_process

MONITORS = 16  # processes that read the statuses of all; the others only check whether a monitor has decided
_HEARTBEATS_PER_SECOND = 256  # of all processes together, as far as the timeout allows
_COLLECTIVE_ERROR = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out", re.IGNORECASE)
_REMEDY = "all processes end; torchrun restarts them from the last checkpoint if --max-restarts allows it"


class Watchdog:
    """Sends the heartbeats of this process, and ends it when a process hangs or is lost.

    Args:
        rank, world_size: The rank of this process, and the number of processes.
        timeout: After how many seconds without progress a process is taken to hang.
        store: The key-value store, for this watchdog alone; None for a single process, which needs no watchdog.

    Attributes:
        thread: The thread that ends the process; None before `start`.
    """

    def __init__(self, rank: int, world_size: int, timeout: float, store: Store | None) -> None:
        self.rank, self._timeout = rank, timeout
        self._board = StatusBoard(store, world_size) if store is not None else None
        self.interval = min(max(1.0, world_size / _HEARTBEATS_PER_SECOND), timeout / 10)  # seconds between heartbeats
        self.short_timeout = 3 * self.interval + 1  # the timeout once a collective has failed
        self.is_monitor = rank % -(-world_size // MONITORS) == 0
        self._histories = [StatusHistory() for _ in range(world_size)] if self.is_monitor else []
        self._progress = (0, "start", 0, 0)  # step, phase, reports in the step, reports; one object: threads read it
        self._published_reports, self._heartbeats, self._state, self._note = -1, 0, "running", ""
        self._clock = self._answer_time = self._disconnect_time = 0.0  # seconds
        self._final_line: str | None = (
            None  # to print at the end: "" if another process reports, None while all is well
        )
        self._decided, self._wake, self._ending, self._ended = (threading.Event() for _ in range(4))
        self._main_thread = threading.get_ident()
        self._heartbeat_thread: threading.Thread | None = None
        self.thread: threading.Thread | None = None
        self._signal_pipe: int | None = None
        self._got_sigterm = False

    def report_progress(self, step: int, phase: str) -> None:
        """Report progress: in each step, each batch of an evaluation, each checkpoint.

        Args:
            step: The number of the step.
            phase: What the process does, such as "training".
        """
        last_step, _, in_step, reports = self._progress
        self._progress = (step, phase, in_step + 1 if step == last_step else 0, reports + 1)

    def start(self, signal_pipe: int | None = None) -> None:
        """Start the heartbeats.

        Args:
            signal_pipe: The end of a pipe from which the numbers of signals are read.
        """
        if self._board is None:
            return
        self._signal_pipe = signal_pipe
        self._send_heartbeat(self._board)
        # Two threads, because a store whose machine is gone may never answer a call.
        self._heartbeat_thread = threading.Thread(target=self._send_heartbeats, args=(self._board,), daemon=True)
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self._heartbeat_thread.start()
        self.thread.start()

    def stop(self, state: str, note: str = "") -> None:
        """Publish how this process ends, and stop the heartbeats.

        Args:
            state, note: As in `Status`.
        """
        self._note, self._state = note, state
        self._ending.set()
        self._wake.set()
        if self._heartbeat_thread:
            self._heartbeat_thread.join(self._timeout)  # a store that does not answer must not block this process
        self._ended.set()
        if self.thread:
            self.thread.join()

    def claim_report(self) -> bool:
        """Return whether this process is the first to report an error; for a stopped watchdog."""
        try:
            return self._board is None or self._board.decide("first", str(self.rank))
        except RuntimeError:  # the store is gone, with the process that had it
            return True

    def diagnose_disconnect(self, error: BaseException) -> str:
        """Find the lost process after the error of a collective.

        Args:
            error: The error.

        Returns:
            The line to print; empty if another process prints it.
        """
        self._disconnect_time, self._state = self._clock, "disconnected"
        self._wake.set()
        self._decided.wait(self._timeout + 4 * self.short_timeout)
        return f"{format_error(error)}: {_REMEDY}" if self._final_line is None else self._final_line

    def _send_heartbeats(self, board: StatusBoard) -> None:
        """Send heartbeats and check those of the others, until the end."""
        try:
            while not self._ending.is_set():
                self._send_heartbeat(board)
                self._check_others(board)
                self._answer_time = self._clock
                self._wake.wait(self.interval)
                self._wake.clear()
            self._send_heartbeat(board)
            # The main process may have the store; the others must be able to reach it until they have ended.
            while self.rank == 0 and self._state == "done" and self._clock - self._answer_time < self._timeout:
                if all(s is None or s.state in ("done", "failed", "reported") for s in board.read_all()):
                    break
                time.sleep(self.interval / 4)
        except RuntimeError:  # an error of the store
            if not self._ending.is_set():
                self._set_final_line(self._describe_unreachable_store())

    def _watch(self) -> None:
        """Advance the clock, and end this process when a process has failed or the store does not answer."""
        last = time.monotonic()
        while not self._ended.wait(self.interval / 2):
            now = time.monotonic()
            # A process that was stopped and continues has not been waiting meanwhile.
            self._clock += min(now - last, 2 * self.interval)
            last = now
            if self._ending.is_set():
                continue
            if self._read_sigterm():
                self._got_sigterm = True
                self._wake.set()
            if self._final_line is None and self._clock - self._answer_time > self._timeout:
                self._set_final_line(self._describe_unreachable_store())
            if self._final_line is not None and self._state == "running":
                terminate(self._final_line)
                return

    def _read_sigterm(self) -> bool:
        """Return whether this process has got SIGTERM since the last call."""
        try:
            return self._signal_pipe is not None and signal.SIGTERM in os.read(self._signal_pipe, 4096)
        except BlockingIOError:
            return False

    def _set_final_line(self, line: str) -> None:
        if self._final_line is None:
            self._final_line = line
            self._decided.set()

    def _send_heartbeat(self, board: StatusBoard) -> None:
        """Publish the status of this process."""
        step, phase, in_step, reports = self._progress
        note = self._note or (_describe_line(self._main_thread) if reports == self._published_reports else "")
        self._published_reports, self._heartbeats = reports, self._heartbeats + 1
        state = "terminating" if self._got_sigterm and self._state == "running" else self._state
        machine, pid = socket.gethostname(), os.getpid()
        board.publish(self.rank, Status(machine, pid, step, phase, in_step, reports, self._heartbeats, state, note))

    def _check_others(self, board: StatusBoard) -> None:
        """Follow the decision that a process has failed, or take it."""
        if board.is_decided("verdict"):
            self._set_final_line("")
            return
        diagnosis = None
        if self.is_monitor:
            for history, status in zip(self._histories, board.read_all(), strict=True):
                history.update(status, self._clock)
            diagnosis = diagnose(self._histories, self._clock, self._timeout, self.short_timeout)
        disconnected = self._state == "disconnected" and self._clock - self._disconnect_time > 2 * self.short_timeout
        if diagnosis is None and disconnected:
            status = self._local_status()
            name = format_processes({self.rank: status})
            diagnosis = f"{name} lost the connection to another process, {format_step(status)}"
        if diagnosis is not None:
            is_first = board.decide("verdict", f"{self.rank} {diagnosis}")
            self._set_final_line(f"{diagnosis}: {_REMEDY}" if diagnosis and is_first else "")

    def _local_status(self) -> Status:
        """Return the status of this process, without what only other processes need."""
        return Status(socket.gethostname(), os.getpid(), *self._progress[:3], 0, 0, "", "")

    def _describe_unreachable_store(self) -> str:
        """Return the line for a process that cannot reach the store; empty but for one process of a machine."""
        # On the main process's own machine, that process may be the one that sends no heartbeat.
        if not is_local_main_process() and self.rank != 1:
            return ""
        address = os.environ.get("MASTER_ADDR", "localhost")
        main_status = self._histories[0].status if self.is_monitor else None
        main_process = format_processes({0: main_status}) if main_status else f"process 0 (machine {address})"
        status = self._local_status()
        name = format_processes({self.rank: status})
        return f"{name} cannot reach {main_process}, {format_step(status)}: {_REMEDY}"


@contextlib.contextmanager
def run_watchdog(timeout: float = 300, store: Store | None = None) -> Iterator[Watchdog]:
    """Run a watchdog over the processes of the default process group, while the block runs in each of them.

    A process that hangs or is lost ends all with status 1, after one of them has printed a line on standard error. An
    error of a collective, raised because a process is lost, ends this process in the same way.

    Args:
        timeout: After how many seconds without progress a process is taken to hang.
        store: A connection for the watchdog alone; by default a new one to torchrun's store.

    Yields:
        The watchdog, whose `report_progress` the training loop calls. For a single process it does nothing.

    Raises:
        ValueError: `timeout` is not positive, or not finite.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(
            f"the seconds after which a process is taken to hang must be above 0 and finite; got {timeout}"
        )
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield Watchdog(0, 1, timeout, None)
        return
    watchdog = _connect(timeout, store)
    with _signal_pipe() as signal_pipe:
        watchdog.start(signal_pipe)
        try:
            yield watchdog
        except BaseException as error:
            if is_collective_error(error):
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's SIGTERM would end the diagnosis
                terminate(watchdog.diagnose_disconnect(error))
            is_user_error = isinstance(error, (ValueError, OSError))  # reported in one line, by one process
            is_reported = is_user_error or isinstance(error, ReportedElsewhere)
            watchdog.stop("reported" if is_reported else "failed", format_error(error))
            if is_user_error and not watchdog.claim_report():
                raise ReportedElsewhere from error
            raise
        watchdog.stop("done")


@contextlib.contextmanager
def _signal_pipe() -> Iterator[int | None]:
    """Open a pipe from which the numbers of signals that have a handler are read; None outside the main thread.

    A main thread that waits in C++ runs no signal handler. So it is when torchrun ends the process because another one
    is lost, while this one waits for NCCL, which does not report it. The number is written into the pipe all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(previous)
        for end in (read_end, write_end):
            os.close(end)


def _connect(timeout: float, store: Store | None) -> Watchdog:
    """Return the watchdog of this process, which uses keys of the store that nobody has used before.

    The keys in torchrun's own store stay there when torchrun restarts the processes.
    """
    # A connection serves one call at a time, and the process group may wait in its own for minutes.
    store = store or next(rendezvous("env://", timeout=timedelta(seconds=max(1, timeout))))[0]
    prefix = [uuid.uuid4().hex]
    dist.broadcast_object_list(prefix, src=0)
    return Watchdog(dist.get_rank(), dist.get_world_size(), timeout, PrefixStore(f"watchdog/{prefix[0]}", store))


def is_collective_error(error: BaseException) -> bool:
    """Return whether an exception was raised by a collective that has lost a process."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and _COLLECTIVE_ERROR.search(str(error)) is not None
    )


def terminate(line: str) -> None:
    """End this process at once, after printing a line on standard error if there is one.

    The main thread may wait in C++ forever, so no handler and no `finally` would run.
    """
    if line:
        os.write(2, f"alexnet: {line}\n".encode())
    os._exit(1)


def _describe_line(thread: int) -> str:
    """Return the line of our code that a thread executes, and the library function that it waits in."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "at its end"
    function = frame.f_code.co_name
    libraries = (str(Path(torch.__file__).parents[1]), str(Path(os.__file__).parent), "<")
    while frame.f_back and frame.f_code.co_filename.startswith(libraries):
        frame = frame.f_back
    inner = "" if function == frame.f_code.co_name else f" ({function})"
    return f"at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}{inner}"

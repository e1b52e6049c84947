"""While several processes train together: one that hangs, or is lost, is found, named, and the others end.

A collective waits in C++ for a peer that is missing, for as long as the backend's own timeout (half an hour with gloo),
and its error names no one. So each process says a few times a minute, in the key-value store that torchrun keeps, where
its loop is; and some look whether all still come forward. All stand still when one does: the one at fault is the one
that says nothing any more (stopped, killed, its machine gone), or else the one furthest behind. One process says so in
one line, and all end with status 1, so that torchrun starts them again.
"""

import contextlib
import json
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
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from alexnet.distributed.diagnosis import Heard, Sign, judge, names, place
from alexnet.utils.console import format_error
from alexnet.utils.processes import ReportedElsewhere, is_local_main_process

READERS = 16  # processes that read what all say; the others only hear of the verdict
POSTS_PER_SECOND = 256  # into the store, by all processes together, as far as `seconds` allows
OF_A_COLLECTIVE = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out", re.IGNORECASE)
REMEDY = "all that are left end; torchrun starts all again from the last checkpoint where --max-restarts allows"


class Watchdog:
    """One process's part in the watch: what it says, and what it hears of the others.

    Args:
        rank, world: Number of this process, and of all.
        seconds: After how long without a move a process is taken to hang.
        store: For this watch alone; None where there is nobody to watch.
    """

    def __init__(self, rank: int, world: int, seconds: float, store: Store | None) -> None:
        self.rank, self.world, self.seconds, self.store = rank, world, seconds, store
        self.interval = min(max(1.0, world / POSTS_PER_SECOND), seconds / 10)  # between two posts
        self.brief = 3 * self.interval + 1  # silence after which a process counts as lost, once a collective has failed
        self.reads = rank % -(-world // READERS) == 0
        self.at = (0, "start", 0, 0)
        self.said, self.posts, self.state, self.note = -1, 0, "running", ""
        self.clock = self.reached = self.cut = 0.0  # seconds: now; when the store last answered; when cut off
        self.heard = [Heard() for _ in range(world)] if self.reads else []
        self.verdict: str | None = None  # what this process has to say at its end: "" if another says it
        self.judged, self.wake, self.over, self.gone = (threading.Event() for _ in range(4))
        self.thread = threading.get_ident()
        self.threads: list[threading.Thread] = []
        self.signals: int | None = None  # where the numbers of signals are read
        self.asked = False

    def heartbeat(self, step: int, what: str) -> None:
        """Come forward: at each step, each batch of an evaluation, each checkpoint.

        Args:
            step: Number of the step.
            what: What of it, such as "training".
        """
        last, _, within, beats = self.at
        self.at = (step, what, within + 1 if step == last else 0, beats + 1)

    def begin(self) -> None:
        """Start to speak and to listen."""
        if self.store is None:
            return
        self.post()
        # Two threads, because a store whose machine is gone may answer a call never.
        self.threads = [threading.Thread(target=target, daemon=True) for target in (self.talk, self.guard)]
        for thread in self.threads:
            thread.start()

    def end(self, state: str, note: str = "") -> None:
        """Say how this process has ended, and be silent."""
        self.note, self.state = note, state
        self.over.set()
        self.wake.set()
        for thread in self.threads[:1]:
            thread.join(self.seconds)  # a store that does not answer must not keep it
        self.gone.set()
        for thread in self.threads[1:]:
            thread.join()

    def talk(self) -> None:
        """Speak and listen, until the end."""
        try:
            while not self.over.is_set():
                self.post()
                self.listen()
                self.reached = self.clock
                self.wake.wait(self.interval)
                self.wake.clear()
            self.post()
            # The store may live in process 0; the others must still reach it until they have ended.
            while self.rank == 0 and self.state == "done" and self.clock - self.reached < self.seconds:
                if all(sign is None or sign.state in ("done", "failed", "told") for sign in self.read()):
                    break
                time.sleep(self.interval / 4)
        except RuntimeError:  # the store's errors are of this kind
            if not self.over.is_set():
                self.decide(self.out_of_reach())

    def guard(self) -> None:
        """Keep the time, end this process on a verdict, and without one where the store is out of reach."""
        last = time.monotonic()
        while not self.gone.wait(self.interval / 2):
            now = time.monotonic()
            # A process that was stopped and goes on has not been waiting meanwhile.
            self.clock += min(now - last, 2 * self.interval)
            last = now
            if self.over.is_set():
                continue
            if self.signalled():
                self.asked = True
                self.wake.set()
            if self.verdict is None and self.clock - self.reached > self.seconds:
                self.decide(self.out_of_reach())
            if self.verdict is not None and self.state == "running":
                leave(self.verdict)
                return

    def signalled(self) -> bool:
        """Whether a SIGTERM has come since the last call."""
        try:
            return self.signals is not None and signal.SIGTERM in os.read(self.signals, 4096)
        except BlockingIOError:
            return False

    def decide(self, verdict: str) -> None:
        """Settle what this process says at its end."""
        if self.verdict is None:
            self.verdict = verdict
            self.judged.set()

    def post(self) -> None:
        """Say where this process is."""
        step, what, within, beats = self.at
        note = self.note or (standing(self.thread) if beats == self.said else "")
        self.said, self.posts = beats, self.posts + 1
        state = "asked" if self.asked and self.state == "running" else self.state
        sign = Sign(socket.gethostname(), os.getpid(), step, what, within, beats, self.posts, state, note)
        assert self.store is not None
        self.store.set(f"sign/{self.rank}", json.dumps(list(asdict(sign).values())))

    def listen(self) -> None:
        """Hear the verdict, or pass it."""
        assert self.store is not None
        if self.store.check(["verdict"]):
            self.decide("")
            return
        found = None
        if self.reads:
            for heard, sign in zip(self.heard, self.read(), strict=True):
                heard.hear(sign, self.clock)
            found = judge(self.heard, self.clock, self.seconds, self.brief)
        if found is None and self.state == "cut off" and self.clock - self.cut > 2 * self.brief:
            mine = Sign(socket.gethostname(), os.getpid(), *self.at[:3], 0, 0, "", "")
            found = f"{names({self.rank: mine})} has lost the connection to another process, {place(mine)}"
        if found is not None:
            text = f"{self.rank} {found}"
            mine_first = self.store.compare_set("verdict", "", text).decode() == text
            self.decide(f"{found}: {REMEDY}" if found and mine_first else "")

    def read(self) -> list[Sign | None]:
        """What the processes say; None for one that has said nothing yet."""
        assert self.store is not None
        keys = [f"sign/{rank}" for rank in range(self.world)]
        if self.store.check(keys):
            values = self.store.multi_get(keys)
        else:
            values = [self.store.get(key) if self.store.check([key]) else b"" for key in keys]
        return [Sign(*json.loads(value)) if value else None for value in values]

    def first(self) -> bool:
        """Whether this process is the first to tell an error of its own; it no longer watches."""
        try:
            return self.store is None or self.store.compare_set("first", "", str(self.rank)) == str(self.rank).encode()
        except RuntimeError:  # the store is gone, and who had it
            return True

    def out_of_reach(self) -> str:
        """The line of a process that no longer reaches the store; of one process of a machine only."""
        if (
            not is_local_main_process() and self.rank != 1
        ):  # on its own machine, process 0 may be the one that says nothing
            return ""
        there = os.environ.get("MASTER_ADDR", "localhost")
        first = self.heard[0].sign if self.reads else None
        lost_one = names({0: first}) if first else f"process 0 (machine {there})"
        mine = Sign(socket.gethostname(), os.getpid(), *self.at[:3], 0, 0, "", "")
        return f"{lost_one} is out of reach of {names({self.rank: mine})}, {place(mine)}: {REMEDY}"


@contextlib.contextmanager
def watched(seconds: float = 300, store: Store | None = None) -> Iterator[Watchdog]:
    """Watchdog over the processes of the default process group, while the block runs in each of them.

    A process that hangs or is lost ends all with status 1, after a line on standard error from one of them. The error
    of a collective, raised because a peer is lost, ends this process in the same way.

    Args:
        seconds: After how long without a beat a process is taken to hang.
        store: A connection for this alone; by default a new one to torchrun's store.

    Yields:
        The watch, whose `beat` the loop calls. Where one process trains alone, nobody watches.

    Raises:
        ValueError: `seconds` is not positive, or not finite.
    """
    if not 0 < seconds < math.inf:
        raise ValueError(
            f"the seconds after which a process is taken to hang must be above 0 and finite; got {seconds}"
        )
    alone = not dist.is_initialized() or dist.get_world_size() == 1
    watch = Watchdog(0, 1, seconds, None) if alone else join(seconds, store)
    with contextlib.nullcontext() if alone else signal_numbers() as watch.signals:
        watch.begin()
        try:
            yield watch
        except BaseException as error:
            if not alone and of_a_collective(error):
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's would end the search for who is at fault
                leave(lost(error, watch))
            mendable = isinstance(error, (ValueError, OSError))  # told in one line, and by one process
            watch.end("told" if mendable or isinstance(error, ReportedElsewhere) else "failed", format_error(error))
            if mendable and not watch.first():
                raise ReportedElsewhere from error
            raise
        watch.end("done")


@contextlib.contextmanager
def signal_numbers() -> Iterator[int | None]:
    """A pipe's end where the numbers of signals that have a handler are read; none but in the main thread.

    A main thread that waits in C++ runs no handler: not when torchrun ends it because a peer is lost, while it waits
    for NCCL, which does not say so. Into the pipe the number is written all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    read, write = os.pipe()
    for end in (read, write):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(before)
        for end in (read, write):
            os.close(end)


def join(seconds: float, store: Store | None) -> Watchdog:
    """This process's watch, in a part of the store that all have agreed on and nobody used before.

    What is in torchrun's own store stays there over its restarts.
    """
    # A connection serves one call at a time, and the process group may wait in its own for minutes.
    store = store or next(rendezvous("env://", timeout=timedelta(seconds=max(1, seconds))))[0]
    agreed = [uuid.uuid4().hex]
    dist.broadcast_object_list(agreed, src=0)
    return Watchdog(dist.get_rank(), dist.get_world_size(), seconds, PrefixStore(f"watch/{agreed[0]}", store))


def of_a_collective(error: BaseException) -> bool:
    """Whether an exception says that processes lost each other."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and OF_A_COLLECTIVE.search(str(error)) is not None
    )


def lost(error: BaseException, watch: Watchdog) -> str:
    """The line for an exception of a collective: which process was lost, on which machine, in which step.

    Args:
        error: What the collective raised.
        watch: Of this process, still running.

    Returns:
        The line; empty where another process says it.
    """
    watch.cut, watch.state = watch.clock, "cut off"
    watch.wake.set()
    watch.judged.wait(watch.seconds + 4 * watch.brief)
    return f"{format_error(error)}: {REMEDY}" if watch.verdict is None else watch.verdict


def leave(line: str) -> None:
    """End this process at once, after a line on standard error if there is one.

    Its main thread may wait in C++ for ever, and no handler or `finally` would run.
    """
    if line:
        os.write(2, f"alexnet: {line}\n".encode())
    os._exit(1)


def standing(thread: int) -> str:
    """Where a thread stands: our line, and the function below it that has not returned."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "at its end"
    inside, libraries = frame.f_code.co_name, (str(Path(torch.__file__).parents[1]), str(Path(os.__file__).parent), "<")
    while frame.f_back and frame.f_code.co_filename.startswith(libraries):
        frame = frame.f_back
    below = "" if inside == frame.f_code.co_name else f" ({inside})"
    return f"at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}{below}"

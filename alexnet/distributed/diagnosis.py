"""Who is at fault, of processes that train together, by the signs that they have given: what `watch` asks of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FIRST_STEP = 300.0  # seconds that a process may stand still at least before its second beat: programs are compiled
NAMED = 4  # processes that a line names at most


@dataclass(frozen=True)
class Sign:
    """What a process says of itself.

    Args:
        machine, pid: Where it runs.
        step, what, within: The step its loop is in, what of it, and how often it has come forward within that step.
        beats: How often it has come forward since it began.
        posts: How often it has said this.
        state: "running"; "asked": to end, by torchrun or a user, and still running; "cut off": a collective failed;
            "failed": it has ended, `note` says how; "told": it has ended and told why, or another did; "done".
        note: The line of code at which it stands, or the error it ended with.
    """

    machine: str
    pid: int
    step: int
    what: str
    within: int
    beats: int
    posts: int
    state: str
    note: str

    def position(self) -> tuple[int, int]:
        """How far it is: all take the same way, so that who waits is not behind whom it waits for."""
        return self.step, self.within


@dataclass
class Heard:
    """The latest sign of a process, and when, by the hearer's clock, it last was a new one and last had moved."""

    sign: Sign | None = None
    new: float = 0.0
    moved: float = 0.0

    def hear(self, sign: Sign | None, now: float) -> None:
        """Take what the store holds at `now`."""
        if sign and (self.sign is None or sign.posts != self.sign.posts):
            if self.sign is None or (sign.beats, sign.state) != (self.sign.beats, self.sign.state):
                self.moved = now
            self.sign, self.new = sign, now


def judge(heard: Sequence[Heard], now: float, seconds: float, brief: float) -> str | None:
    """Who is at fault, if anyone is.

    Args:
        heard: Of each process.
        now: By the clock of `heard`, in seconds.
        seconds: After how long a process that is silent or stands still is at fault.
        brief: The same for one that is silent where others are cut off, or are to end, or that has failed.

    Returns:
        The beginning of a line; empty where the one at fault has told why itself; None while all is well.
    """
    signs = {rank: one.sign for rank, one in enumerate(heard) if one.sign is None or one.sign.state != "done"}
    ending = any(sign and sign.state in ("cut off", "asked") for sign in signs.values())
    failed = {rank: sign for rank, sign in signs.items() if sign and sign.state in ("failed", "told")}
    for rank, sign in failed.items():
        if ending or now - heard[rank].new > brief:
            return f"{names({rank: sign})} ended with {sign.note}, {place(sign)}" if sign.state == "failed" else ""
        del signs[rank]
    patience = brief if ending else seconds
    silent = {rank: sign for rank, sign in signs.items() if now - heard[rank].new > patience}
    if silent:
        lost_now = "is lost" if len(silent) == 1 else "are lost"
        verb = lost_now if ending else f"{has(silent)} said nothing for {seconds:g} s"
        # What it said last may be old; the others cannot be further than the step that it is missing from.
        others = {rank: sign for rank, sign in signs.items() if rank not in silent}
        return f"{names(silent)} {verb}, {place(earliest(others) or earliest(silent))}"
    # One that still moves may be what the others wait for, as process 0 when it writes for all.
    first = earliest(signs)
    patience = max(seconds, FIRST_STEP) if first is None or first.beats < 2 else seconds
    if first is None or any(now - heard[rank].moved <= patience for rank in signs):
        return None
    behind = {rank: sign for rank, sign in signs.items() if sign and sign.position() == first.position()}
    if len(behind) < len(signs):
        return f"{names(behind)} {has(behind)} not moved for {patience:g} s, {place(first)}, {first.note}"
    return f"no process has moved for {patience:g} s, {place(first)}: {places(behind)}"


def earliest(signs: dict[int, Sign | None]) -> Sign | None:
    """The sign that is furthest behind."""
    return min((sign for sign in signs.values() if sign), key=Sign.position, default=None)


def places(signs: dict[int, Sign]) -> str:
    """Where processes that are in the same step stand: most wait for the one that stands elsewhere."""
    there: dict[str, dict[int, Sign | None]] = defaultdict(dict)
    for rank, sign in signs.items():
        there[sign.note][rank] = sign
    rarest_first = sorted(there.items(), key=lambda entry: len(entry[1]))
    return "; ".join(f"{names(some)} {note}" for note, some in rarest_first[:NAMED])


def names(signs: dict[int, Any]) -> str:
    """Processes with their machines: "process 1 (machine a, pid 12)"."""
    texts = [
        f"process {rank} (machine {sign.machine}, pid {sign.pid})" if sign else f"process {rank} (not heard of yet)"
        for rank, sign in signs.items()
    ]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(texts[:NAMED]) + more


def has(signs: dict[int, Any]) -> str:
    """The verb for so many processes."""
    return "has" if len(signs) == 1 else "have"


def place(sign: Sign | None) -> str:
    """The step of a process: "in step 37 (training)"."""
    return f"in step {sign.step} ({sign.what})" if sign else "before its first step"

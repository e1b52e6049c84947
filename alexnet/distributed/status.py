"""The status that each process publishes in the key-value store, and that the others read."""

import json
from dataclasses import astuple, dataclass

from torch.distributed.distributed_c10d import Store


@dataclass(frozen=True)
class Status:
    """The status of a process, as it last published it.

    Args:
        machine, pid: The host name, and the process id there.
        step, phase: The training step, and what the process does in it, such as "training" or "validation".
        reports_in_step: How often the process has reported progress within the step.
        reports: How often it has reported progress since its start.
        heartbeats: How often it has published its status.
        state: "running"; "terminating": still running, but torchrun or the user has sent SIGTERM; "disconnected": a
            collective has failed; "failed": it has ended with the error in `note`; "reported": it has ended with an
            error that it or another process has reported; "done".
        note: The line of code that it executes, or the error that it ended with.
    """

    machine: str
    pid: int
    step: int
    phase: str
    reports_in_step: int
    reports: int
    heartbeats: int
    state: str
    note: str

    @property
    def position(self) -> tuple[int, int]:
        """The step, and the reports in it. A process that waits is never behind the one that it waits for."""
        return self.step, self.reports_in_step


class StatusBoard:
    """The statuses of all processes, and the decisions that they take together, in a key-value store.

    Args:
        store: The store, for this board alone.
        world_size: The number of processes.
    """

    def __init__(self, store: Store, world_size: int) -> None:
        self._store, self._world_size = store, world_size

    def publish(self, rank: int, status: Status) -> None:
        """Publish the status of a process."""
        self._store.set(f"status/{rank}", json.dumps(astuple(status)))

    def read_all(self) -> list[Status | None]:
        """Return the status of each process; None for one that has published nothing yet."""
        keys = [f"status/{rank}" for rank in range(self._world_size)]
        if self._store.check(keys):
            values = self._store.multi_get(keys)
        else:
            values = [self._store.get(key) if self._store.check([key]) else b"" for key in keys]
        return [Status(*json.loads(value)) if value else None for value in values]

    def is_decided(self, name: str) -> bool:
        """Return whether a process has decided something."""
        return self._store.check([name])

    def decide(self, name: str, value: str) -> bool:
        """Decide something with a value that is unique to this process; return whether this process was the first."""
        return self._store.compare_set(name, "", value).decode() == value

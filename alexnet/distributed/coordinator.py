"""Coordination of several processes that share one piece of work, through torchrun's key-value store.

The processes exchange no tensors, so they need no process group. The store is in torchrun's own process or in the main
process, which is therefore the last to end.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from alexnet.utils.processes import ReportedElsewhere, local_world_size, wait_for_report

POLL_SECONDS = 0.1
SHUTDOWN_SECONDS = 5.0  # how long the main process waits for the others to be done with the store
FAILURE_SECONDS = 1.0  # how long a main process that has failed keeps the store, for the others to see the failure
_instances = itertools.count()  # numbers the coordinators of this process


def restart_id() -> str:
    """Return a name for this restart of torchrun's processes, which keeps its keys in the store apart from older ones.

    Raises:
        ValueError: The store outlives a restart on several machines. Each machine counts its own restarts, so the
            counts do not identify a restart.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return "only"  # each restart has a store of its own
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise ValueError(
            "torchrun's store must be a new one after each restart on several machines, but torchrun keeps it: start "
            "torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment on each machine"
        )
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


class LostConnectionError(OSError):
    """The key-value store of the processes is out of reach."""


class KeyValueStore(Protocol):
    """The methods of `torch.distributed.Store` that are used here."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter, which starts at 0, and return the sum."""
        ...

    def set(self, key: str, value: str, /) -> None:
        """Set the value of a key."""
        ...

    def get(self, key: str, /) -> bytes:
        """Return the value of a key."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Return whether all keys have values."""
        ...


class _InMemoryStore(dict[str, Any]):
    """The store of a single process; it needs no torch."""

    def add(self, key: str, amount: int) -> int:
        self[key] = self.get(key, 0) + amount
        return int(self[key])

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


class Coordinator:
    """Shares counters, values and failures with the other processes that do the same work.

    Args:
        store: The key-value store of the processes; by default one in memory, for a single process.
        rank: The rank of this process.
        world_size: The number of processes.
        local_world_size: The number of processes on this machine.
    """

    def __init__(
        self, store: KeyValueStore | None = None, rank: int = 0, world_size: int = 1, local_world_size: int = 1
    ) -> None:
        self._store: Any = _InMemoryStore() if store is None else store
        self.rank, self.world_size, self.local_world_size = rank, world_size, local_world_size

    @classmethod
    def from_torchrun(cls) -> "Coordinator":
        """Connect to the other processes of torchrun; each process must call this equally often.

        Raises:
            ValueError: torchrun did not start this process.
        """
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ValueError(f"several processes must be started by torchrun, which sets {missing[0]}; it is not set")
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        restart, (store, rank, world_size) = restart_id(), next(rendezvous("env://"))
        return cls(PrefixStore(f"alexnet/{restart}/{next(_instances)}", store), rank, world_size, local_world_size())

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the store."""
        try:
            return method(*arguments)
        except RuntimeError as error:  # torch.distributed.DistError is one
            raise LostConnectionError(
                f"process {self.rank} of {self.world_size} has lost the connection to the others "
                f"({str(error).splitlines()[0]}); run the same command again: it resumes"
            ) from error

    def add(self, name: str, amount: int = 0) -> int:
        """Add to a counter that all processes share, and return the sum; it starts at 0."""
        return int(self._call(self._store.add, name, amount))

    def publish(self, name: str, value: str) -> None:
        """Give the other processes a value."""
        self._call(self._store.set, name, value)

    def wait_for(self, name: str) -> str:
        """Wait until another process publishes a value under a name, and return it.

        Raises:
            ReportedElsewhere: A process failed meanwhile.
        """
        self.wait_until(lambda: bool(self._call(self._store.check, [name])))
        return bytes(self._call(self._store.get, name)).decode()

    def check_others(self) -> None:
        """Check that no other process has failed.

        Raises:
            ReportedElsewhere: One has.
        """
        if self._call(self._store.check, ["failed"]):
            raise ReportedElsewhere

    def wait_until(self, condition: Callable[[], bool], timeout: float = float("inf")) -> bool:
        """Wait until a condition is true; return False if it is not after `timeout` seconds.

        Raises:
            ReportedElsewhere: A process failed meanwhile.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            self.check_others()
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def shutdown(self) -> None:
        """Leave the others; the main process, which may have the store, waits for them for a while."""
        self.add("left", 1)
        if self.rank == 0:
            self.wait_until(lambda: self.add("left") >= self.world_size, SHUTDOWN_SECONDS)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Stop all processes when one fails. The first one to fail raises its own exception.

        Raises:
            ReportedElsewhere: Another process failed first.
        """
        try:
            yield
        except LostConnectionError:
            raise
        except BaseException as error:
            if not isinstance(error, ReportedElsewhere) and self.add("failed", 1) == 1:
                if self.rank == 0 and self.world_size > 1:
                    time.sleep(FAILURE_SECONDS)
                raise
            wait_for_report()
            if isinstance(error, ReportedElsewhere):
                raise
            raise ReportedElsewhere from error

"""Processes that share one piece of work, and the few words they exchange.

They exchange no tensors, so no process group is formed: the key-value store that torchrun arranges for them is enough.
It lies in torchrun's own process or in process 0, which therefore leaves last.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # for the process that failed to say why, before torchrun sees another one end and ends all
_numbers = itertools.count()  # of the works that this process has joined


def store_generation() -> str:
    """What sets the keys that torchrun's processes put into its store apart from those of earlier, ended ones.

    Raises:
        ValueError: The store outlives a restart on several machines, each of which counts its own restarts, so that
            nothing tells one life from another.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return "only"  # each life has a store of its own
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise ValueError(
            "torchrun's store must be a new one after each restart on several machines; it is kept: start torchrun "
            "with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment on each"
        )
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


class PeerError(ValueError):
    """Another process has failed, and says why itself."""


class LostConnectionError(OSError):
    """The words of the others can no longer be heard."""


class Words(Protocol):
    """What is used of a `torch.distributed.Store`."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number, 0 at first, and return the sum."""
        ...

    def set(self, key: str, value: str, /) -> None:
        """Put a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """The value of a key."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Whether all the keys have values."""
        ...


class _Own(dict[str, Any]):
    """The words of a process that works alone, which need no torch."""

    def add(self, key: str, amount: int) -> int:
        self[key] = self.get(key, 0) + amount
        return int(self[key])

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


class Peers:
    """The processes that share a piece of work, this one being one of them.

    Args:
        words: Their key-value store; by default this process works alone.
        rank: This process's number, from 0.
        count: How many they are.
        here: How many of them are on this machine.
    """

    def __init__(self, words: Words | None = None, rank: int = 0, count: int = 1, here: int = 1) -> None:
        self._words: Any = _Own() if words is None else words
        self.rank, self.count, self.here = rank, count, here

    @classmethod
    def of_torchrun(cls) -> "Peers":
        """The processes that torchrun started, each of which must call this as often as the others.

        Raises:
            ValueError: torchrun did not start this process.
        """
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ValueError(f"several processes must be started by torchrun, which sets {missing[0]}; got none of it")
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        life, (words, rank, count) = store_generation(), next(rendezvous("env://"))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return cls(PrefixStore(f"alexnet/{life}/{next(_numbers)}", words), rank, count, here)

    def _ask(self, call: Callable[..., Any], *given: Any) -> Any:
        try:
            return call(*given)
        except RuntimeError as error:  # torch.distributed.DistError is one
            raise LostConnectionError(
                f"process {self.rank} of {self.count} has lost the others ({str(error).splitlines()[0]}); "
                "run the same again: it goes on"
            ) from error

    def add(self, name: str, number: int = 0) -> int:
        """Add to a number that all share, and return the sum; it is 0 at first."""
        return int(self._ask(self._words.add, name, number))

    def tell(self, name: str, text: str) -> None:
        """Say something to the others."""
        self._ask(self._words.set, name, text)

    def hear(self, name: str) -> str:
        """What another process says under a name, once it does.

        Raises:
            PeerError: A process failed meanwhile.
        """
        self.wait(lambda: bool(self._ask(self._words.check, [name])))
        return bytes(self._ask(self._words.get, name)).decode()

    def check(self) -> None:
        """Look whether another process has failed.

        Raises:
            PeerError: One has.
        """
        if self._ask(self._words.check, ["failed"]):
            raise PeerError("another of the processes that share the work has failed, and says why")

    def wait(self, until: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait until something is so; False where it is not after so many seconds.

        Raises:
            PeerError: A process failed meanwhile.
        """
        last = time.monotonic() + seconds
        while not until():
            self.check()
            if time.monotonic() > last:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def leave(self) -> None:
        """Be done; process 0, which may hold the words, once all others are or have had time to be."""
        self.add("left", 1)
        if self.rank == 0:
            self.wait(lambda: self.add("left") >= self.count, GRACE_SECONDS)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Stop all processes where one fails; the exception of the first is its own, the others have a PeerError.

        Raises:
            PeerError: Another failed first.
        """
        try:
            yield
        except LostConnectionError:
            raise
        except BaseException as error:
            if not isinstance(error, PeerError) and self.add("failed", 1) == 1:
                if self.rank == 0 and self.count > 1:
                    time.sleep(GRACE_SECONDS / 5)  # the others must hear of it while the words are there
                raise
            time.sleep(GRACE_SECONDS)
            if isinstance(error, PeerError):
                raise
            raise PeerError("another of the processes that share the work failed first, and says why") from error

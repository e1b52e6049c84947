"""Which of `torchrun`'s processes this is, and which of them reports an error."""

import os
import time

REPORT_SECONDS = 5.0  # for the failed process to report: torchrun ends all processes when it sees one of them end


class ReportedElsewhere(SystemExit):
    """Another process reports what is wrong; this one ends with status 2."""

    def __init__(self) -> None:
        super().__init__(2)


def is_main_process() -> bool:
    """Return whether this is the main process: the only one, or the first of all that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def is_local_main_process() -> bool:
    """Return whether this is the first process of its machine."""
    return local_rank() == 0


def local_rank() -> int:
    """Return the rank of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of processes that torchrun has started on all machines; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes that torchrun has started on this machine; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def report_once(error: Exception) -> BaseException:
    """Return the exception to raise for an error that all processes have found: the main process reports it."""
    return error if is_main_process() else ReportedElsewhere()


def report_once_per_machine(error: Exception) -> BaseException:
    """Return the exception to raise for an error that all processes of a machine have found: one of them reports it."""
    return error if is_local_main_process() else ReportedElsewhere()


def wait_for_report() -> None:
    """Wait until the failed process has reported, before this process ends too."""
    time.sleep(REPORT_SECONDS)

"""The processes of one `torchrun`: which of them this is, and which reports."""

import os


class ReportedElsewhere(SystemExit):
    """Another of the processes that torchrun has started tells what is wrong; this one ends with status 2."""

    def __init__(self) -> None:
        super().__init__(2)


def is_local_main_process() -> bool:
    """Whether this process is the one of its machine that tells what all there find: in their common command line."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def report_once(error: Exception) -> BaseException:
    """What to raise for an error that all processes of a machine come to alike: one of them tells it."""
    return error if is_local_main_process() else ReportedElsewhere()

"""Python processes that have imported torch before they start: each is forked from one process, the server.

`start_server` returns an executable that takes Python's arguments. The program has the caller's environment, folder,
input and output; the executable forwards signals to it and ends with its exit status or signal. A program that is to be
killed is killed by its own process id: the executable ends first, the program a moment later. A process that imports
torch, Numba and torch's compiler computes for four seconds before it does anything; a forked one for some hundredths.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# What the commands import in the end. Numba and torch start their threads later, when they compute.
MODULES = (
    "torch._dynamo",
    "torch.distributed.run",
    "numba",
    "alexnet.cli",
    "alexnet.data.prepare.prepare",
    "alexnet.training.train",
)


def start_server(folder: Path, owner: int, *first_modules: str) -> Path:
    """Start a server; return the executable.

    Args:
        folder: Where the executable, the server's socket and its log are written.
        owner: The process with which the server ends.
        first_modules: What it imports before torch.

    Raises:
        RuntimeError: The server does not start.
    """
    socket, executable, log = (folder / name for name in ("socket", "python", "server.txt"))
    command = [sys.executable, str(FOLDER / "server.py"), str(socket), str(owner), *first_modules, *MODULES]
    with log.open("wb") as output:
        started = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", check=False)
    if started.returncode:
        raise RuntimeError(f"the server of forked processes does not start: {log.read_text()}")
    client = f'"{sys.executable}" -I -S "{FOLDER / "client.py"}" "{socket}"'
    # torchrun starts its processes with the program that PYTHON_EXEC names.
    executable.write_text(f'#!/bin/sh\nPYTHON_EXEC="$0" exec {client} "$@"\n', encoding="utf-8")
    executable.chmod(executable.stat().st_mode | stat.S_IXUSR)
    return executable


def is_supported() -> bool:
    """Return whether this system can tell a process that another one has ended."""
    return hasattr(os, "pidfd_open")

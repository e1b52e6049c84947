"""Fork processes that run Python programs: `python server.py SOCKET OWNER MODULE...`, which returns when it listens."""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any


def serve(path: str, owner: int) -> dict[str, Any]:
    """Wait for programs until the process `owner` ends.

    Returns:
        In a forked process: the program to run. In the server: never.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    if os.fork():
        os._exit(0)
    owner_ends = os.pidfd_open(owner)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a process of `attend`
    while True:
        ready, _, _ = select.select([listener, owner_ends], [], [])
        if owner_ends in ready:
            sys.exit()
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            os.close(owner_ends)
            return attend(connection)
        connection.close()


def attend(connection: socket.socket) -> dict[str, Any]:
    """Fork the process of a program, and wait for it: forward signals, and send its status.

    Returns:
        In the forked process: the program to run. In this one: never.
    """
    size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
    request: dict[str, Any] = json.loads(connection.recv(struct.unpack("=i", size)[0], socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        connection.close()
        return request
    for descriptor in (*descriptors, 0, 1, 2):
        os.close(descriptor)
    program_ends = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([connection, program_ends], [], [])
        if program_ends in ready:
            connection.send(struct.pack("=i", os.waitpid(pid, 0)[1]))
            os._exit(0)
        for number in connection.recv(64) or [signal.SIGKILL]:  # empty: the client was killed
            os.kill(pid, number)
            if number == signal.SIGKILL:
                os.waitpid(pid, 0)
                os._exit(0)


def run(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Run a program as `python ARGUMENT...` does, with the options -c, -m and -u."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" in environment:  # which it has read already
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if arguments[0] == "-u":
        arguments = arguments[1:]
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    option, *rest = arguments
    sys.path[0] = folder if option in ("-c", "-m") else str(Path(option).resolve().parent)
    if option == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif option == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(option, run_name="__main__")


for module in sys.argv[3:]:
    importlib.import_module(module)
gc.collect()
gc.freeze()  # what the forked processes share is not written to
run(**serve(sys.argv[1], int(sys.argv[2])))

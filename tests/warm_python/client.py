"""Run a Python program in a process forked from a server: `python client.py SOCKET ARGUMENT...`."""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Send the program to the server, forward signals to its process, and end as that ends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    program = {"arguments": sys.argv[2:], "environment": dict(os.environ), "folder": str(Path.cwd())}
    request = json.dumps(program).encode()
    socket.send_fds(connection, [struct.pack("=i", len(request))], [0, 1, 2])
    for number in FORWARDED:
        signal.signal(number, lambda number, _: connection.send(bytes([number])))
    connection.sendall(request)
    answer = connection.recv(4, socket.MSG_WAITALL)
    status = os.waitstatus_to_exitcode(struct.unpack("=i", answer)[0]) if len(answer) == 4 else 1
    if status < 0:  # the signal that ended the program
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


main()

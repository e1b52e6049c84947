"""The peak memory of a command, read from /proc while it runs."""

import subprocess
import sys
import time
from pathlib import Path


def peak_memory(command: list[str]) -> tuple[float, float]:
    """Run a command; return its largest anonymous memory and its largest mapped memory, in MB."""
    peaks = {"RssAnon": 0, "RssFile": 0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            except OSError:  # the process ended after the poll
                break
            for line in status.splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))
            time.sleep(0.02)
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{errors}")
    return peaks["RssAnon"] / 1024, peaks["RssFile"] / 1024

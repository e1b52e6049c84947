"""What each process does for test_watchdog.py. In each restart something else happens to the second process."""

import os
import signal
import threading
import time

import torch
import torch.distributed as dist

from alexnet.distributed.watchdog import run_watchdog

# It is killed, it is stopped, it is killed while the first process waits for something that never fails (as a
# collective of NCCL), and in the last restart it is only slow. With the step in which this happens.
EVENTS = (("SIGKILL", 5), ("SIGSTOP", 7), ("SIGKILL without error", 6), ("slow", None))


def main() -> None:
    """Make ten steps."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # as in training, which ends when the step is done
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    event, event_step = EVENTS[int(os.environ["TORCHELASTIC_RESTART_COUNT"])]
    with run_watchdog(timeout=3) as watchdog:
        for step in range(10):
            watchdog.report_progress(step, "training")
            if rank == 1 and step == event_step:
                print_line(f"{event}: {os.getpid()}")
                os.kill(os.getpid(), getattr(signal, event.split()[0]))
            if rank == 1 and event == "slow":
                time.sleep(0.3)
            if event == "SIGKILL without error" and step == event_step:
                threading.Event().wait()
            dist.all_reduce(torch.ones(1))
    print_line(f"end {rank}")


def print_line(line: str) -> None:
    """Print a line in one piece, which no line of the other process divides."""
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main()

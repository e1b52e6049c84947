"""An unplugged cable in the middle of an epoch: three network namespaces as three machines, and the run that resumes.

    python benchmarks/cable.py STORE FOLDER [--recipe NAME] [--set FIELD=VALUE]... [--hang-seconds S]

Needs Linux, root and the programs `ip` and `unshare`. Each machine has its own network and host name; they share the
disk, as machines with a shared file system do. The cable of the third machine is unplugged after a checkpoint in the
middle of an epoch, and plugged in again when the other two have resumed without it. The script prints the events with
their times, and how much the losses and weights differ from those of an undisturbed training.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet.models.weight_files import list_checkpoints
from alexnet.training.checkpoint import TrainState, load_checkpoint, load_train_state

MACHINES = ("first", "second", "third")
SWITCH = "switch"
PREFIX = "alexnet-"  # of the names of the namespaces
PORT = 29400
# At a higher rate, two trainings that differ by rounding differ in the third digit after a few epochs. The batch size
# must be divisible by three machines and by two.
SETTINGS = ("epochs=3", "learning_rate=0.003", "batch_size=36")
# The lines of torchrun and of the training that are events; all lines are in FOLDER/MACHINE.log.
EVENTS = (
    "alexnet: ",
    "will restart worker group",
    "group_world_size=",
    "api.RendezvousConnectionError",
    "top-1 error of",
)


def ip(*arguments: str) -> None:
    """Run `ip`.

    Raises:
        OSError: It fails; with its error message.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Path]:
    """Connect three machines to a switch: one namespace for each machine, and one whose bridge is the switch.

    Yields:
        The hosts file with the names of the machines.
    """
    names = [SWITCH, *MACHINES]
    try:
        for name in names:
            ip("netns", "add", PREFIX + name)
            ip("-n", PREFIX + name, "link", "set", "lo", "up")
        ip("-n", PREFIX + SWITCH, "link", "add", "bridge", "type", "bridge")
        ip("-n", PREFIX + SWITCH, "link", "set", "bridge", "up")
        for number, name in enumerate(MACHINES):
            namespace = ("-n", PREFIX + name)
            ip(*namespace, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", PREFIX + SWITCH)
            ip(*namespace, "address", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            ip(*namespace, "link", "set", "eth0", "up")
            ip("-n", PREFIX + SWITCH, "link", "set", name, "master", "bridge", "up")
        hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"10.77.0.{n + 1} {name}" for n, name in enumerate(MACHINES))]
        hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield hosts
    finally:
        for name in names:  # deletes the links too
            subprocess.run(["ip", "netns", "delete", PREFIX + name], capture_output=True, check=False)


def set_cable(machine: str, state: str) -> None:
    """Unplug a machine's cable from the switch ("down"), or plug it in ("up")."""
    ip("-n", PREFIX + SWITCH, "link", "set", machine, state)


@dataclass
class EventLog:
    """The events, with the seconds since the start."""

    start: float = field(default_factory=time.monotonic)
    events: list[tuple[float, str, str]] = field(default_factory=list)

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.start

    def add(self, source: str, text: str) -> None:
        """Add an event, and print it."""
        seconds = self.seconds()
        self.events.append((seconds, source, text))
        print(f"{seconds:7.1f} s  {source:8}  {text}\n", end="", flush=True)

    def seconds_until(self, after: float, text: str) -> float | None:
        """Return the seconds from `after` to the next event that contains a text; None if there was none."""
        return next((when - after for when, _, event in list(self.events) if when > after and text in event), None)


@dataclass
class Machine:
    """A machine with its torchrun, and the thread that reads the output of torchrun."""

    name: str
    process: subprocess.Popen
    reader: threading.Thread


def start_machine(name: str, hosts: Path, command: list[str], log: EventLog, log_file: Path) -> Machine:
    """Start torchrun with `command` on a machine."""
    shell_script = f'hostname {name} && mount --bind "{hosts}" /etc/hosts && exec "$@"'
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2:3", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-id", "cable", "--rdzv-endpoint", f"{MACHINES[0]}:{PORT}"]
    # last_call: how long two machines wait for a third. read_timeout: how long a disconnected one tries to reach the
    # first.
    torchrun += ["--rdzv-conf", "last_call_timeout=10,read_timeout=120", "--max-restarts", "3"]
    namespace = ["ip", "netns", "exec", PREFIX + name, "unshare", "--uts", "sh", "-c", shell_script, "sh"]
    # A new store for each restart: the old one has the addresses of processes that have ended.
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    environment |= {"OMP_NUM_THREADS": "1", "LOGLEVEL": "INFO"}
    process = subprocess.Popen(
        [*namespace, *torchrun, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )

    def read_output() -> None:
        assert process.stdout is not None
        with log_file.open("a", encoding="utf-8") as file:
            for line in process.stdout:
                print(f"{log.seconds():8.2f} {line}", end="", file=file, flush=True)
                if any(event in line for event in EVENTS):
                    log.add(name, line.strip().rpartition("api.py:")[2].partition("] ")[2] or line.strip())

    reader = threading.Thread(target=read_output, daemon=True)
    reader.start()
    return Machine(name, process, reader)


def stop_machine(machine: Machine) -> None:
    """Kill all processes of a machine."""
    pids = subprocess.run(["ip", "netns", "pids", PREFIX + machine.name], capture_output=True, text=True, check=False)
    for pid in pids.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    machine.process.wait()
    machine.reader.join()


@contextlib.contextmanager
def running_machines(folder: Path, command: list[str], log: EventLog) -> Iterator[list[Machine]]:
    """Start three machines that run `command`; stop them at the end."""
    machines: list[Machine] = []
    with network(folder) as hosts:
        try:
            for name in MACHINES:  # one by one, so that the started ones are stopped if the next cannot start
                machines += [start_machine(name, hosts, command, log, folder / f"{name}.log")]
            yield machines
        finally:
            for machine in machines:
                stop_machine(machine)


def wait_for_end(machines: list[Machine], log: EventLog, timeout: float) -> None:
    """Wait until all machines have ended the training.

    Raises:
        RuntimeError: One has not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    for machine in machines:
        try:
            status = machine.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"machine {machine.name} has not ended within {timeout:.0f} s") from None
        log.add(machine.name, f"ended with status {status}")


def load_latest_state(run: Path) -> TrainState:
    """Return the state in the latest checkpoint of a run."""
    for path in reversed(list_checkpoints(run) if run.exists() else []):
        with contextlib.suppress(FileNotFoundError):  # an old checkpoint that was just removed
            return load_train_state(path)
    return TrainState()


def wait_for_checkpoint(run: Path, is_expected: Callable[[TrainState], bool], machines: list[Machine]) -> TrainState:
    """Wait for a checkpoint that meets a condition; return its state.

    Raises:
        RuntimeError: The training ends without one.
    """
    while not is_expected(state := load_latest_state(run)):
        if all(machine.process.poll() is not None for machine in machines):
            raise RuntimeError(f"{run}: the training ended too soon, at step {state.step}")
        time.sleep(0.2)
    return state


def unplug(run: Path, machines: list[Machine], log: EventLog) -> tuple[float, float]:
    """Unplug the third machine's cable in the middle of an epoch, and plug it in when the others have resumed.

    Returns:
        The times when it was unplugged and when the next checkpoint was written, in seconds since the start.
    """
    state = wait_for_checkpoint(run, lambda state: state.epoch >= 1 and state.batch > 0, machines)
    time.sleep(1)  # some steps
    unplugged = log.seconds()
    set_cable(MACHINES[-1], "down")
    last = f"last checkpoint: step {state.step}, batch {state.batch} of an epoch"
    log.add("cable", f"unplugged from {MACHINES[-1]}; {last}")
    while log.seconds_until(unplugged, "group_world_size=2") is None and machines[0].process.poll() is None:
        time.sleep(0.2)
    resumed = load_latest_state(run)
    log.add("training", f"resumes with two machines from step {resumed.step}")
    state = wait_for_checkpoint(run, lambda state: state.step > resumed.step, machines)
    saved = log.seconds()
    set_cable(MACHINES[-1], "up")
    log.add("cable", f"plugged in again; last checkpoint: step {state.step}")
    return unplugged, saved


def print_times(log: EventLog, unplugged: float, saved: float) -> None:
    """Print the times of the events after the cable was unplugged."""
    print("\nseconds after the cable was unplugged")
    for text, seconds in {
        "the lost process is named": log.seconds_until(unplugged, "alexnet: process"),
        "two machines restart": log.seconds_until(unplugged, "group_world_size=2"),
        "their first new checkpoint; the cable is plugged in": saved - unplugged,
        "three machines restart": log.seconds_until(unplugged, "group_world_size=3"),
        "the end": log.seconds_until(unplugged, "ended with status"),
    }.items():
        print(f"{text:54} {'never' if seconds is None else f'{seconds:.1f}'}")
    print()


def print_differences(run: Path, undisturbed: Path) -> None:
    """Print how two runs differ: the loss of each epoch, and the last weights."""
    metrics = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (run, undisturbed)
    ]
    print("epoch  train loss     undisturbed    validation error  undisturbed")
    epochs = ([line for line in lines if line["event"] == "epoch"] for lines in metrics)
    for epoch, other in zip(*epochs, strict=True):
        print(f"{epoch['epoch']:5}  {epoch['train_loss']:<13.8f}  {other['train_loss']:<13.8f}  ", end="")
        print(f"{epoch['val_top1_error']:<16.2%}  {other['val_top1_error']:.2%}")
    weights, others = (
        load_checkpoint(list_checkpoints(folder)[-1]).with_prefix("net") for folder in (run, undisturbed)
    )
    difference = max(float((weights[name] - other).abs().max()) for name, other in others.items())
    greatest = max(float(other.abs().max()) for other in others.values())
    print(f"weights: greatest difference {difference:.1e}, greatest weight {greatest:.2f}")


def main() -> int:
    """Run the training twice, once with the cable unplugged, and print the events and the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path, help="new folder for the two runs and the machines' logs")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="by default " + " ".join(SETTINGS)
    )
    parser.add_argument("--hang-seconds", type=float, default=15)
    parser.add_argument("--limit", type=float, default=600, help="seconds that a training may take")
    options = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        print("cable: needs Linux, root, and the programs ip (iproute2) and unshare (util-linux)", file=sys.stderr)
        return 2

    def command(run: Path) -> list[str]:
        words = ["-m", "alexnet", "train", str(options.store.resolve()), str(run), "--parallel", "data"]
        words += ["--recipe", options.recipe, "--device", "cpu", "--checkpoint-minutes", "0.01"]
        words += ["--hang-seconds", str(options.hang_seconds)]
        return words + [word for setting in options.set or SETTINGS for word in ("--set", setting)]

    options.folder.mkdir(parents=True)
    folder = options.folder.resolve()
    try:
        log = EventLog()
        with running_machines(folder, command(folder / "unplugged"), log) as machines:
            unplugged, saved = unplug(folder / "unplugged", machines, log)
            wait_for_end(machines, log, options.limit)
        print("\nthe same training, undisturbed")
        undisturbed_log = EventLog()
        with running_machines(folder, command(folder / "undisturbed"), undisturbed_log) as machines:
            wait_for_end(machines, undisturbed_log, options.limit)
    except OSError as error:
        print(f"cable: this system does not allow it: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"cable: {error}; the machines' logs are in {folder}", file=sys.stderr)
        return 1
    print_times(log, unplugged, saved)
    print_differences(folder / "unplugged", folder / "undisturbed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A cable pulled in the middle of an epoch: three network namespaces as three machines, and the run that comes back.

    python benchmarks/cable.py STORE FOLDER [--recipe NAME] [--set FIELD=VALUE]... [--hang-seconds S]

Needs Linux, root and the programs `ip` and `unshare`. Each machine has its own network and host name; they share the
disk, as machines with a shared file system do. The cable of the third is pulled after a checkpoint in the middle of an
epoch, and plugged in again when the other two have gone on without it. It prints what happened, second by second, and
how far the losses and weights lie from those of the same training with nothing pulled.
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

from alexnet.training.checkpoint import TrainState, list_checkpoints, load_checkpoint, load_train_state

MACHINES = ("first", "second", "third")
SWITCH = "switch"
PREFIX = "alexnet-"  # of the namespaces' names
PORT = 29400
# At a higher rate, two trainings that differ by a rounding differ in their third digit after a few epochs; and a batch
# must divide by three machines and by two.
CALM = ("epochs=3", "learning_rate=0.003", "batch_size=36")
# Of what torchrun and the training say, what is an event here; the rest goes to FOLDER/MACHINE.log only.
EVENTS = (
    "alexnet: ",
    "will restart worker group",
    "group_world_size=",
    "api.RendezvousConnectionError",
    "top-1 error of",
)


def ip(*words: str) -> None:
    """Run `ip`.

    Raises:
        OSError: It fails; with what it says.
    """
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Path]:
    """Three machines on one switch: a namespace each, and one whose bridge is the switch.

    Yields:
        The hosts file that names the machines.
    """
    names = [SWITCH, *MACHINES]
    try:
        for name in names:
            ip("netns", "add", PREFIX + name)
            ip("-n", PREFIX + name, "link", "set", "lo", "up")
        ip("-n", PREFIX + SWITCH, "link", "add", "bridge", "type", "bridge")
        ip("-n", PREFIX + SWITCH, "link", "set", "bridge", "up")
        for number, name in enumerate(MACHINES):
            own = ("-n", PREFIX + name)
            ip(*own, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", PREFIX + SWITCH)
            ip(*own, "address", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
            ip(*own, "link", "set", "eth0", "up")
            ip("-n", PREFIX + SWITCH, "link", "set", name, "master", "bridge", "up")
        hosts = folder / "hosts"
        lines = ["127.0.0.1 localhost", *(f"10.77.0.{n + 1} {name}" for n, name in enumerate(MACHINES))]
        hosts.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield hosts
    finally:
        for name in names:  # the links go with them
            subprocess.run(["ip", "netns", "delete", PREFIX + name], capture_output=True, check=False)


def cable(machine: str, state: str) -> None:
    """Pull a machine's cable out of the switch ("down"), or plug it in ("up")."""
    ip("-n", PREFIX + SWITCH, "link", "set", machine, state)


@dataclass
class Diary:
    """What happened, with the seconds since the start."""

    start: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def note(self, who: str, what: str) -> None:
        """Take down an event, and print it."""
        now = time.monotonic() - self.start
        self.lines.append((now, who, what))
        print(f"{now:7.1f} s  {who:8}  {what}\n", end="", flush=True)

    def first(self, after: float, what: str) -> float | None:
        """Seconds from `after` to the first event since whose words have `what` in them; None if there was none."""
        return next((when - after for when, _, words in list(self.lines) if when > after and what in words), None)


@dataclass
class Machine:
    """One machine with its torchrun, whose words are taken down."""

    name: str
    process: subprocess.Popen
    reader: threading.Thread


def power_on(name: str, hosts: Path, command: list[str], diary: Diary, log: Path) -> Machine:
    """Start torchrun with `command` on a machine."""
    inside = f'hostname {name} && mount --bind "{hosts}" /etc/hosts && exec "$@"'
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2:3", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-id", "cable", "--rdzv-endpoint", f"{MACHINES[0]}:{PORT}"]
    # last_call: how long two wait for a third. read_timeout: how long one that is cut off keeps asking for the first.
    torchrun += ["--rdzv-conf", "last_call_timeout=10,read_timeout=120", "--max-restarts", "3"]
    namespace = ["ip", "netns", "exec", PREFIX + name, "unshare", "--uts", "sh", "-c", inside, "sh"]
    # A store of its own for each start: one kept over restarts holds the addresses of processes that have ended.
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

    def read() -> None:
        assert process.stdout is not None
        with log.open("a", encoding="utf-8") as file:
            for line in process.stdout:
                print(f"{time.monotonic() - diary.start:8.2f} {line}", end="", file=file, flush=True)
                if any(part in line for part in EVENTS):
                    diary.note(name, line.strip().rpartition("api.py:")[2].partition("] ")[2] or line.strip())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return Machine(name, process, reader)


def power_off(machine: Machine) -> None:
    """End all that runs on a machine."""
    pids = subprocess.run(["ip", "netns", "pids", PREFIX + machine.name], capture_output=True, text=True, check=False)
    for pid in pids.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    machine.process.wait()
    machine.reader.join()


@contextlib.contextmanager
def running(folder: Path, command: list[str], diary: Diary) -> Iterator[list[Machine]]:
    """Three machines at work on `command`; switched off at the end."""
    machines: list[Machine] = []
    with network(folder) as hosts:
        try:
            for name in MACHINES:  # one by one, so that those started are switched off if the next cannot be
                machines += [power_on(name, hosts, command, diary, folder / f"{name}.log")]
            yield machines
        finally:
            for machine in machines:
                power_off(machine)


def finish(machines: list[Machine], diary: Diary, seconds: float) -> None:
    """Wait until all have ended.

    Raises:
        RuntimeError: One has not within `seconds`, or has failed.
    """
    late = time.monotonic() + seconds
    for machine in machines:
        try:
            status = machine.process.wait(max(0.0, late - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"machine {machine.name} has not come to its end within {seconds:.0f} s") from None
        diary.note(machine.name, f"ended with status {status}")


def progress(run: Path) -> TrainState:
    """How far the latest checkpoint of a run is."""
    for path in reversed(list_checkpoints(run) if run.exists() else []):
        with contextlib.suppress(FileNotFoundError):  # an older one, just removed
            return load_train_state(path)
    return TrainState()


def wait_for(run: Path, wanted: Callable[[TrainState], bool], machines: list[Machine]) -> TrainState:
    """Wait for a checkpoint of a kind.

    Raises:
        RuntimeError: The training ends without one.
    """
    while not wanted(at := progress(run)):
        if all(machine.process.poll() is not None for machine in machines):
            raise RuntimeError(f"{run}: the training ended too soon, at step {at.step}")
        time.sleep(0.2)
    return at


def pull(run: Path, machines: list[Machine], diary: Diary) -> tuple[float, float]:
    """Pull the third machine's cable within an epoch, and plug it in when the others have gone on.

    Returns:
        When it was pulled and when the first checkpoint after that was there, in seconds since the start.
    """
    at = wait_for(run, lambda at: at.epoch >= 1 and at.batch > 0, machines)
    time.sleep(1)  # some steps further
    pulled = time.monotonic() - diary.start
    cable(MACHINES[-1], "down")
    diary.note("cable", f"pulled out of {MACHINES[-1]}; last checkpoint: step {at.step}, batch {at.batch} of an epoch")
    while diary.first(pulled, "group_world_size=2") is None and machines[0].process.poll() is None:
        time.sleep(0.2)
    at = progress(run)
    diary.note("training", f"goes on with two machines from step {at.step}")
    back = wait_for(run, lambda now: now.step > at.step, machines)
    saved = time.monotonic() - diary.start
    cable(MACHINES[-1], "up")
    diary.note("cable", f"plugged in again; last checkpoint: step {back.step}")
    return pulled, saved


def compare(run: Path, calm: Path) -> None:
    """Print how two runs differ: the loss of each epoch, and the last weights."""
    lines = [
        [json.loads(line) for line in (one / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for one in (run, calm)
    ]
    print("epoch  train loss     undisturbed    validation error  undisturbed")
    for one, other in zip(*([line for line in some if line["event"] == "epoch"] for some in lines), strict=True):
        print(f"{one['epoch']:5}  {one['train_loss']:<13.8f}  {other['train_loss']:<13.8f}  ", end="")
        print(f"{one['val_top1_error']:<16.2%}  {other['val_top1_error']:.2%}")
    ours, theirs = (load_checkpoint(list_checkpoints(one)[-1]).with_prefix("net") for one in (run, calm))
    far = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    size = max(float(value.abs().max()) for value in theirs.values())
    print(f"weights: greatest difference {far:.1e}, where the greatest weight is {size:.2f}")


def main() -> int:
    """Run the training twice, once with the cable pulled, and print what is to be seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path, help="for the two runs and the machines' logs; new")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="by default " + " ".join(CALM)
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
        return words + [word for one in options.set or CALM for word in ("--set", one)]

    options.folder.mkdir(parents=True)
    folder = options.folder.resolve()
    try:
        diary = Diary()
        with running(folder, command(folder / "pulled"), diary) as machines:
            pulled, saved = pull(folder / "pulled", machines, diary)
            finish(machines, diary, options.limit)
        print("\nthe same with nothing pulled")
        calm = Diary()
        with running(folder, command(folder / "calm"), calm) as machines:
            finish(machines, calm, options.limit)
    except OSError as error:
        print(f"cable: this system does not allow it: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"cable: {error}; the machines' logs are in {folder}", file=sys.stderr)
        return 1
    print("\nseconds after the cable was pulled")
    for text, when in {
        "the lost process is named": diary.first(pulled, "alexnet: process"),
        "two machines begin again": diary.first(pulled, "group_world_size=2"),
        "their first new checkpoint, and the cable plugged in": saved - pulled,
        "three machines begin again": diary.first(pulled, "group_world_size=3"),
        "the end": diary.first(pulled, "ended with status"),
    }.items():
        print(f"{text:54} {'never' if when is None else f'{when:.1f}'}")
    print()
    compare(folder / "pulled", folder / "calm")
    return 0


if __name__ == "__main__":
    sys.exit(main())

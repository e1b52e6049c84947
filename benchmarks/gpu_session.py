"""Fifteen minutes of a lent GPU: its tests, the speed table, CIFAR-10's nets in full, the paper's net on Imagenette.

    python benchmarks/gpu_session.py receive PART FILE           append a carried part of a data set to FILE
    python benchmarks/gpu_session.py start WORK                  prepare CIFAR-10, start its trainings in background
    python benchmarks/gpu_session.py run WORK OUT --seconds 400  all the rest; results go to OUT after each part
    python benchmarks/gpu_session.py rehearse WORK OUT           all of it, small, on drawn data: to see that it runs

The machine has no network, and data travels to it in parts of at most 64 MiB a call (docs/gpu.md has the calls).
WORK holds cifar-10-binary.tar.xz and imagenette.tar, then stores and runs. `run` stops the trainings (SIGSTOP) while
`benchmarks/gpu.py` measures speed, and lets them go on (SIGCONT) beside the tests and Imagenette. At the end each
training gets SIGTERM and writes a checkpoint, so that what has not ended can go on elsewhere.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CIFAR = ("cifar10-11pct", "cifar10-13pct")
IMAGENETTE = {
    "imagenette-paper": ("--recipe", "alexnet-2012-paper"),
    "imagenette-photos": ("--recipe", "photos", "--batch-size", "128", "--scale-rate", "sqrt", "--set", "epochs=100"),
}
PART_BYTES = 15 << 20  # of a result: files of at most 16 MiB come back
STOP_SECONDS = 15  # for a training to end its step and write a checkpoint


def alexnet(*arguments: str | Path) -> list[str]:
    """The command line of an `alexnet` command in this checkout."""
    return [sys.executable, "-m", "alexnet", *map(str, arguments)]


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output in a file."""
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)


def finish(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for a process; after `seconds` its group gets SIGTERM, and SIGKILL if that does not end it."""
    for wait, number in ((seconds, signal.SIGTERM), (STOP_SECONDS, signal.SIGKILL)):
        try:
            return process.wait(max(0.0, wait))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
    return process.wait()


def start_training(work: Path, name: str, store: str, options: Sequence[str], workers: int) -> subprocess.Popen[bytes]:
    """Start a training into WORK/runs/NAME."""
    command = alexnet("train", work / "stores" / store, work / "runs" / name, *options, "--workers", str(workers))
    return start(command, work / "logs" / f"{name}.log")


def start_cifar(work: Path, options: Sequence[str] = ()) -> dict[str, int]:
    """Prepare CIFAR-10 and start its trainings; their process ids by recipe, also in WORK/pids.json."""
    for folder in ("stores", "runs", "logs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    archive, store = work / "cifar-10-binary.tar.xz", work / "stores" / "cifar10"
    prepare = alexnet("prepare", archive, store, "--size", "32", "--val-batch", "5")
    subprocess.run(prepare, cwd=ROOT, check=True)
    pids = {}
    for name in CIFAR:
        pids[name] = start_training(work, name, "cifar10", ("--recipe", name, *options), workers=2).pid
    (work / "pids.json").write_text(json.dumps(pids), encoding="utf-8")
    return pids


def send(pids: dict[str, int], number: signal.Signals) -> None:
    """Send a signal to the process groups that are still there."""
    for pid in pids.values():
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            continue


def running(pids: dict[str, int]) -> list[str]:
    """Which of the processes still run."""
    return [name for name, pid in pids.items() if Path(f"/proc/{pid}/cmdline").exists() and cmdline(pid)]


def cmdline(pid: int) -> bytes:
    """The command line of a process; empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def measure_speed(out: Path, arguments: Sequence[str], seconds: float) -> None:
    """`benchmarks/gpu.py`, alone on the GPU."""
    files = ("--json", str(out / "gpu.json"), "--markdown", str(out / "gpu.md"))
    finish(start([sys.executable, "benchmarks/gpu.py", *arguments, *files], out / "gpu.log"), seconds)


def start_tests(out: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """The tests for GPUs."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *(arguments or ("tests",))]
    return start(command, out / "tests.log")


def pack(work: Path, out: Path) -> None:
    """Pack metrics, figures and logs of all runs, and CIFAR-10's checkpoints in parts small enough to come back."""
    light, heavy = out / "runs.tar.gz", work / "checkpoints.tar"
    with tarfile.open(light, "w:gz") as small, tarfile.open(heavy, "w") as large:
        for run in sorted((work / "runs").iterdir()):
            for name in ("metrics.jsonl", "recipe.json", "report.html", "figures"):
                if (run / name).exists():
                    small.add(run / name, f"{run.name}/{name}")
            latest = sorted((run / "checkpoints").glob("step-*"))[-1:] if run.name in CIFAR else []
            for path in latest:
                large.add(path, f"{run.name}/checkpoints/{path.name}")
        small.add(work / "logs", "logs")
    contents = heavy.read_bytes()
    for number, first in enumerate(range(0, len(contents), PART_BYTES)):
        (out / f"checkpoints.tar.{number}").write_bytes(contents[first : first + PART_BYTES])


def run_all(
    work: Path, out: Path, seconds: float, speed: Sequence[str], tests: Sequence[str], options: Sequence[str]
) -> None:
    """Everything after `start_cifar`, within `seconds`.

    Args:
        work: Holds the carried data, stores and runs.
        out: Where results go.
        seconds: Time for all of it.
        speed, tests, options: Further arguments of benchmarks/gpu.py, of pytest and of the training on Imagenette.
    """
    deadline = time.monotonic() + seconds - 2 * STOP_SECONDS
    pids = json.loads((work / "pids.json").read_text(encoding="utf-8"))
    store = work / "stores" / "imagenette"
    subprocess.run(alexnet("prepare", work / "imagenette.tar", store), cwd=ROOT, check=True)
    send(pids, signal.SIGSTOP)
    measure_speed(out, speed, deadline - time.monotonic())
    send(pids, signal.SIGCONT)
    testing = start_tests(out, tests)
    trainings = {
        name: start_training(work, name, "imagenette", (*arguments, *options), workers=4)
        for name, arguments in IMAGENETTE.items()
    }
    for name, training in trainings.items():
        finish(training, deadline - time.monotonic())
        run = work / "runs" / name
        for action in (("evaluate", run, store, "--json"), ("figures", run)):
            finish(start(alexnet(*action), work / "logs" / f"{name}.json"), deadline - time.monotonic())
    finish(testing, deadline - time.monotonic())
    while running(pids) and time.monotonic() < deadline:
        time.sleep(1)
    send(pids, signal.SIGTERM)
    last = time.monotonic() + STOP_SECONDS
    while running(pids) and time.monotonic() < last:
        time.sleep(0.2)
    for name in CIFAR:
        log = work / "logs" / f"{name}.json"
        command = alexnet("evaluate", work / "runs" / name, work / "stores" / "cifar10", "--split", "test", "--json")
        finish(start(command, log), last + STOP_SECONDS - time.monotonic())
    pack(work, out)


def rehearse(work: Path, out: Path) -> None:
    """The whole session on drawn data and with next to no work."""
    from synthetic_archives import write_cifar10, write_pictures

    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_cifar10(work / "cifar-10-binary.tar.xz")
    write_pictures(work / "imagenette.tar")
    small = ("--set", "precision=float32", "--set", "batch_size=16")
    start_cifar(work, small)
    tiny = (*small, "--set", "epochs=2", "--set", "warmup=0")
    run_all(work, out, 240, ("--rehearse",), ("tests/training/test_step.py",), tiny)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, names in {
        "receive": ("part", "file"),
        "start": ("work",),
        "run": ("work", "out"),
        "rehearse": ("work", "out"),
    }.items():
        command = commands.add_parser(name)
        for argument in names:
            command.add_argument(argument, type=Path)
        if name == "run":
            command.add_argument("--seconds", type=float, default=400, help="for all of it")
    options = parser.parse_args()
    if options.command == "receive":
        options.file.parent.mkdir(parents=True, exist_ok=True)
        with options.file.open("ab") as file:
            file.write(options.part.read_bytes())
    elif options.command == "start":
        print(start_cifar(options.work))
    elif options.command == "run":
        speed = ("--seconds", "0.5", "--pictures", "8192")
        run_all(options.work, options.out, options.seconds, speed, ("-n", "6", "-p", "no:benchmark"), ())
    else:
        rehearse(options.work, options.out)


if __name__ == "__main__":
    main()

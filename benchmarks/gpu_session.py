"""A session of fifteen minutes on a lent GPU: the tests for GPUs, the speed table, and trainings in full.

    python benchmarks/gpu_session.py receive PART FILE           append a part of a dataset's archive to FILE
    python benchmarks/gpu_session.py start WORK                  prepare CIFAR-10, start its trainings in the background
    python benchmarks/gpu_session.py run WORK OUT --seconds 400  do the rest; write results to OUT after each step
    python benchmarks/gpu_session.py rehearse WORK OUT           do all of it with small synthetic data, in four minutes

The trainings are CIFAR-10's two nets (`cifar10-11pct`, `cifar10-13pct`) and, on Imagenette, `alexnet-2012-paper` and
`photos`. The machine has no network: data arrives in parts of at most 64 MiB a call (docs/gpu.md has the calls). WORK
holds cifar-10-binary.tar.xz and imagenette.tar, then the stores and the runs. `run` pauses CIFAR-10's trainings
(SIGSTOP) while `benchmarks/gpu.py` measures speed, and resumes them (SIGCONT) beside the tests and Imagenette. At the
end each training that still runs gets SIGTERM and writes a checkpoint, so that it can be resumed elsewhere.
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

_ROOT = Path(__file__).resolve().parents[1]
_CIFAR10_RECIPES = ("cifar10-11pct", "cifar10-13pct")
_IMAGENETTE_OPTIONS = {
    "imagenette-paper": ("--recipe", "alexnet-2012-paper"),
    "imagenette-photos": ("--recipe", "photos", "--batch-size", "128", "--scale-rate", "sqrt", "--set", "epochs=100"),
}
_MAX_PART_BYTES = 15 << 20  # of a result file: the machine returns files of at most 16 MiB
_CHECKPOINT_SECONDS = 15  # for a training to finish its step and write a checkpoint after SIGTERM


def _alexnet_command(*arguments: str | Path) -> list[str]:
    """Return the command line of an `alexnet` command in this checkout."""
    return [sys.executable, "-m", "alexnet", *map(str, arguments)]


def _start_process(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own, with its output appended to a file."""
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=_ROOT, stdout=file, stderr=file, start_new_session=True)


def _wait_or_terminate(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Wait for a process; after `seconds` send its group SIGTERM, and SIGKILL if that does not end it."""
    for timeout, number in ((seconds, signal.SIGTERM), (_CHECKPOINT_SECONDS, signal.SIGKILL)):
        try:
            return process.wait(max(0.0, timeout))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
    return process.wait()


def _start_training(work: Path, name: str, store: str, options: Sequence[str], workers: int) -> subprocess.Popen[bytes]:
    """Start a training whose run is WORK/runs/NAME."""
    command = _alexnet_command(
        "train", work / "stores" / store, work / "runs" / name, *options, "--workers", str(workers)
    )
    return _start_process(command, work / "logs" / f"{name}.log")


def _start_cifar10(work: Path, options: Sequence[str] = ()) -> dict[str, int]:
    """Prepare CIFAR-10 and start its trainings.

    Returns:
        Their process ids by recipe, which are also written to WORK/pids.json.
    """
    for folder in ("stores", "runs", "logs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    archive, store = work / "cifar-10-binary.tar.xz", work / "stores" / "cifar10"
    prepare = _alexnet_command("prepare", archive, store, "--size", "32", "--val-batch", "5")
    subprocess.run(prepare, cwd=_ROOT, check=True)
    pids = {}
    for name in _CIFAR10_RECIPES:
        pids[name] = _start_training(work, name, "cifar10", ("--recipe", name, *options), workers=2).pid
    (work / "pids.json").write_text(json.dumps(pids), encoding="utf-8")
    return pids


def _send_signal(pids: dict[str, int], number: signal.Signals) -> None:
    """Send a signal to the process groups that still exist."""
    for pid in pids.values():
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            continue


def _any_running(pids: dict[str, int]) -> bool:
    """Whether one of the processes still runs."""
    return any(_command_line(pid) for pid in pids.values())


def _command_line(pid: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _measure_speed(out: Path, arguments: Sequence[str], seconds: float) -> None:
    """Run `benchmarks/gpu.py`, for at most `seconds`."""
    files = ("--json", str(out / "gpu.json"), "--markdown", str(out / "gpu.md"))
    command = [sys.executable, "benchmarks/gpu.py", *arguments, *files]
    _wait_or_terminate(_start_process(command, out / "gpu.log"), seconds)


def _start_tests(out: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the tests for GPUs."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *(arguments or ("tests",))]
    return _start_process(command, out / "tests.log")


def _train_imagenette(work: Path, store: Path, options: Sequence[str], deadline: float) -> None:
    """Train both nets on Imagenette at the same time, then evaluate each and draw its figures."""
    trainings = {
        name: _start_training(work, name, "imagenette", (*arguments, *options), workers=4)
        for name, arguments in _IMAGENETTE_OPTIONS.items()
    }
    for name, training in trainings.items():
        _wait_or_terminate(training, deadline - time.monotonic())
        run = work / "runs" / name
        for action in (("evaluate", run, store, "--json"), ("figures", run)):
            process = _start_process(_alexnet_command(*action), work / "logs" / f"{name}.json")
            _wait_or_terminate(process, deadline - time.monotonic())


def _finish_cifar10(work: Path, pids: dict[str, int], deadline: float) -> None:
    """Wait for CIFAR-10's trainings until the deadline, stop those that still run, and evaluate both."""
    while _any_running(pids) and time.monotonic() < deadline:
        time.sleep(1)
    _send_signal(pids, signal.SIGTERM)
    checkpoint_deadline = time.monotonic() + _CHECKPOINT_SECONDS
    while _any_running(pids) and time.monotonic() < checkpoint_deadline:
        time.sleep(0.2)
    for name in _CIFAR10_RECIPES:
        store = work / "stores" / "cifar10"
        command = _alexnet_command("evaluate", work / "runs" / name, store, "--split", "test", "--json")
        process = _start_process(command, work / "logs" / f"{name}.json")
        _wait_or_terminate(process, checkpoint_deadline + _CHECKPOINT_SECONDS - time.monotonic())


def _pack_results(work: Path, out: Path) -> None:
    """Pack metrics, figures and logs of all runs, and CIFAR-10's latest checkpoints in parts of the allowed size."""
    checkpoints = work / "checkpoints.tar"
    with tarfile.open(out / "runs.tar.gz", "w:gz") as runs_tar, tarfile.open(checkpoints, "w") as checkpoints_tar:
        for run in sorted((work / "runs").iterdir()):
            for name in ("metrics.jsonl", "recipe.json", "report.html", "figures"):
                if (run / name).exists():
                    runs_tar.add(run / name, f"{run.name}/{name}")
            if run.name in _CIFAR10_RECIPES:
                for path in sorted((run / "checkpoints").glob("step-*"))[-1:]:
                    checkpoints_tar.add(path, f"{run.name}/checkpoints/{path.name}")
        runs_tar.add(work / "logs", "logs")
    contents = checkpoints.read_bytes()
    for number, start in enumerate(range(0, len(contents), _MAX_PART_BYTES)):
        (out / f"checkpoints.tar.{number}").write_bytes(contents[start : start + _MAX_PART_BYTES])


def _run_session(
    work: Path,
    out: Path,
    seconds: float,
    speed_options: Sequence[str],
    test_options: Sequence[str],
    training_options: Sequence[str],
) -> None:
    """Do everything that follows `start`, within `seconds`.

    Args:
        work: The folder of the received archives, the stores and the runs.
        out: The folder for the results.
        seconds: The time for all of it.
        speed_options: Further arguments of `benchmarks/gpu.py`.
        test_options: Further arguments of pytest.
        training_options: Further arguments of the trainings on Imagenette.
    """
    deadline = time.monotonic() + seconds - 2 * _CHECKPOINT_SECONDS
    pids = json.loads((work / "pids.json").read_text(encoding="utf-8"))
    store = work / "stores" / "imagenette"
    subprocess.run(_alexnet_command("prepare", work / "imagenette.tar", store), cwd=_ROOT, check=True)
    _send_signal(pids, signal.SIGSTOP)
    _measure_speed(out, speed_options, deadline - time.monotonic())
    _send_signal(pids, signal.SIGCONT)
    tests = _start_tests(out, test_options)
    _train_imagenette(work, store, training_options, deadline)
    _wait_or_terminate(tests, deadline - time.monotonic())
    _finish_cifar10(work, pids, deadline)
    _pack_results(work, out)


def _rehearse(work: Path, out: Path) -> None:
    """Do the whole session with small synthetic data."""
    # Imported here: at `receive` the machine does not have the packages yet that it imports.
    from synthetic.archives import write_cifar10, write_pictures

    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_cifar10(work / "cifar-10-binary.tar.xz")
    write_pictures(work / "imagenette.tar")
    small_options = ("--set", "precision=float32", "--set", "batch_size=16")
    _start_cifar10(work, small_options)
    short_options = (*small_options, "--set", "epochs=2", "--set", "warmup=0")
    _run_session(work, out, 240, ("--rehearse",), ("tests/training/test_step.py",), short_options)


def _append_part(part: Path, file: Path) -> None:
    """Append a received part to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as archive:
        archive.write(part.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in {
        "receive": ("part", "file"),
        "start": ("work",),
        "run": ("work", "out"),
        "rehearse": ("work", "out"),
    }.items():
        command = commands.add_parser(name)
        for argument in arguments:
            command.add_argument(argument, type=Path)
        if name == "run":
            command.add_argument("--seconds", type=float, default=400, help="time for all of it; default: %(default)s")
    options = parser.parse_args()
    if options.command == "receive":
        _append_part(options.part, options.file)
    elif options.command == "start":
        print(_start_cifar10(options.work))
    elif options.command == "run":
        speed_options, test_options = ("--seconds", "0.5", "--pictures", "8192"), ("-n", "6", "-p", "no:benchmark")
        _run_session(options.work, options.out, options.seconds, speed_options, test_options, ())
    else:
        _rehearse(options.work, options.out)


if __name__ == "__main__":
    main()

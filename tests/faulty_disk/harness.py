"""Running commands on a disk that fails or in a process that is killed, and checking what they leave."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx
import pyarrow as pa
import safetensors

from alexnet.utils.checksums import damaged_parts, is_whole

HERE = Path(__file__).parent
QUICK_COMMANDS = ("index", "import", "export", "evaluate", "predict")
COMMANDS = (
    *("prepare", "train", *QUICK_COMMANDS),
    *("programs", "predict-jsonl", "explain", "report", "figures", "look", "submit", "reproduce", "demo", "check"),
)
TEMPORARY = (".part", ".writing", ".importing", ".old")
_TIMES = {"pictures_per_second", "waited_seconds", "seconds"}
_ESTIMATES = re.compile(rb"about [^<,]* here|\([^(]* are free\)")  # of the time and the space on a disk
_VOLATILE = ("files", "checksum", "checksums")  # of metadata: they follow from the times in other files


def find_compiler() -> str | None:
    """Return a C compiler for Linux, or None."""
    return (shutil.which("cc") or shutil.which("gcc")) if sys.platform == "linux" else None


class FaultyDisk:
    """The process of jobs.py, in which commands run.

    Args:
        folder: A folder for the inputs, the library and the results.
        commands: The commands that will be run beside prepare and train.
    """

    def __init__(self, folder: Path, commands: Sequence[str] = QUICK_COMMANDS) -> None:
        compiler = find_compiler()
        assert compiler
        self.folder, self.inputs, library = folder, folder / "inputs", folder / "faults.so"
        self.inputs.mkdir()
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"], check=True)
        environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = str(HERE.parents[1])
        with (folder / "jobs.txt").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, HERE / "jobs.py", self.inputs, *commands],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip
        assert self._answer() == "ready\n", (folder / "jobs.txt").read_text()
        self._expected: dict[str, dict[str, str]] = {}
        self._operations: dict[tuple[str, bool], int] = {}
        self.kills = self.failures = 0

    def __enter__(self) -> "FaultyDisk":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def run(self, command: str, work: Path, n: int = 0, how: str = "", lasts: bool = False) -> dict[str, Any]:
        """Run a command that writes to `work`; its n-th operation fails as `how` says.

        Args:
            command: One of COMMANDS.
            work: The folder that it writes to.
            n: The number of the operation, from 1; 0 for none.
            how: "kill", "tear" (kill after half of a write) or the name of an error, such as "ENOSPC".
            lasts: Whether the operations after the n-th fail, too, as on a disk that is full.

        Returns:
            Its exit status (None if it was killed), its number of operations (None if it was killed) and what it wrote
            on standard error.
        """
        assert self._process.stdin
        request = {"command": command, "work": str(work), "n": n, "how": how, "lasts": lasts}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

    def new_work(self, command: str) -> Path:
        """Return a new folder for a command; some need a run in it."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if command in ("index", "report"):
            shutil.copytree(self.inputs / "run", work / "run")
        return work

    def operations(self, command: str, how: str) -> int:
        """Return how many operations of a command can fail as `how` says."""
        key = (command, how in ("kill", "tear"))
        if key not in self._operations:
            work = self.new_work(command)
            answer = self.run(command, work, 0, how)
            assert answer["status"] == 0, answer
            self._operations[key], self._expected[command] = answer["operations"], contents_of(work)
        return self._operations[key]

    def check_kill(self, command: str, numbers: list[int], how: str = "kill") -> None:
        """Kill a command at an operation, then the command that goes on, and so on; the last one must end the same.

        Args:
            command: One of COMMANDS.
            numbers: The numbers of the operations, one for each start of the command. A command that has fewer left is
                not started again: some refuse to write over what is complete.
            how: "kill" or "tear".
        """
        self.operations(command, how)
        work, place = self.new_work(command), f"{command}, {how} {numbers}"
        for n in numbers:
            answer = self.run(command, work, n, how)
            check_files(work, place)
            if answer["status"] == 0:
                self._check_contents(command, work, place)
                return
            assert answer["status"] is None, f"{place}: {answer}"
            self.kills += 1
        self._check_end(command, work, place)

    def check_failure(self, command: str, n: int, how: str, *, lasts: bool) -> None:
        """Let an operation fail: the command must say so in a line, leave nothing half-made, and go on afterwards."""
        operations = self.operations(command, how)
        work, place = self.new_work(command), f"{command}, {how} at operation {n}"
        answer = self.run(command, work, n, how, lasts)
        lines = answer["errors"].splitlines()
        self.failures += 1
        if not lasts and answer["status"] == 0 and answer["operations"] > operations:
            self._check_contents(command, work, place)  # Python has tried again, as it does for a temporary file
            return
        assert answer["status"] == 2, f"{place}: {answer}"
        assert lines[-1].startswith("alexnet: "), f"{place}: {answer}"
        assert "Traceback" not in answer["errors"], f"{place}: {answer['errors']}"
        left = [path.name for path in work.rglob("*") if path.name.endswith(TEMPORARY)]
        assert left == [], f"{place}: {left}"
        check_files(work, place)
        self._check_end(command, work, place)

    def _check_end(self, command: str, work: Path, place: str) -> None:
        answer = self.run(command, work)
        assert answer["status"] == 0, f"{place}, then: {answer}"
        self._check_contents(command, work, place)

    def _check_contents(self, command: str, work: Path, place: str) -> None:
        actual, expected = contents_of(work), self._expected[command]
        assert actual.keys() == expected.keys(), f"{place}: {sorted(actual.keys() ^ expected.keys())}"
        different = [name for name in actual if actual[name] != expected[name]]
        assert different == [], f"{place}: {different}"


def check_files(work: Path, place: str) -> None:
    """Check that no file with its final name is damaged or half-written."""
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        if any(part.endswith(TEMPORARY) or part.startswith(".tmp") for part in path.relative_to(work).parts):
            continue  # .tmpXXXXXX: a name of safetensors for a file that it writes
        contents = path.read_bytes()
        if path.suffix == ".safetensors":
            assert not damaged_parts(contents), f"{place}: {path}: {damaged_parts(contents)}"
        elif path.suffix == ".arrow":
            pa.ipc.open_file(pa.BufferReader(contents)).read_all()
        elif path.suffix == ".pt2":
            assert zipfile.ZipFile(path).testzip() is None, f"{place}: {path}"
        elif path.suffix == ".onnx":
            onnx.checker.check_model(contents, full_check=True)
        else:
            assert is_whole(contents) is not False, f"{place}: {path}"


def contents_of(work: Path) -> dict[str, str]:
    """Return a digest of each file without the times in it, by its path."""
    files = (path for path in work.rglob("*") if path.is_file())
    return {path.relative_to(work).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    contents = path.read_bytes()
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="np") as file:
            metadata = json.loads((file.metadata() or {}).get("alexnet", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a dict
        for name in _VOLATILE:
            metadata.pop(name, None)
        for name in ("seconds", "metrics_bytes"):
            metadata.get("progress", {}).pop(name, None)
        values = {name: (str(t.dtype), t.shape, hashlib.sha256(t.tobytes()).hexdigest()) for name, t in tensors.items()}
        contents = repr((metadata, sorted(values.items()))).encode()
    elif path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in contents.splitlines()]
        lines = [line for line in lines if line["event"] != "resume"]
        contents = repr([{k: v for k, v in line.items() if k not in _TIMES} for line in lines]).encode()
    elif path.name == "check.html":
        contents = _ESTIMATES.sub(b"", contents)
    elif path.name == "report.html":  # shows times, too
        contents = b"whole" if is_whole(contents) else b"damaged"
    return hashlib.sha256(contents).hexdigest()

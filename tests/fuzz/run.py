"""Fuzz the readers of files from outside, guided by coverage (atheris) where it is installed, else by chance.

    python tests/fuzz/run.py --seconds 3600 [--inputs 100000] [--targets pictures archives ...]

Each target (targets.py) gets an equal share of the time that is left, in a process of its own. A fault is another
exception than ValueError and OSError; a file that is opened for writing outside the target's folder, a program that is
started, or a connection; a crash; more than 20 seconds; more than 3 GB of memory. Its input is written to --faults. The
figures are in docs/LOG.md. `pip install atheris` brings the fuzzer.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
NAMES = (
    *("pictures", "archives", "lists", "pickles", "store", "checkpoint"),
    *("recipe", "weights", "index", "predictions", "metrics"),
)
_FORBIDDEN = re.compile(r"os\.(system|exec|spawn|posix_spawn|fork)|subprocess\.|pty\.|socket\.(connect|bind)")


def compiled_modules() -> set[str]:
    """Return the modules of the package that may hold functions for Numba, which cannot compile instrumented code.

    These are all in `kernels`, and all whose source names Numba or the decorator's module.
    """
    root = HERE.parents[1]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for path in (root / "alexnet").rglob("*.py")
        if path.parent.name == "kernels" or re.search(r"\bnumba\b|\bkernels\.compile\b", path.read_text("utf-8"))
    }


class Fault(BaseException):
    """A reader did what no reader may do; readers cannot catch it by mistake."""


class Watch:
    """Calls a reader, and saves the inputs that are faults: one for each place in the source.

    Args:
        target: A `Target`.
        folder: Its folder.
        faults: The folder for the inputs.
        name: The first part of their names.
    """

    def __init__(self, target: Any, folder: Path, faults: Path, name: str) -> None:
        self._target, self._folder, self._faults, self._name = target, folder, faults, name
        self._writable = (str(folder), "/dev/null", os.environ["NUMBA_CACHE_DIR"])
        self._places: set[str] = set()
        self._is_reading = False
        self.count = 0
        sys.addaudithook(self._check)

    def __call__(self, data: bytes) -> None:
        """Read an input."""
        self.count += 1
        self._is_reading = True
        try:
            self._target.read(bytes(data), self._folder)
        except (ValueError, OSError):
            pass
        except BaseException as error:
            self._is_reading = False
            if isinstance(error, KeyboardInterrupt):
                raise
            self._save(data, error)
        finally:
            self._is_reading = False

    def _save(self, data: bytes, error: BaseException) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/alexnet/" in frame.filename]
        frame = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}"
        if place not in self._places:
            self._places.add(place)
            self._faults.mkdir(parents=True, exist_ok=True)
            (self._faults / f"{self._name}-{place}").write_bytes(bytes(data))
            print(f"FAULT {self._name}: {place}: {str(error)[:200]}", file=sys.stderr, flush=True)

    def _check(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise a Fault where a reader writes elsewhere, starts a program, or connects."""
        if not self._is_reading:
            return
        if _FORBIDDEN.match(event):
            raise Fault(f"{event} {arguments!r:.100}")
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path, _, flags = arguments
            is_written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if is_written and not os.fsdecode(path).startswith(self._writable):
                raise Fault(f"{path!r} is opened for writing")


def _fuzz(options: argparse.Namespace) -> None:
    """Fuzz one target in this process until the time is over."""
    name, end = options.child, time.monotonic() + options.seconds
    sys.dont_write_bytecode = True  # beside the source of modules that a reader imports
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is None:
        from targets import TARGETS, new_folder
    else:
        with atheris.instrument_imports(include=["alexnet"], exclude=sorted(compiled_modules())):
            from targets import TARGETS, new_folder
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as parent:
        folder, corpus = new_folder(Path(parent)), Path(parent) / "corpus"
        corpus.mkdir()
        target = TARGETS[name]
        seeds = target.seeds(folder)
        for number, seed in enumerate(seeds):
            (corpus / f"{number:03}").write_bytes(seed)
        watch = Watch(target, folder, options.faults, name)
        for seed in seeds:  # imports what it needs, and must be no fault
            watch(seed)
        sys.stderr.flush()
        if atheris is None:
            chooser = random.Random(options.seed)
            while time.monotonic() < end and watch.count < options.inputs:
                watch(mutate(chooser.choice(seeds), chooser))
            print(f"DONE {watch.count}", file=sys.stderr, flush=True)
            return
        settings = {
            "max_total_time": max(1, int(end - time.monotonic())),
            "runs": options.inputs,
            "timeout": 20,
            "rss_limit_mb": 3000,
            "max_len": max(map(len, seeds)) * 2,
            "seed": options.seed + 1,
            "artifact_prefix": f"{options.faults}/{name}-",
            "print_final_stats": 1,
        }
        options.faults.mkdir(parents=True, exist_ok=True)
        arguments = [sys.argv[0], *(f"-{key}={value}" for key, value in settings.items()), str(corpus)]

        def change(data: bytes, max_size: int, seed: int) -> bytes:
            """Return an input of the fuzzer's own, changed by it or by `mutate`, or a changed true one."""
            chooser = random.Random(seed)
            kind = chooser.randrange(4)
            if kind < 2:
                return bytes(atheris.Mutate(data, max_size))
            return mutate(bytes(data) if kind == 2 else chooser.choice(seeds), chooser)[:max_size]

        atheris.Setup(arguments, watch, custom_mutator=change)
        atheris.Fuzz()


def mutate(data: bytes, chooser: random.Random) -> bytes:
    """Return a changed input: bits flipped, bytes replaced, numbers made extreme, parts cut, copied or removed.

    Half of the files in the format of safetensors get a header whose length is right: the others are refused by their
    first bytes.
    """
    start = next((start for start in (0, 1) if data[start + 8 : start + 10] == b'{"'), None)
    if start is None or chooser.random() < 0.5:
        return _change(data, chooser)
    end = start + 8 + int.from_bytes(data[start : start + 8], "little")
    header = _change(data[start + 8 : end], chooser)
    return data[:start] + len(header).to_bytes(8, "little") + header + data[end:]


def _change(data: bytes, chooser: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chooser.choice((1, 1, 2, 4, 8))):
        place, kind = chooser.randrange(len(changed) + 1), chooser.randrange(7)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << chooser.randrange(8)
        elif kind == 1:
            changed[place : place + 1] = bytes([chooser.randrange(256)])
        elif kind == 2:
            extreme = chooser.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
            changed[place : place + len(extreme)] = extreme
        elif kind == 3:
            del changed[place:]
        elif kind == 4:
            del changed[place : place + chooser.randrange(1, 64)]
        elif kind == 5:
            start = chooser.randrange(len(changed) + 1)
            changed[place:place] = changed[start : start + chooser.randrange(1, 64)]
        else:
            digits = [i for i, byte in enumerate(changed[place : place + 200]) if 48 <= byte < 58]
            if digits:
                i = place + chooser.choice(digits)
                changed[i : i + 1] = chooser.choice((b"-1", b"0", b"99999999999", b"1e999", b"null", b"[]", b'""'))
    return bytes(changed)


def _run_target(name: str, seconds: float, options: argparse.Namespace) -> tuple[int, int, int]:
    """Fuzz a target for its share of the time; return the number of inputs, of faults and of crashes."""
    end, count, faults, crashes, seed = time.monotonic() + seconds, 0, 0, 0, options.seed
    while (left := end - time.monotonic()) > 10 and count < options.inputs:
        command = [sys.executable, __file__, "--child", name, "--seconds", str(left), "--seed", str(seed)]
        command += ["--inputs", str(options.inputs - count)]
        result = subprocess.run(
            [*command, "--faults", options.faults], stderr=subprocess.PIPE, text=True, errors="replace", check=False
        )
        lines = result.stderr.splitlines()
        counts = re.findall(r"^(?:#|DONE |stat::number_of_executed_units: *)(\d+)", result.stderr, re.MULTILINE)
        count += max(map(int, counts), default=0)
        for line in lines:
            if line.startswith("FAULT"):
                faults += 1
                print(line, flush=True)
        if result.returncode != 0:
            crashes += 1
            print(f"CRASH {name}, status {result.returncode}:", *lines[-25:], sep="\n  ", flush=True)
        if crashes > 20:
            break
        seed += 1
    return count, faults, crashes


def main() -> int:
    """Fuzz the targets, print the figures, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="time for all targets")
    parser.add_argument("--inputs", type=int, default=10**9, help="for each target; none more are read after them")
    parser.add_argument("--targets", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="folder for inputs that are faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _fuzz(options)
        return 0
    end, problems = time.monotonic() + options.seconds, 0
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache  # a reader compiles at its first call, which is no fault
        for number, name in enumerate(options.targets):
            start = time.monotonic()
            count, faults, crashes = _run_target(name, (end - start) / (len(options.targets) - number), options)
            problems += faults + crashes
            seconds = time.monotonic() - start
            print(f"{name:12} {count:9} inputs, {faults} faults, {crashes} crashes, {seconds:.0f} s", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

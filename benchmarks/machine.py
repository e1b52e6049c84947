"""What the scripts here share: timing ways in turn, the rates of this machine that bound them, tables and JSON."""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alexnet.recipe import Recipe
from alexnet.training.precision import uses_bfloat16
from alexnet.utils.device import has_bfloat16

# Sides of the matrices whose product gives the rate, and bytes of the copy: so large that calling costs nothing and
# that no cache holds them, so small that the CPU is done within a second.
SIDE = {"cpu": 2048, "cuda": 8192}
COPIED = {"cpu": 2**28, "cuda": 2**31}


def activity_bytes(device: torch.device, recipe: Recipe) -> int:
    """Bytes of an activity of a recipe's net on a device: 2 in bfloat16, 4 in float32."""
    return 2 if uses_bfloat16(device, recipe) else 4


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(way: Callable[[], object], device: torch.device) -> float:
    """The time that one call takes, on the device too."""
    synchronise(device)
    began = time.perf_counter()
    way()
    synchronise(device)
    return time.perf_counter() - began


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | str = "cpu",
    calls: int = 1,
    *,
    again: bool = False,
) -> dict[str, list[float]]:
    """The seconds of each way, called in turn so that a slow spell of the machine meets all; the first call warms up.

    Args:
        ways: What to time, by name.
        repeats: Times that each is timed.
        device: Where they work.
        calls: Calls per timing, whose mean is taken: more than one where a call takes less than a millisecond.
        again: Whether each timing comes after a call that is not timed, so that a way finds the memory that it freed
            and not what another left.
    """

    def several(way: Callable[[], object]) -> None:
        for _ in range(calls):
            way()

    device = torch.device(device)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            if repeat and again:
                way()
            spent = seconds(way if repeat == 0 else lambda way=way: several(way), device)  # type: ignore[misc]
            if repeat:
                found[name].append(spent / calls)
    return found


def replayed(way: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`way` as a CUDA graph, so that the GPU is timed and not Python; `way` itself on a CPU, or if it refuses."""
    if device.type != "cuda":
        return way
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            way()
    torch.cuda.current_stream(device).wait_stream(stream)
    synchronise(device)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            way()
    except RuntimeError as error:
        print(f"timed without a graph: {str(error).splitlines()[0]}")
        return way
    return graph.replay


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each way's times."""
    return {name: statistics.median(spent) for name, spent in times.items()}


def best_precision(device: torch.device) -> torch.dtype:
    """What training computes in there: bfloat16 where the device multiplies in it, else float32."""
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


@dataclass(frozen=True)
class Yardstick:
    """Something that runs at a rate no layer can pass.

    Args:
        way: Does it once.
        amount: What that is, in FLOP or bytes.
    """

    way: Callable[[], object]
    amount: float

    def rate(self, device: torch.device, repeats: int = 5) -> float:
        """Its rate timed alone: the median of several."""
        return self.amount / statistics.median(in_turn({"it": self.way}, repeats, device)["it"])


def matrix_product(device: torch.device, dtype: torch.dtype) -> Yardstick:
    """A large matrix product, in FLOP."""
    side = SIDE[device.type]
    a, b, out = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    return Yardstick(lambda: torch.mm(a, b, out=out), 2 * side**3)


def memory_copy(device: torch.device) -> Yardstick:
    """A copy of a large array, in bytes read and written."""
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return Yardstick(lambda: target.copy_(source), 2 * source.nbytes)


def about(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine and the versions that numbers are from."""
    facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    facts |= {"processor": processor(), "threads": torch.get_num_threads()}
    facts["bfloat16"] = has_bfloat16(torch.device(device))
    if torch.device(device).type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        told = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("Model name")]
    return names[0] if names else platform.machine()


def table(rows: Sequence[Sequence[object]], heads: Sequence[str]) -> str:
    """A Markdown table, its columns padded so that it reads as plain text too."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in cells]  # fmt: skip
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])


def write_json(path: Path | None, found: dict[str, Any]) -> None:
    """Write what was found, where a file is asked for."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

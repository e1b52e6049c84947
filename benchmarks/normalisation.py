"""ReLU and response normalisation, forward and backward, beside torch's implementations and a copy.

    python benchmarks/normalisation.py [--dtype float32 bfloat16] [--batch 128] [--repeats 7] [--json FILE]

It measures the two shapes that the paper's net normalises, (128, 96, 55, 55) and (128, 256, 27, 27), in two towers.
All implementations get the same activities, one after the other in one process; the table gives median ms:

- "ours": this project's kernel; "plain" is its reference `response_norm_reference`, and "compiled" that reference with
  torch.compile, left out if there is no compiler;
- "torch": torch.relu and torch.nn.LocalResponseNorm over all channels; "torch, channels_last" the same in that memory
  format; "torch, within towers" the same on each half of the channels;
- "our pool", "torch's pool": max pooling of 3 x 3 with stride 2, by this project's `max_pool` or by torch; "ours, then
  our pool" and "ours, then torch's pool": after this project's normalisation.

"copies" is the time of two copies of the activities, to memory that is allocated already, divided by the time forward
and backward; a copy is timed before each forward pass. The forward pass reads x and writes y, as one copy does; the
backward pass reads x and the gradient and writes dx, which is one and a half copies: a kernel as fast as the copy would
reach 0.8. Takes one to two minutes for each dtype on two cores.
"""

import argparse
import json
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common.timing import synchronise
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.compile import has_triton
from alexnet.kernels.pool import max_pool
from alexnet.kernels.response_norm import response_norm, response_norm_reference
from alexnet.utils.memory import keep_freed_memory

_SHAPES = ((96, 55), (256, 27))  # channels, side
_NORM_OPTIONS = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "towers": 2, "relu": True}
_POOL_OPTIONS = {"size": 3, "stride": 2}
_MAX_SECONDS = 6.0  # after which a slow implementation is not repeated
_WARM_UP_ROUNDS = 10  # unless a round takes a second: malloc needs several rounds until it keeps all memory


def _has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds the compiler that it needs."""
    return has_triton() if device.type == "cuda" else any(shutil.which(name) for name in ("g++", "clang++"))


def _implementations(device: torch.device) -> dict[str, tuple[Callable[[Tensor], Tensor], torch.memory_format]]:
    """Return what is compared, by name: a function of the activities, and the memory format that suits it."""
    torch_norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # torch divides alpha by the size
    contiguous, channels_last = torch.contiguous_format, torch.channels_last

    def norm(x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # it has no 16-bit version there; autocast converts in the same way
            return torch_norm(x.float()).to(x.dtype)
        return torch_norm(x)

    def norm_by_tower(x: Tensor) -> Tensor:
        return torch.cat([norm(tower) for tower in x.relu().chunk(2, 1)], 1)

    def reference(x: Tensor) -> Tensor:
        return response_norm_reference(x, **_NORM_OPTIONS)

    def kernel(x: Tensor) -> Tensor:
        return response_norm(x, **_NORM_OPTIONS)

    def torch_pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    implementations = {
        "ours": (kernel, channels_last),
        "torch": (lambda x: norm(x.relu()), contiguous),
        "torch, channels_last": (lambda x: norm(x.relu()), channels_last),
        "torch, within towers": (norm_by_tower, contiguous),
        "plain": (reference, channels_last),
        "torch's pool": (torch_pool, channels_last),
        "our pool": (lambda x: max_pool(x, **_POOL_OPTIONS), channels_last),
        "ours, then torch's pool": (lambda x: torch_pool(kernel(x)), channels_last),
        "ours, then our pool": (lambda x: max_pool(kernel(x), **_POOL_OPTIONS), channels_last),
    }
    if _has_compiler(device):
        implementations["compiled"] = (torch.compile(reference), channels_last)
    return implementations


class _Stopwatch:
    """Times a function forward and backward, and a copy of its input before each forward pass."""

    def __init__(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        self.x, self.function = x.requires_grad_(), function
        self.source = x.detach()
        self.target = torch.empty_like(self.source)
        self.gradient = torch.randn_like(function(x))  # this call compiles and warms up

    def time_round(self) -> tuple[float, float, float]:
        """Return the seconds forward, backward, and of the copy."""
        start = self._time()
        self.target.copy_(self.source)
        copied = self._time()
        y = self.function(self.x)
        computed = self._time()
        torch.autograd.grad(y, self.x, self.gradient)
        return computed - copied, self._time() - computed, copied - start

    def _time(self) -> float:
        synchronise(self.x.device)
        return time.perf_counter()


def _measure(
    shape: tuple[int, ...], dtype: torch.dtype, repeats: int, device: torch.device, only: list[str] | None
) -> dict[str, tuple[float, float, float]]:
    """Return the median milliseconds of each implementation: forward, backward, and of a copy.

    Args:
        shape: The shape of the activities.
        dtype: Their type.
        repeats: The number of timings of each implementation.
        device: The device.
        only: The implementations to time beside "ours"; None for all.
    """
    activities = torch.randn(shape, device=device).to(dtype)
    medians = {}
    for name, (function, memory_format) in _implementations(device).items():
        if only and name not in only and name != "ours":
            continue
        stopwatch = _Stopwatch(activities.clone(memory_format=memory_format), function)
        for _ in range(_WARM_UP_ROUNDS):
            if sum(stopwatch.time_round()) > 1:
                break
        times: list[tuple[float, float, float]] = []
        while len(times) < repeats and sum(map(sum, times)) < _MAX_SECONDS:
            times.append(stopwatch.time_round())
        forward, backward, copy = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        medians[name] = (forward, backward, copy)
    return medians


def _print_times(shape: tuple[int, ...], dtype: str, times: dict[str, tuple[float, float, float]]) -> None:
    """Print a table of the implementations' times at a shape."""
    forward, backward, copy = times["ours"]
    kernel_time = forward + backward
    print(f"\n{shape} {dtype}: a copy takes {copy:.2f} ms")
    print(f"{'implementation':24} {'forward ms':>11} {'back ms':>9} {'both':>9} {'/ ours':>8} {'copies':>7}")
    for name, (forward, backward, copy) in times.items():
        both = forward + backward
        ratio, copies = both / kernel_time, 2 * copy / both
        print(f"{name:24} {forward:11.1f} {backward:9.1f} {both:9.1f} {ratio:7.2f}x {copies:7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"), default=["float32"])
    parser.add_argument("--batch", type=int, default=128, help="pictures in a batch; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each; default: %(default)s")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    parser.add_argument("--only", nargs="+", metavar="NAME", help='the rows to measure; default: all; always "ours"')
    options = parser.parse_args()
    keep_freed_memory()
    device = options.device
    path = "Numba's loops" if device.type == "cpu" else "Triton" if has_triton() else "plain torch: no Triton"
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}, {machine}; ours: {path}")
    if not _has_compiler(device):
        print("no compiler: torch.compile is left out")
    results = []
    for dtype in options.dtype:
        for channels, side in _SHAPES:
            shape = (options.batch, channels, side, side)
            times = _measure(shape, getattr(torch, dtype), options.repeats, device, options.only)
            _print_times(shape, dtype, times)
            results.append({"dtype": dtype, "shape": shape, "forward_back_copy_ms": times})
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

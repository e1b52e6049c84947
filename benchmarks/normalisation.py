"""ReLU and response normalisation, forward and backward, beside what else torch offers for it, and beside copying.

    python benchmarks/normalisation.py [--dtype float32 bfloat16] [--batch 128] [--repeats 7] [--json FILE]

At the two places where the paper's net normalises: (128, 96, 55, 55) and (128, 256, 27, 27), in two towers. All ways
take the same activities in one process, one after the other, with freed memory kept as training does; the table gives
medians.

"copies" is the time of copying the activities to memory already there, twice, as a share of the way's time forward and
backward; the copy is measured before each round of the way. (Forward reads x and writes y, as one copy does; backward
reads x and the gradient and writes dx, one and a half: a loop as fast as the copy would reach 0.8.) "torch" is
torch.relu and torch.nn.LocalResponseNorm over whole maps, "within towers" the same on each half of the maps, "plain" is
`response_norm_reference`, "compiled" torch.compile of that, left out where there is no compiler. The rows with "pool"
have max pooling, 3 x 3 with stride 2, behind: ours of `max_pool`, or torch's.
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
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.kernels.compile import has_triton
from alexnet.kernels.pool import max_pool
from alexnet.kernels.response_norm import response_norm, response_norm_reference
from alexnet.utils.memory import keep_freed_memory

SHAPES = ((96, 55), (256, 27))
PAPER = {"size": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75, "towers": 2, "relu": True}
POOL = {"size": 3, "stride": 2}
ENOUGH = 6.0  # seconds after which a slow way is not repeated
WARM = 10  # rounds before, unless they take long: malloc keeps all it needs only after some


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it makes code with."""
    return has_triton() if device.type == "cuda" else any(shutil.which(name) for name in ("g++", "clang++"))


def ways(device: torch.device) -> dict[str, tuple[Callable[[Tensor], Tensor], torch.memory_format]]:
    """What is compared: a function of the activities, and the memory that suits it."""
    torch_norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)  # it divides alpha by the size
    wide, last = torch.contiguous_format, torch.channels_last

    def norm(x: Tensor) -> Tensor:
        if x.device.type == "cpu":  # which it cannot do in 16 bits; autocast makes the same conversion
            return torch_norm(x.float()).to(x.dtype)
        return torch_norm(x)

    def plain(x: Tensor) -> Tensor:
        return response_norm_reference(x, **PAPER)

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    found = {
        "ours": (lambda x: response_norm(x, **PAPER), last),
        "torch": (lambda x: norm(x.relu()), wide),
        "torch, channels_last": (lambda x: norm(x.relu()), last),
        "torch, within towers": (lambda x: torch.cat([norm(part) for part in x.relu().chunk(2, 1)], 1), wide),
        "plain": (plain, last),
        "torch's pool": (pool, last),
        "our pool": (lambda x: max_pool(x, **POOL), last),
        "ours, then torch's pool": (lambda x: pool(response_norm(x, **PAPER)), last),
        "ours, then our pool": (lambda x: max_pool(response_norm(x, **PAPER), **POOL), last),
    }
    if has_compiler(device):
        found["compiled"] = (torch.compile(plain), last)
    return found


class Clock:
    """Times a way of computing forward and back, and a copy of the activities before each."""

    def __init__(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        self.x, self.function = x.requires_grad_(), function
        self.source = x.detach()
        self.target = torch.empty_like(self.source)
        self.g = torch.randn_like(function(x))  # compiles and warms up

    def now(self) -> float:
        if self.x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def round(self) -> tuple[float, float, float]:
        """Seconds forward, back, and of a copy."""
        began = self.now()
        self.target.copy_(self.source)
        copied = self.now()
        y = self.function(self.x)
        between = self.now()
        torch.autograd.grad(y, self.x, self.g)
        return between - copied, self.now() - between, copied - began


def measure(
    shape: tuple[int, ...], dtype: torch.dtype, repeats: int, device: torch.device, only: list[str] | None
) -> dict[str, tuple[float, float, float]]:
    """Median milliseconds of each way: forward, back, and a copy."""
    drawn = torch.randn(shape, device=device).to(dtype)
    medians = {}
    for name, (function, kind) in ways(device).items():
        if only and name not in only and name != "ours":
            continue
        clock = Clock(drawn.clone(memory_format=kind), function)
        for _ in range(WARM):
            if sum(clock.round()) > 1:
                break
        times: list[tuple[float, float, float]] = []
        while len(times) < repeats and sum(map(sum, times)) < ENOUGH:
            times.append(clock.round())
        forward, back, copy = (1000 * statistics.median(column) for column in zip(*times, strict=True))
        medians[name] = (forward, back, copy)
    return medians


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16", "float16"), default=["float32"])
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options.add_argument("--json", type=Path)
    options.add_argument("--only", nargs="+", metavar="WAY", help="leave out the other ways")
    given = options.parse_args()
    keep_freed_memory()
    path = "Numba's loops" if given.device.type == "cpu" else "Triton" if has_triton() else "plain torch: no Triton"
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.device}, {machine}; ours: {path}")
    if not has_compiler(given.device):
        print("no compiler: torch.compile is left out")
    results = []
    for dtype in given.dtype:
        for channels, side in SHAPES:
            shape = (given.batch, channels, side, side)
            times = measure(shape, getattr(torch, dtype), given.repeats, given.device, given.only)
            ours, _, copy = times["ours"]
            ours += times["ours"][1]
            print(f"\n{shape} {dtype}: a copy takes {copy:.2f} ms")
            print(f"{'way':24} {'forward ms':>11} {'back ms':>9} {'both':>9} {'/ ours':>8} {'copies':>7}")
            for name, (forward, back, copy) in times.items():
                both = forward + back
                print(f"{name:24} {forward:11.1f} {back:9.1f} {both:9.1f} {both / ours:7.2f}x {2 * copy / both:7.2f}")
            results.append({"dtype": dtype, "shape": shape, "forward_back_copy_ms": times})
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

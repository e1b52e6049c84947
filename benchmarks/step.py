"""One training step of the full two-tower net, beside the same net written with torch.nn layers only.

    python benchmarks/step.py [--batch 128] [--classes 1000] [--repeats 5] [--precision float32 bfloat16]

Both nets take the same batch, in the same process, turn by turn, with freed memory kept for both; the table gives the
median pictures/s of each and the ratio. "stock" is what a user of torch would write: Conv2d with groups, ReLU,
LocalResponseNorm over each tower, MaxPool2d, Linear, Dropout, cross_entropy and torch.optim.SGD, channels_last like
ours. bfloat16 is by autocast, and slow where the processor has no instructions for it (the last line says whether this
one has).
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.learning.measure import has_bfloat16
from alexnet.learning.memory import keep_freed_memory
from alexnet.learning.sgd import SGD, groups
from alexnet.nets.alexnet import AlexNet
from alexnet.recipe import Recipe


class TowerNorm(nn.Module):
    """torch's LocalResponseNorm within each of two towers; it divides alpha by the size, which is undone here."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.norm(part) for part in x.chunk(2, 1)], 1)


def stock(classes: int) -> nn.Module:
    """The paper's net in torch.nn layers."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(), TowerNorm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), TowerNorm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
        *(nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
        nn.Linear(4096, classes),
    )


def stepper(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, half: bool) -> Callable[[], float]:
    """A function that makes one step and returns its seconds."""

    def step() -> float:
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(x)
        optimiser.zero_grad()
        F.cross_entropy(logits.float(), y).backward()
        optimiser.step()
        return time.perf_counter() - began

    return step


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--classes", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    given = options.parse_args()
    keep_freed_memory()
    x = (torch.randn(given.batch, 3, 224, 224) * 50).to(memory_format=torch.channels_last)
    y = torch.randint(given.classes, (given.batch,))
    ours, theirs = AlexNet(given.classes), stock(given.classes)
    for net in (ours, theirs):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rules = (
        SGD(groups(ours, Recipe()), rate=1e-4, momentum=0.9, decay=5e-4),
        torch.optim.SGD(theirs.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4),
    )
    print(f"batch {given.batch}, {given.classes} classes, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'precision':10} {'ours':>12} {'stock':>12} {'ratio':>7}")
    for precision in given.precision:
        half = precision == "bfloat16"
        steps = [stepper(n, r, x, y, half) for n, r in zip((ours, theirs), rules, strict=True)]
        seconds: list[list[float]] = [[], []]
        for turn in range(given.repeats + 1):
            for step, times in zip(steps, seconds, strict=True):
                spent = step()
                if turn:  # the first warms up
                    times.append(spent)
        a, b = (given.batch / statistics.median(times) for times in seconds)
        print(f"{precision:10} {a:8.1f} /s {b:9.1f} /s {a / b:6.2f}x", flush=True)
    has = "has" if has_bfloat16(torch.device("cpu")) else "has no"
    print(f"{platform.processor() or platform.machine()}: the processor {has} bfloat16 arithmetic")


if __name__ == "__main__":
    main()

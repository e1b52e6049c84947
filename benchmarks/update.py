"""The update rule over the parameters of the full net, in one pass and in others.

    python benchmarks/update.py [--classes 1000] [--repeats 7] [--threads N] [--json FILE]

All ways move tensors of the same shapes, turn by turn in one process, on the GPU where there is one. One pass reads
weights, velocities and gradients and writes the first two: five streams. The bound is what copying as many bytes takes,
timed in turn with the others; a CPU also reads what a copy overwrites, which an update in place need not, so that there
the share can pass 1.
"""

import argparse
from pathlib import Path

import torch
from environment import environment_info
from output import markdown_table, write_json
from roofline import memory_copy
from timing import medians, time_interleaved
from torch import Tensor, nn

from alexnet.kernels.update import update_reference
from alexnet.models.alexnet import AlexNet
from alexnet.training.sgd import SGD
from alexnet.utils.memory import keep_freed_memory

RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4


def four_passes(weights: list[Tensor], velocities: list[Tensor], gradients: list[Tensor]) -> None:
    """What this project did before: 11 streams."""
    torch._foreach_mul_(velocities, MOMENTUM)
    torch._foreach_add_(velocities, weights, alpha=-DECAY * RATE)
    torch._foreach_add_(velocities, gradients, alpha=-RATE)
    torch._foreach_add_(weights, velocities)


def plain(weights: list[Tensor], velocities: list[Tensor], gradients: list[Tensor]) -> None:
    """The reference: an operation at a time, with a tensor for each result."""
    for part in zip(weights, velocities, gradients, strict=True):
        update_reference(*part, RATE, MOMENTUM, DECAY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of the CPU; torch's choice by default")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = [nn.Parameter(w.detach()) for w in AlexNet(options.classes).to_channels_last(device).parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight) * 1e-3
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    velocities = [torch.zeros_like(weight) for weight in weights]
    bare = [weight.detach() for weight in weights]
    ways = {
        "one pass (alexnet.training.sgd.SGD)": SGD(weights, rate=RATE, momentum=MOMENTUM, decay=DECAY).step,
        "four passes of torch._foreach (before)": lambda: four_passes(bare, velocities, gradients),
        "plain torch (update_reference)": lambda: plain(bare, velocities, gradients),
        "torch.optim.SGD": torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY).step,
        "torch.optim.SGD, fused": torch.optim.SGD(
            weights, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True
        ).step,
    }
    copy = memory_copy(device)
    found = medians(time_interleaved(ways | {"copy": copy.function}, options.repeats, device))
    moved = 5 * sum(weight.nbytes for weight in weights)
    bound = moved / copy.amount * found.pop("copy")
    parameters, megabytes = sum(weight.numel() for weight in weights), moved / 1e6
    print(environment_info(device))
    print(f"{parameters:,} parameters, {megabytes:,.0f} MB in five streams, {1000 * bound:.1f} ms to copy them")
    ours = next(iter(found.values()))
    rows = [
        (name, f"{1000 * spent:.1f}", f"{spent / ours:.2f}x", f"{bound / spent:.2f}") for name, spent in found.items()
    ]
    print(markdown_table(rows, ("way", "ms", "of one pass", "bound / time")))
    write_json(options.json, {"machine": environment_info(device), "bytes": moved, "bound_s": bound, "seconds": found})


if __name__ == "__main__":
    main()

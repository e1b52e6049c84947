"""The update rule over all parameters of the paper's net, beside other implementations and a copy of as many bytes.

    python benchmarks/update.py [--classes 1000] [--repeats 7] [--threads N] [--json FILE]

All update tensors of the same shapes, timed in turn in one process, on the GPU if there is one. "one pass" reads
weights, velocities and gradients once and writes weights and velocities: five streams of memory. The bound is the time
of copying as many bytes. On a CPU a copy also reads the memory that it overwrites, which an update in place does not,
so the share of the bound can exceed 1. Takes about ten seconds on two cores.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.roofline import memory_copy
from common.timing import medians, time_interleaved
from torch import Tensor, nn

from alexnet.kernels.update import update_reference
from alexnet.models.alexnet import AlexNet
from alexnet.training.sgd import SGD
from alexnet.utils.memory import keep_freed_memory

_RATE, _MOMENTUM, _DECAY = 1e-4, 0.9, 5e-4


def _update_in_four_passes(weights: list[Tensor], velocities: list[Tensor], gradients: list[Tensor]) -> None:
    """Update with torch's _foreach functions, as this project did before: 11 streams of memory."""
    torch._foreach_mul_(velocities, _MOMENTUM)
    torch._foreach_add_(velocities, weights, alpha=-_DECAY * _RATE)
    torch._foreach_add_(velocities, gradients, alpha=-_RATE)
    torch._foreach_add_(weights, velocities)


def _update_by_reference(weights: list[Tensor], velocities: list[Tensor], gradients: list[Tensor]) -> None:
    """Update with the plain reference: one operation at a time, with a new tensor for each result."""
    for tensors in zip(weights, velocities, gradients, strict=True):
        update_reference(*tensors, _RATE, _MOMENTUM, _DECAY)


def _updates(weights: list[nn.Parameter]) -> dict[str, Callable[[], object]]:
    """Return a function for each implementation of the update, by name; the weights must have gradients."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    velocities = [torch.zeros_like(weight) for weight in weights]
    tensors = [weight.detach() for weight in weights]
    torch_options = {"lr": _RATE, "momentum": _MOMENTUM, "weight_decay": _DECAY}
    return {
        "one pass (alexnet.training.sgd.SGD)": SGD(weights, rate=_RATE, momentum=_MOMENTUM, decay=_DECAY).step,
        "four passes of torch._foreach (before)": lambda: _update_in_four_passes(tensors, velocities, gradients),
        "plain torch (update_reference)": lambda: _update_by_reference(tensors, velocities, gradients),
        "torch.optim.SGD": torch.optim.SGD(weights, **torch_options).step,  # type: ignore[arg-type]
        "torch.optim.SGD, fused": torch.optim.SGD(weights, fused=True, **torch_options).step,  # type: ignore[arg-type]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000, help="outputs of the net; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each update; default: %(default)s")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()  # as training does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = [nn.Parameter(w.detach()) for w in AlexNet(options.classes).to_channels_last(device).parameters()]
    for weight in weights:
        weight.grad = torch.randn_like(weight) * 1e-3
    copy = memory_copy(device)
    functions = _updates(weights) | {"copy": copy.function}
    seconds = medians(time_interleaved(functions, options.repeats, device))
    moved_bytes = 5 * sum(weight.nbytes for weight in weights)
    bound = moved_bytes / copy.amount * seconds.pop("copy")
    info = environment_info(device)
    print(info)
    print(f"{sum(weight.numel() for weight in weights):,} parameters, {moved_bytes / 1e6:,.0f} MB in five streams, "
          f"{1000 * bound:.1f} ms to copy them")  # fmt: skip
    one_pass = next(iter(seconds.values()))
    rows = [
        (name, f"{1000 * duration:.1f}", f"{duration / one_pass:.2f}x", f"{bound / duration:.2f}")
        for name, duration in seconds.items()
    ]
    print(markdown_table(rows, ("update", "ms", "against one pass", "bound / time")))
    write_json(options.json, {"machine": info, "bytes": moved_bytes, "bound_s": bound, "seconds": seconds})


if __name__ == "__main__":
    main()

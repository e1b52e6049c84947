"""Locally connected layers, forward and back, beside other ways to write them and a convolution of the same sizes.

    python benchmarks/local.py [--batch 128] [--repeats 11] [--device cpu] [--json FILE]

The layers are those of the 2012 program's CIFAR-10 net "11%": 6 x 6 places, 64 maps read, 64 and 32 made, 3 x 3. Beside
ours: "autograd", the same batched product with torch's own back-propagation; "F.unfold", as a user of torch would write
it; "convolution", whose kernels are shared, and which does the same arithmetic: what could be reached.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment_info
from output import markdown_table, write_json
from timing import medians, time_interleaved
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.locally_connected import locally_connected
from alexnet.utils.memory import keep_freed_memory

SIDE, CHANNELS, KERNEL = 6, 64, 3


def autograd(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Patches as ours lays them out, and one product over places, left to torch to differentiate."""
    windows = F.pad(x, (1, 1, 1, 1)).movedim(1, 3).unfold(1, KERNEL, 1).unfold(2, KERNEL, 1)
    patches = windows.permute(1, 2, 0, 4, 5, 3).reshape(SIDE * SIDE, len(x), -1)
    y = torch.baddbmm(bias.flatten(0, 1)[:, None], patches, weight.flatten(0, 1).flatten(2).mT)
    return y.unflatten(0, (SIDE, SIDE)).permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def unfold(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.unfold and an einsum; the weights lie as it wants them, (places, maps, channels * kernel * kernel)."""
    y = torch.einsum("nkp,pmk->nmp", F.unfold(x, KERNEL, padding=1), weight) + bias.T
    return y.unflatten(2, (SIDE, SIDE))


def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same sizes with shared kernels."""
    return F.conv2d(x, weight, bias, padding=1)


def step(way: Callable[..., Tensor], inputs: list[Tensor], maps: int) -> Callable[[], object]:
    """Forward and back through a layer."""
    g = torch.randn(len(inputs[0]), maps, SIDE, SIDE, device=inputs[0].device).to(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(way(*inputs), inputs, g)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--repeats", type=int, default=11)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--json", type=Path, metavar="FILE")
    given = options.parse_args()
    keep_freed_memory()
    device, found, rows = torch.device(given.device), {}, []
    print(f"forward and back, batch {given.batch}, {environment_info(device)}")
    for maps in (64, 32):
        x = torch.randn(given.batch, CHANNELS, SIDE, SIDE, device=device).to(memory_format=torch.channels_last)
        places, inputs = (SIDE, SIDE), KERNEL * KERNEL * CHANNELS
        shapes = {
            "ours": ((*places, maps, KERNEL, KERNEL, CHANNELS), (*places, maps)),
            "autograd": ((*places, maps, KERNEL, KERNEL, CHANNELS), (*places, maps)),
            "F.unfold": ((SIDE * SIDE, maps, inputs), (SIDE * SIDE, maps)),
            "convolution": ((maps, CHANNELS, KERNEL, KERNEL), (maps,)),
        }
        kinds = {"ours": lambda x, w, b: locally_connected(x, w, b, padding=1), "autograd": autograd,
                 "F.unfold": unfold, "convolution": convolution}  # fmt: skip
        ways = {
            name: step(
                kinds[name], [t.requires_grad_() for t in (x, *(torch.randn(s, device=device) for s in both))], maps
            )
            for name, both in shapes.items()
        }
        spent = medians(time_interleaved(ways, given.repeats, device))
        found[f"{CHANNELS} to {maps}"] = spent
        rows += [
            (f"{CHANNELS} to {maps}", name, f"{1e3 * s:.2f}", f"{s / spent['ours']:.2f}x") for name, s in spent.items()
        ]
    print(markdown_table(rows, ("maps", "way", "ms", "against ours")))
    write_json(given.json, {"about": environment_info(device), "batch": given.batch, "seconds": found})


if __name__ == "__main__":
    main()

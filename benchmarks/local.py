"""Locally connected layers, forward and backward, beside other implementations and a convolution of the same sizes.

    python benchmarks/local.py [--batch 128] [--repeats 11] [--device cpu] [--json FILE]

The layers are those of the 2012 program's CIFAR-10 net "11%": 6 x 6 positions, 64 input channels, 64 and 32 output
channels, 3 x 3 windows. The table gives the median ms of each:

- "ours": this project's layer;
- "autograd": the same batched matrix product, with the gradients by torch's autograd;
- "F.unfold": F.unfold and an einsum, as a user of torch would write it;
- "convolution": the same arithmetic with shared kernels, which is a bound on what can be reached.

Takes a few seconds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.timing import medians, time_interleaved
from torch import Tensor
from torch.nn import functional as F

from alexnet.kernels.locally_connected import locally_connected
from alexnet.utils.memory import keep_freed_memory

_SIDE, _CHANNELS, _KERNEL = 6, 64, 3


def _kernel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """This project's layer; weight (6, 6, maps, 3, 3, channels), bias (6, 6, maps)."""
    return locally_connected(x, weight, bias, padding=1)


def _autograd(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same patches and product as the kernel's, differentiated by torch."""
    windows = F.pad(x, (1, 1, 1, 1)).movedim(1, 3).unfold(1, _KERNEL, 1).unfold(2, _KERNEL, 1)
    patches = windows.permute(1, 2, 0, 4, 5, 3).reshape(_SIDE * _SIDE, len(x), -1)
    y = torch.baddbmm(bias.flatten(0, 1)[:, None], patches, weight.flatten(0, 1).flatten(2).mT)
    return y.unflatten(0, (_SIDE, _SIDE)).permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def _unfold(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.unfold and an einsum; weight (positions, maps, channels * 3 * 3), in the order of F.unfold."""
    y = torch.einsum("nkp,pmk->nmp", F.unfold(x, _KERNEL, padding=1), weight) + bias.T
    return y.unflatten(2, (_SIDE, _SIDE))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution, whose kernels all positions share; weight (maps, channels, 3, 3)."""
    return F.conv2d(x, weight, bias, padding=1)


def _make_step(layer: Callable[..., Tensor], inputs: list[Tensor], maps: int) -> Callable[[], object]:
    """Return a function that computes a layer's output and the gradients of all its inputs."""
    device = inputs[0].device
    gradient = torch.randn(len(inputs[0]), maps, _SIDE, _SIDE, device=device).to(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(layer(*inputs), inputs, gradient)


def _measure(maps: int, batch_size: int, repeats: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each layer with this number of output channels."""
    x = torch.randn(batch_size, _CHANNELS, _SIDE, _SIDE, device=device).to(memory_format=torch.channels_last)
    local_shapes = ((_SIDE, _SIDE, maps, _KERNEL, _KERNEL, _CHANNELS), (_SIDE, _SIDE, maps))
    unfold_shapes = ((_SIDE * _SIDE, maps, _KERNEL * _KERNEL * _CHANNELS), (_SIDE * _SIDE, maps))
    layers = {
        "ours": (_kernel, local_shapes),
        "autograd": (_autograd, local_shapes),
        "F.unfold": (_unfold, unfold_shapes),
        "convolution": (_convolution, ((maps, _CHANNELS, _KERNEL, _KERNEL), (maps,))),
    }
    steps = {}
    for name, (layer, shapes) in layers.items():
        weight, bias = (torch.randn(shape, device=device) for shape in shapes)
        steps[name] = _make_step(layer, [tensor.requires_grad_() for tensor in (x, weight, bias)], maps)
    return medians(time_interleaved(steps, repeats, device))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="pictures in a batch; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=11, help="timings of each layer; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the file to write the numbers to")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    info = environment_info(device)
    print(f"forward and back, batch {options.batch}, {info}")
    results, rows = {}, []
    for maps in (64, 32):
        name = f"{_CHANNELS} to {maps}"
        seconds = results[name] = _measure(maps, options.batch, options.repeats, device)
        rows += [
            (name, layer, f"{1e3 * duration:.2f}", f"{duration / seconds['ours']:.2f}x")
            for layer, duration in seconds.items()
        ]
    print(markdown_table(rows, ("channels", "layer", "ms", "against ours")))
    write_json(options.json, {"about": info, "batch": options.batch, "seconds": results})


if __name__ == "__main__":
    main()

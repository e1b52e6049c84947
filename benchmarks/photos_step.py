"""One training step of the recipe `photos`: batch sizes, sides of the crops, and the copies of weights in bfloat16.

    python benchmarks/photos_step.py [--batches 32 64 128] [--sizes 128 160 224] [--repeats 5] [--threads N]
                                     [--json FILE]

The table has a row for each batch size and side of the crops: the median milliseconds of a step on random pictures and
the pictures per second; the milliseconds without copies, and how much longer that takes. Without a copy of its weight
in bfloat16, which the update rule writes, a fully connected layer converts its weight in each step, and its gradient
(`alexnet.models.bfloat16_copy`); without bfloat16 arithmetic there are none. All are timed in turn in one process, on
the CPU. Takes about two minutes on two cores.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.timing import medians, time_interleaved
from common.training import random_batch

from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import FullyConnected
from alexnet.recipes import recipe_named
from alexnet.training.estimate import make_train_step
from alexnet.utils.memory import keep_freed_memory

_CLASSES = 101


def _make_step(batch: int, *, with_copies: bool) -> Callable[..., object]:
    """Return a function that makes a step on images and labels."""
    recipe = replace(recipe_named("photos"), batch_size=batch)
    net = AlexNet(_CLASSES, recipe.net).to_channels_last(torch.device("cpu"))
    step = make_train_step(net, recipe)
    for layer in net.layers().values() if not with_copies else ():
        if isinstance(layer, FullyConnected):
            layer.bfloat16_copy, layer.weight.grad_dtype = None, torch.float32
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128], help="default: 32 64 128")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 160, 224], help="default: 128 160 224")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each step; default: %(default)s")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows, numbers = [], []
    for batch in options.batches:
        steps = {"with": _make_step(batch, with_copies=True), "without": _make_step(batch, with_copies=False)}
        images, labels = random_batch(batch, _CLASSES, torch.device("cpu"))
        functions = {
            f"{size} {kind}": partial(step, images[:, :, :size, :size], labels)
            for size in options.sizes
            for kind, step in steps.items()
        }
        seconds = medians(time_interleaved(functions, options.repeats))
        for size in options.sizes:
            copied, plain = seconds[f"{size} with"], seconds[f"{size} without"]
            speed, gain = f"{batch / copied:.1f}", f"{plain / copied - 1:+.1%}"
            rows.append((batch, size, f"{1000 * copied:.0f}", speed, f"{1000 * plain:.0f}", gain))
            numbers.append({"batch": batch, "size": size, "with_copies_s": copied, "without_s": plain})
    info = environment_info()
    print(info)
    print(markdown_table(rows, ("batch", "side", "ms a step", "pictures/s", "ms without copies", "longer")))
    write_json(options.json, {"machine": info, "rows": numbers})


if __name__ == "__main__":
    main()

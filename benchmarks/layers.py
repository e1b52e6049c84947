"""Where the time of one training step goes: each layer's time, forward and back, beside its own bound.

    python benchmarks/layers.py [--batch 128] [--classes 1000] [--repeats 3] [--precision auto] [--threads N]
                                [--json FILE]

Each module of the full net is timed alone, with the input it has in the whole net and a gradient for its output; so are
the loss and the update, and the whole step, all in turn in one process, on the GPU where there is one. A layer's bound
is its arithmetic at the rate of a large matrix product in that precision, or its bytes at the rate of a copy, whichever
takes longer; both are timed in turn with the layers. Bytes are what must be read and written if every tensor is touched
once: input, output, their gradients, weights and theirs, and the input again where the way back needs it. What the step
takes beyond the sum is passing between layers; what it takes less, memory that is still in the cache.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from environment import environment_info
from output import markdown_table, write_json
from roofline import matrix_product, memory_copy
from timing import capture_graph, medians, time_interleaved
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.models.alexnet import AlexNet
from alexnet.models.layers import ResponseNormalisation
from alexnet.recipe import Recipe
from alexnet.training.precision import autocast, uses_bfloat16
from alexnet.training.sgd import SGD, parameter_groups
from alexnet.training.step import Step
from alexnet.utils.memory import keep_freed_memory


@dataclass(frozen=True)
class Layer:
    """A module of the net with what goes through it.

    Args:
        name: Of the block and the module's class: "conv1 Convolution".
        way: Goes through it forward and back once.
        flop: Multiplications and additions of its matrix products or convolutions.
        moved: Bytes that must be read and written.
    """

    name: str
    way: Callable[[], object]
    flop: float
    moved: float


def layers(net: AlexNet, images: Tensor, recipe: Recipe) -> list[Layer]:
    """Every module of the net that has no parts, and the flattening between the convolutions and the full layers."""
    seen: list[tuple[str, Callable[[Tensor], Tensor], Tensor, Tensor]] = []

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, given, result: seen.append((name, module, given[0].detach(), result.detach()))

    hooks = []
    for name, module in net.named_modules():
        if not list(module.children()):
            block = name.removeprefix("convs.").removeprefix("hidden.").split(".")[0]
            hooks.append(module.register_forward_hook(keep(f"{block} {type(module).__name__}")))
    with torch.no_grad(), autocast(images.device, recipe):
        net(images)
    for hook in hooks:
        hook.remove()
    place = next(n for n, (_, module, *_) in enumerate(seen) if isinstance(module, nn.Linear))
    maps, flat = seen[place - 1][3], seen[place][2]
    seen.insert(place, ("flatten", lambda x: x.flatten(1), maps, flat))
    return [layer(*what, recipe, first=n == 0) for n, what in enumerate(seen)]


def layer(name: str, module: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, recipe: Recipe, *, first: bool) -> Layer:
    """One module with its input and output, ready to be timed.

    Args:
        first: Whether it reads the pictures, which want no gradient.
    """
    x.requires_grad_(not first)
    gradient = torch.randn_like(y)
    weights = list(module.parameters()) if isinstance(module, nn.Module) else []
    wanted = [*weights, *([] if first else [x])]

    def way() -> None:
        with autocast(x.device, recipe):
            out = module(x)
        torch.autograd.grad(out, wanted, gradient)

    times = 2 if first else 3  # products: forward, for the weights, and for the input where it wants a gradient
    flop = 0.0
    moved = (x.nbytes + y.nbytes) * (1 if first else 2)
    if isinstance(module, nn.Conv2d | nn.Linear):
        each = 2 * weights[0].numel() * (y.shape[2] * y.shape[3] if y.ndim == 4 else 1)
        flop = times * each * len(x)
        moved = times * (x.nbytes + y.nbytes + sum(w.nbytes for w in weights))
    elif isinstance(module, ResponseNormalisation):
        moved += x.nbytes
    return Layer(name, way, flop, moved)


def loss_layer(logits: Tensor, labels: Tensor) -> Layer:
    """The softmax and its loss."""
    logits = logits.detach().float().requires_grad_()

    def way() -> None:
        torch.autograd.grad(F.cross_entropy(logits, labels), logits)

    return Layer("loss", way, 0.0, 2 * logits.nbytes)


def update_layer(net: AlexNet, optimiser: SGD) -> Layer:
    """The update rule; gradients must be there."""
    return Layer("update", optimiser.step, 0.0, 5 * sum(w.nbytes for w in net.parameters()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's choice by default")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(precision=options.precision, batch_size=options.batch, learning_rate=1e-6)
    dtype = torch.bfloat16 if uses_bfloat16(device, recipe) else torch.float32
    torch.manual_seed(0)
    net = AlexNet(options.classes).to_channels_last(device).train()
    optimiser = SGD(parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=0.9, decay=5e-4)
    images = (torch.randn(options.batch, 3, 224, 224, device=device) * 50).to(memory_format=torch.channels_last)
    labels = torch.randint(options.classes, (options.batch,), device=device)
    step = Step(net, optimiser, recipe)
    for _ in range(5):  # the last leaves gradients for the update alone; a GPU has captured its graph by then
        step(images, labels)
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    parts = layers(net, images, recipe)
    with torch.no_grad(), autocast(device, recipe):
        parts.append(loss_layer(net(images), labels))
    parts.append(update_layer(net, optimiser))
    product, copy = matrix_product(device, dtype), memory_copy(device)
    ways = {part.name: capture_graph(part.way, device) for part in parts}
    ways |= {"step": lambda: step(images, labels), "product": product.function, "copy": copy.function}
    found = medians(
        time_interleaved(ways, options.repeats, device, calls=20 if device.type == "cuda" else 1, warm_up_each=True)
    )
    products, copies = product.amount / found["product"], copy.amount / found["copy"]
    report(
        parts,
        found,
        products,
        copies,
        options.json,
        environment_info(device) | {"batch": options.batch, "type": str(dtype)},
    )


def report(
    parts: list[Layer], found: dict[str, float], products: float, copies: float, path: Path | None, facts: dict
) -> None:
    """Print the table, and write the JSON where asked for."""
    print(f"{facts}\nmatrix product {products / 1e9:,.0f} GFLOP/s, copy {copies / 1e9:,.1f} GB/s")
    whole = found["step"]
    rows, kept = [], []
    for part in parts:
        spent = found[part.name]
        arithmetic, memory = part.flop / products, part.moved / copies
        bound = max(arithmetic, memory)
        kept.append({"layer": part.name, "seconds": spent, "flop": part.flop, "bytes": part.moved, "bound_s": bound})
        rows.append((part.name, f"{part.flop / 1e9:.1f}", f"{part.moved / 1e6:.1f}", f"{1000 * spent:.2f}",
                     f"{1000 * bound:.2f}", "arithmetic" if arithmetic > memory else "bytes",
                     f"{bound / spent:.2f}", f"{100 * spent / whole:.1f}"))  # fmt: skip
    total, least = sum(row["seconds"] for row in kept), sum(row["bound_s"] for row in kept)
    flop = sum(part.flop for part in parts)
    for name, spent in (("sum", total), ("whole step", whole)):
        rows.append((name, f"{flop / 1e9:.1f}", "", f"{1000 * spent:.2f}", f"{1000 * least:.2f}", "",
                     f"{least / spent:.2f}", f"{100 * spent / whole:.1f}"))  # fmt: skip
    print(markdown_table(rows, ("layer", "GFLOP", "MB", "ms", "bound ms", "bound by", "bound / time", "% of step")))
    write_json(path, {"machine": facts, "flop_per_s": products, "bytes_per_s": copies, "layers": kept,
                      "sum_s": total, "bound_s": least, "step_s": whole})  # fmt: skip


if __name__ == "__main__":
    main()

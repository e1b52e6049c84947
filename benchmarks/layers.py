"""Where the time of a training step goes: the time of each layer, forward and backward, beside its lower bound.

    python benchmarks/layers.py [--batch 128] [--classes 1000] [--repeats 3] [--precision auto] [--threads N]
                                [--json FILE]

Each module of the paper's net is timed alone, with the input that it has in the net and a random gradient of its
output; so are the loss, the update, and the full step. All are timed in turn in one process, on the GPU if there is
one. The bound of a layer is its arithmetic at the rate of a large matrix product in the same precision, or its bytes at
the rate of a copy, whichever takes longer; both rates are timed in turn with the layers. The bytes are those of reading
or writing each tensor once: the input, the output, the weights, the gradients of all three, and the input again if the
backward pass needs it. The full step can take longer than the sum of the layers, for what happens between them, or
less, if a layer finds its input still in the cache. Takes about half a minute on two cores in bfloat16.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.roofline import matrix_product, memory_copy
from common.timing import capture_graph, medians, time_interleaved
from common.training import random_batch
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
class _Layer:
    """A part of a training step, ready to be timed.

    Args:
        name: The block's name and the module's class: "conv1 Convolution".
        function: Runs the layer forward and backward once.
        flop: The FLOP of its matrix products or convolutions.
        moved_bytes: The bytes that must be read and written.
    """

    name: str
    function: Callable[[], object]
    flop: float
    moved_bytes: float


def _module_layers(net: AlexNet, images: Tensor, recipe: Recipe) -> list[_Layer]:
    """Return the net's modules without submodules, and the flattening before the fully connected layers."""
    calls: list[tuple[str, Callable[[Tensor], Tensor], Tensor, Tensor]] = []  # name, module, input, output

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: calls.append((name, module, inputs[0].detach(), output.detach()))

    hooks = []
    for name, module in net.named_modules():
        if not list(module.children()):
            block = name.removeprefix("convs.").removeprefix("hidden.").split(".")[0]
            hooks.append(module.register_forward_hook(record(f"{block} {type(module).__name__}")))
    with torch.no_grad(), autocast(images.device, recipe):
        net(images)
    for hook in hooks:
        hook.remove()
    first_linear = next(n for n, (_, module, *_) in enumerate(calls) if isinstance(module, nn.Linear))
    feature_maps, flat = calls[first_linear - 1][3], calls[first_linear][2]
    calls.insert(first_linear, ("flatten", lambda x: x.flatten(1), feature_maps, flat))
    return [_make_layer(*call, recipe, is_first=n == 0) for n, call in enumerate(calls)]


def _make_layer(
    name: str, module: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, recipe: Recipe, *, is_first: bool
) -> _Layer:
    """Return a module as a layer to time.

    Args:
        name: The name of the layer.
        module: The module.
        x: Its input in the net.
        y: Its output for that input.
        recipe: The recipe whose precision is used.
        is_first: Whether its input are the pictures, whose gradient is not computed.
    """
    x.requires_grad_(not is_first)
    gradient = torch.randn_like(y)
    weights = list(module.parameters()) if isinstance(module, nn.Module) else []
    inputs = [*weights, *([] if is_first else [x])]

    def run() -> None:
        with autocast(x.device, recipe):
            output = module(x)
        torch.autograd.grad(output, inputs, gradient)

    products = 2 if is_first else 3  # for the output, for the weights' gradient and for the input's
    flop = 0.0
    moved_bytes = (x.nbytes + y.nbytes) * (1 if is_first else 2)
    if isinstance(module, nn.Conv2d | nn.Linear):
        positions = y.shape[2] * y.shape[3] if y.ndim == 4 else 1
        flop = products * 2 * weights[0].numel() * positions * len(x)
        moved_bytes = products * (x.nbytes + y.nbytes + sum(w.nbytes for w in weights))
    elif isinstance(module, ResponseNormalisation):
        moved_bytes += x.nbytes
    return _Layer(name, run, flop, moved_bytes)


def _loss_layer(logits: Tensor, labels: Tensor) -> _Layer:
    """Return the softmax and the cross-entropy as a layer to time."""
    logits = logits.detach().float().requires_grad_()

    def run() -> None:
        torch.autograd.grad(F.cross_entropy(logits, labels), logits)

    return _Layer("loss", run, 0.0, 2 * logits.nbytes)


def _update_layer(net: AlexNet, optimiser: SGD) -> _Layer:
    """Return the update rule as a layer to time; the parameters must have gradients."""
    return _Layer("update", optimiser.step, 0.0, 5 * sum(w.nbytes for w in net.parameters()))


def _measure(recipe: Recipe, classes: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time all layers, the full step, a matrix product and a copy; return what the JSON file holds."""
    dtype = torch.bfloat16 if uses_bfloat16(device, recipe) else torch.float32
    torch.manual_seed(0)
    net = AlexNet(classes).to_channels_last(device).train()
    optimiser = SGD(parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=0.9, decay=5e-4)
    images, labels = random_batch(recipe.batch_size, classes, device)
    step = Step(net, optimiser, recipe)
    for _ in range(5):  # the last step leaves gradients for the update; a GPU has captured its graph by then
        step(images, labels)
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    layers = _module_layers(net, images, recipe)
    with torch.no_grad(), autocast(device, recipe):
        layers.append(_loss_layer(net(images), labels))
    layers.append(_update_layer(net, optimiser))
    product, copy = matrix_product(device, dtype), memory_copy(device)
    functions = {layer.name: capture_graph(layer.function, device) for layer in layers}
    functions |= {"step": lambda: step(images, labels), "product": product.function, "copy": copy.function}
    calls = 20 if device.type == "cuda" else 1
    seconds = medians(time_interleaved(functions, repeats, device, calls, warm_up_each=True))
    flop_rate, byte_rate = product.amount / seconds["product"], copy.amount / seconds["copy"]
    results = [
        {
            "layer": layer.name,
            "seconds": seconds[layer.name],
            "flop": layer.flop,
            "bytes": layer.moved_bytes,
            "bound_s": max(layer.flop / flop_rate, layer.moved_bytes / byte_rate),
        }
        for layer in layers
    ]
    return {
        "machine": environment_info(device) | {"batch": recipe.batch_size, "type": str(dtype)},
        "flop_per_s": flop_rate,
        "bytes_per_s": byte_rate,
        "layers": results,
        "sum_s": sum(result["seconds"] for result in results),
        "bound_s": sum(result["bound_s"] for result in results),
        "step_s": seconds["step"],
    }


def _print_results(results: dict[str, Any]) -> None:
    """Print the table."""
    flop_rate, byte_rate, step_seconds = results["flop_per_s"], results["bytes_per_s"], results["step_s"]
    print(results["machine"])
    print(f"matrix product {flop_rate / 1e9:,.0f} GFLOP/s, copy {byte_rate / 1e9:,.1f} GB/s")

    def times(seconds: float, bound: float) -> tuple[str, str, str, str]:
        return (f"{1000 * seconds:.2f}", f"{1000 * bound:.2f}",
                f"{bound / seconds:.2f}", f"{100 * seconds / step_seconds:.1f}")  # fmt: skip

    rows = []
    for layer in results["layers"]:
        bound_by = "arithmetic" if layer["flop"] / flop_rate > layer["bytes"] / byte_rate else "bytes"
        rows.append((layer["layer"], f"{layer['flop'] / 1e9:.1f}", f"{layer['bytes'] / 1e6:.1f}", bound_by,
                     *times(layer["seconds"], layer["bound_s"])))  # fmt: skip
    flop = f"{sum(layer['flop'] for layer in results['layers']) / 1e9:.1f}"
    rows.append(("sum", flop, "", "", *times(results["sum_s"], results["bound_s"])))
    rows.append(("whole step", flop, "", "", *times(step_seconds, results["bound_s"])))
    headings = ("layer", "GFLOP", "MB", "bound by", "ms", "bound ms", "bound / time", "% of step")
    print(markdown_table(rows, headings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="pictures in a batch; default: %(default)s")
    parser.add_argument("--classes", type=int, default=1000, help="outputs of the net; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each layer; default: %(default)s")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(precision=options.precision, batch_size=options.batch, learning_rate=1e-6)
    results = _measure(recipe, options.classes, options.repeats, device)
    _print_results(results)
    write_json(options.json, results)


if __name__ == "__main__":
    main()

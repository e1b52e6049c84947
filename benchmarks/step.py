"""One training step of the full two-tower net, beside the same net of torch.nn's layers and torchvision's AlexNet.

    python benchmarks/step.py [--store STORE] [--batch 128] [--classes 1000] [--repeats 5]
                              [--precision auto] [--threads N] [--json FILE]

All take their steps turn by turn in one process, channels_last, with freed memory kept for all; the table gives the
median pictures/s and the ratios. Ours makes its batches from a store as `alexnet train` does, in the loop (without
--store, from one of made-up raw pictures); the others take the same tensors again and again, which are there already:

- stock: what a user of torch would write for this net: Conv2d with groups, ReLU, LocalResponseNorm over each tower,
  MaxPool2d, Linear, Dropout, cross_entropy and torch.optim.SGD;
- torchvision's AlexNet, written out: 64-192-384-256-256 maps, no towers, no normalisation;
- ours with tensors that are there already, which shows what making batches costs.

The ceiling is the rate of a large matrix product in the same precision, timed in turn with them, over the arithmetic of
a picture (4.13 GFLOP). "auto" is bfloat16 (by autocast) where the device multiplies in it, else float32.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import torch
from environment import environment_info
from evaluate import torchvision_alexnet
from output import markdown_table, write_json
from roofline import matrix_product
from synthetic_stores import write_store
from timing import medians, time_interleaved
from torch import Tensor, nn
from torch.nn import functional as F

from alexnet.data.loading.loader import Batch, Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.precision import autocast, uses_bfloat16
from alexnet.training.schedule import make_schedule
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.step import Step
from alexnet.utils.memory import keep_freed_memory


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


def training_flop(net: AlexNet) -> float:
    """What a picture costs: its products forward, for the weights and, but for the first layer, for the input."""
    sides = net.net.sides()
    total = 0.0
    for number, (name, layer) in enumerate(net.layers().items()):
        places = sides[name][0] ** 2 if name in sides else 1
        total += (3 if number else 2) * 2 * layer.weight.numel() * places
    return total


def for_ever(loader: Loader) -> Iterator[Batch]:
    """A loader's whole batches, epoch after epoch."""
    for epoch in count():
        with closing(loader.batches(epoch)) as batches:
            for batch in batches:
                if len(batch.labels) == loader.recipe.batch_size:
                    yield batch


def trainer(net: AlexNet, recipe: Recipe) -> Callable[[Tensor, Tensor], object]:
    """Our step with what the training loop does around it."""
    optimiser = SGD(
        parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum, decay=recipe.decay
    )
    step, schedule = Step(net, optimiser, recipe), make_schedule(recipe)

    def train(images: Tensor, labels: Tensor) -> object:
        set_learning_rates(optimiser, schedule.rates_at(0))
        return step(images, labels)

    return train


def stepper(net: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> Callable[[], None]:
    """A step of a peer on tensors that are there."""
    optimiser = torch.optim.SGD(net.parameters(), lr=recipe.learning_rate, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with autocast(x.device, recipe):
            logits = net(x)
        optimiser.zero_grad()
        F.cross_entropy(logits.float(), y).backward()
        optimiser.step()

    return step


def compare(store: Store, recipe: Recipe, repeats: int, device: torch.device) -> dict[str, Any]:
    """Pictures/s of each net, and the ceiling, in one precision."""
    classes, batch = len(store.classes), recipe.batch_size
    dtype = torch.bfloat16 if uses_bfloat16(device, recipe) else torch.float32
    form = torch.channels_last
    x = (torch.randn(batch, 3, 224, 224, device=device) * 50).to(memory_format=form)
    y = torch.randint(classes, (batch,), device=device)
    coming = for_ever(Loader(store.split("train"), store.statistics, recipe, device=device))
    ours = trainer(AlexNet(classes).to_channels_last(device), recipe)
    peers = [net.to(device=device, memory_format=form) for net in (stock(classes), torchvision_alexnet(classes))]  # type: ignore[call-overload]
    product = matrix_product(device, dtype)

    def from_store() -> None:
        made = next(coming)
        ours(made.images, made.labels)

    ways = {
        "ours, batches from the store": from_store,
        "ours, tensors that are there": lambda: ours(x, y),
        "stock": stepper(peers[0], x, y, recipe),
        "torchvision's AlexNet": stepper(peers[1], x, y, recipe),
        "product": product.function,
    }
    if device.type == "cuda":
        for _ in range(5):
            from_store()  # until its graph is captured
    found = medians(time_interleaved(ways, repeats, device, calls=20 if device.type == "cuda" else 1))
    rate = product.amount / found.pop("product")
    flop = training_flop(AlexNet(classes))
    speeds = {name: batch / spent for name, spent in found.items()}
    return {"type": str(dtype), "flop_per_s": rate, "flop_per_picture": flop,
            "pictures_per_s": speeds | {"ceiling": rate / flop}}  # fmt: skip


WANTED = {"stock": "3.5 (aim 4.5)", "torchvision's AlexNet": "0.95 (aim 1.2)", "ceiling": "0.55 (aim 0.7)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a store of 256 x 256 pictures; made-up raw ones by default")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=1000, help="of the made-up store")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", choices=("auto", "float32", "bfloat16"), default=["auto"])
    parser.add_argument("--threads", type=int, help="of the CPU; torch's choice by default")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = options.store or write_store(Path(folder) / "store", 256, options.classes, train=4 * options.batch)
        store = Store(path)
        for precision in options.precision:
            recipe = Recipe(precision=precision, batch_size=options.batch, learning_rate=1e-6)
            found.append(compare(store, recipe, options.repeats, device))
        facts = environment_info(device) | {
            "batch": options.batch,
            "classes": len(store.classes),
            "encoding": store.encoding,
        }
    print(facts)
    for one in found:
        speeds = one["pictures_per_s"]
        ours = next(iter(speeds.values()))
        rows = [(name, f"{speed:,.1f}", f"{ours / speed:.2f}", WANTED.get(name, "")) for name, speed in speeds.items()]
        print(f"\n{one['type']}, matrix product {one['flop_per_s'] / 1e9:,.0f} GFLOP/s")
        print(markdown_table(rows, ("way", "pictures/s", "ours against it", "wanted")))
    write_json(options.json, {"machine": facts, "found": found})


if __name__ == "__main__":
    main()

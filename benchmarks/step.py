"""One training step of the paper's net, beside the same net of torch.nn's layers and torchvision's AlexNet.

    python benchmarks/step.py [--store STORE] [--batch 128] [--classes 1000] [--repeats 5]
                              [--precision auto] [--threads N] [--json FILE]

The table gives the median pictures/s of each and the ratios:

- "ours, batches from the store": this project's step, with batches from a store as in `alexnet train`; without --store
  from a temporary store of synthetic raw pictures;
- "ours, tensors that are there": the same step on one batch in memory, which shows the cost of loading;
- "stock": the paper's net as a user of torch would write it: Conv2d with groups, ReLU, LocalResponseNorm over each
  tower, MaxPool2d, Linear, Dropout, cross_entropy and torch.optim.SGD, on the batch in memory;
- "torchvision's AlexNet": 64-192-384-256-256 feature maps, no towers, no normalisation, on the batch in memory;
- "ceiling": the rate of a large matrix product in the same precision, divided by the arithmetic of a picture
  (4.13 GFLOP).

All are timed in turn in one process, channels_last, on the GPU if there is one. "auto" is bfloat16 (by autocast) if the
device multiplies in it, else float32. Takes about one minute on two cores in bfloat16, three in float32.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.roofline import matrix_product
from common.timing import medians, time_interleaved
from common.training import endless_batches, random_batch, training_flop
from peers.nets import make_peer_step, torch_nn_alexnet, torchvision_alexnet
from synthetic.stores import write_store

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.estimate import make_train_step
from alexnet.training.precision import uses_bfloat16
from alexnet.utils.memory import keep_freed_memory

_TARGETS = {"stock": "3.5 (aim 4.5)", "torchvision's AlexNet": "0.95 (aim 1.2)", "ceiling": "0.55 (aim 0.7)"}


def _measure(store: Store, recipe: Recipe, repeats: int, device: torch.device) -> dict[str, Any]:
    """Return the pictures/s of each net, and of the ceiling, in the precision of the recipe."""
    classes, batch_size = len(store.classes), recipe.batch_size
    dtype = torch.bfloat16 if uses_bfloat16(device, recipe) else torch.float32
    images, labels = random_batch(batch_size, classes, device)
    batches = endless_batches(Loader(store.split("train"), store.statistics, recipe, device=device))
    train_step = make_train_step(AlexNet(classes).to_channels_last(device), recipe)
    stock, torchvision = (
        net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for net in (torch_nn_alexnet(classes), torchvision_alexnet(classes))
    )
    product = matrix_product(device, dtype)

    def train_from_store() -> None:
        batch = next(batches)
        train_step(batch.images, batch.labels)

    functions = {
        "ours, batches from the store": train_from_store,
        "ours, tensors that are there": lambda: train_step(images, labels),
        "stock": make_peer_step(stock, images, labels, recipe),
        "torchvision's AlexNet": make_peer_step(torchvision, images, labels, recipe),
        "product": product.function,
    }
    if device.type == "cuda":
        for _ in range(5):
            train_from_store()  # until its CUDA graph is captured
    seconds = medians(time_interleaved(functions, repeats, device, calls=20 if device.type == "cuda" else 1))
    rate = product.amount / seconds.pop("product")
    flop = training_flop(AlexNet(classes))
    speeds = {name: batch_size / duration for name, duration in seconds.items()}
    return {"type": str(dtype), "flop_per_s": rate, "flop_per_picture": flop,
            "pictures_per_s": speeds | {"ceiling": rate / flop}}  # fmt: skip


def _print_result(result: dict[str, Any]) -> None:
    speeds = result["pictures_per_s"]
    speed_from_store = next(iter(speeds.values()))
    rows = [
        (name, f"{speed:,.1f}", f"{speed_from_store / speed:.2f}", _TARGETS.get(name, ""))
        for name, speed in speeds.items()
    ]
    print(f"\n{result['type']}, matrix product {result['flop_per_s'] / 1e9:,.0f} GFLOP/s")
    print(markdown_table(rows, ("net", "pictures/s", "ours against it", "target")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a store of 256 x 256 pictures; default: a temporary synthetic one")
    parser.add_argument("--batch", type=int, default=128, help="pictures in a batch; default: %(default)s")
    parser.add_argument("--classes", type=int, default=1000, help="of the synthetic store; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each net; default: %(default)s")
    parser.add_argument("--precision", nargs="+", choices=("auto", "float32", "bfloat16"), default=["auto"])
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = options.store or write_store(Path(folder) / "store", 256, options.classes, train=4 * options.batch)
        store = Store(path)
        for precision in options.precision:
            recipe = Recipe(precision=precision, batch_size=options.batch, learning_rate=1e-6)
            results.append(_measure(store, recipe, options.repeats, device))
        info = environment_info(device)
        info |= {"batch": options.batch, "classes": len(store.classes), "encoding": store.encoding}
    print(info)
    for result in results:
        _print_result(result)
    write_json(options.json, {"machine": info, "found": results})


if __name__ == "__main__":
    main()

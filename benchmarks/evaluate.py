"""Evaluation with ten views, beside TenCrop with torchvision's AlexNet (sections 4.5 and 5.1).

    python benchmarks/evaluate.py [--store STORE] [--count 36] [--repeats 5] [--json FILE]

The table gives the median pictures/s of each:

- "ours": the paper's net on a store, as in `alexnet evaluate RUN STORE --views 10`; 0.72 billion products a crop;
- "torchvision's, loop": torchvision's AlexNet, which has no normalisation; 0.71 billion products a crop. Its
  pictures are read as a user of torchvision would do it, from JPEG files of the same squares by PIL: Resize(256),
  CenterCrop(256), TenCrop(224), ToTensor, Normalize, stack; then net(x).softmax(1).mean(0), a picture at a time;
- "torchvision's, batches": the same with as many pictures in a batch as ours has;
- "torchvision's, batches, channels_last": the same in the memory format that ours has;
- "(its pictures alone)": reading and cropping torchvision's pictures, without a net.

All are timed in turn in one process, with the same pictures, threads and precision (the recipe's "auto"). Without
--store a temporary store of synthetic JPEG pictures is used. Takes one to three minutes on two cores.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.timing import medians, time_interleaved
from peers.nets import torchvision_alexnet
from peers.prediction import read_ten_crops
from PIL import Image
from synthetic.photographs import draw_folder
from torch import Tensor, nn

from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.inference import pictures_per_batch, predict_batches
from alexnet.training.precision import autocast
from alexnet.utils.memory import keep_freed_memory


def _crop_batches(paths: list[Path], files_per_batch: int) -> Iterator[Tensor]:
    """Yield the ten crops of several files at a time: (10 * files, 3, 224, 224)."""
    for start in range(0, len(paths), files_per_batch):
        yield torch.cat([read_ten_crops(path) for path in paths[start : start + files_per_batch]])


@torch.inference_mode()
def _predictread_ten_crops(
    net: nn.Module,
    paths: list[Path],
    recipe: Recipe,
    device: torch.device,
    files_per_batch: int,
    memory_format: torch.memory_format,
) -> Tensor:
    """Return the mean softmax outputs of each file over its ten crops: (files, classes)."""
    probabilities = []
    for crops in _crop_batches(paths, files_per_batch):
        with autocast(device, recipe):
            logits = net(crops.to(device, memory_format=memory_format))
        probabilities.append(logits.float().softmax(1).unflatten(0, (-1, 10)).mean(1).cpu())
    return torch.cat(probabilities)


def _predict_ten_views(net: AlexNet, split: Split, mean: np.ndarray, recipe: Recipe) -> Tensor:
    """Return the mean softmax outputs of each picture over its ten views, as `alexnet evaluate` computes them."""
    return torch.cat([views.mean(1) for views, _ in predict_batches(net, split, mean, recipe, views=10)])


class _FirstPictures:
    """The first `count` pictures of a split."""

    def __init__(self, split: Split, count: int) -> None:
        self.size, self.labels, self.image, self.images = split.size, split.labels[:count], split.image, split.images

    def __len__(self) -> int:
        return len(self.labels)


def _evaluations(
    store: Store, folder: Path, count: int, classes: int, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """Return the functions to time, by name; write torchvision's JPEG files to the folder."""
    recipe, split = Recipe(), _FirstPictures(store.validation(), count)
    paths = []
    for n in range(len(split)):
        paths.append(folder / f"{n}.jpg")
        Image.fromarray(split.image(n)).save(paths[-1], quality=95)
    net = AlexNet(classes, recipe.net).to_channels_last(device).eval()
    contiguous, channels_last = torch.contiguous_format, torch.channels_last
    peer, peer_channels_last = (torchvision_alexnet(classes).to(device).eval() for _ in range(2))
    peer_channels_last.to(memory_format=channels_last)  # type: ignore[call-overload]
    batch, mean = pictures_per_batch(device, 10), store.statistics.mean

    def predict(net: nn.Module, files_per_batch: int, memory_format: torch.memory_format) -> Tensor:
        return _predictread_ten_crops(net, paths, recipe, device, files_per_batch, memory_format)

    return {
        "ours": lambda: _predict_ten_views(net, split, mean, recipe),  # type: ignore[arg-type]
        "torchvision's, loop": lambda: predict(peer, 1, contiguous),
        "torchvision's, batches": lambda: predict(peer, batch, contiguous),
        "torchvision's, batches, channels_last": lambda: predict(peer_channels_last, batch, channels_last),
        "(its pictures alone)": lambda: torch.stack([read_ten_crops(path)[:, 0, 0, 0] for path in paths]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a store of 256 x 256 pictures; default: a temporary synthetic one")
    parser.add_argument("--count", type=int, default=36, help="pictures in each timing; default: %(default)s")
    parser.add_argument("--classes", type=int, default=1000, help="outputs of the nets; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each evaluation; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the file to write the numbers to")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.store is None:
            draw_folder(folder / "pictures", options.count + 4, "web")
            prepare(folder / "pictures", folder / "store", encoding="jpeg", held_out=0.9)
        store = Store(options.store or folder / "store")
        evaluations = _evaluations(store, folder, options.count, options.classes, device)
        count = min(options.count, len(store.validation()))
        seconds = medians(time_interleaved(evaluations, options.repeats, device))
    rates = {name: count / duration for name, duration in seconds.items()}
    info = environment_info(device)
    print(f"{count} pictures, ten views, {info}")
    rows = [(name, f"{rate:.2f}", f"{1e3 / rate:.1f}", f"{rates['ours'] / rate:.2f}x") for name, rate in rates.items()]
    print(markdown_table(rows, ("evaluation", "pictures/s", "ms a picture", "ours against it")))
    write_json(options.json, {"about": info, "pictures": count, "pictures_per_second": rates})


if __name__ == "__main__":
    main()

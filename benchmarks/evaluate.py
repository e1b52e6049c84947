"""Evaluation with ten views, beside a loop over TenCrop with torchvision's AlexNet (sections 4.5 and 5.1).

    python benchmarks/evaluate.py [--store STORE] [--count 36] [--repeats 5] [--json FILE]

Ours: the paper's net on a store, as `alexnet evaluate RUN STORE --views 10` does it. Beside it torchvision's AlexNet,
written out here with torch.nn: it normalises nothing, and does the same arithmetic otherwise (0.71 billion
multiplications a crop; ours 0.72). Its pictures come as a user of torchvision would write it, from JPEG files of the
same squares by PIL: Resize(256), CenterCrop(256), TenCrop(224), ToTensor, Normalize, stack, and then

- loop: net(x).softmax(1).mean(0), a picture at a time;
- batches: as many pictures in a batch as ours takes;
- batches, channels_last: and net and batch in the memory format that ours uses.

All in one process, turn by turn, on the same pictures and threads, in the precision that the recipe chooses for this
machine; the rates are medians of the repeats. Without a store, one of drawn JPEG pictures is made for the time.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from environment import environment_info
from output import markdown_table, write_json
from PIL import Image
from synthetic_photographs import draw_folder
from timing import medians, time_interleaved
from torch import Tensor, nn

from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.inference import pictures_per_batch, predict_batches
from alexnet.training.precision import autocast
from alexnet.utils.memory import keep_freed_memory

CROP, SIZE = 224, 256
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_alexnet(classes: int) -> nn.Module:
    """torchvision.models.alexnet: one tower, 64-192-384-256-256 maps, no normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.AdaptiveAvgPool2d(6), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True)),
        *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True)),
        nn.Linear(4096, classes),
    )


def to_tensor(picture: Image.Image) -> Tensor:
    """ToTensor and Normalize, as torchvision's functions on PIL pictures do it."""
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return tensor.sub_(mean).div_(deviation)


def ten_crops(path: Path) -> Tensor:
    """Resize(256), CenterCrop(256), TenCrop(224), ToTensor and Normalize of a file: (10, 3, 224, 224)."""
    picture = Image.open(path).convert("RGB")
    if min(picture.size) != SIZE:
        scale = SIZE / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR
        )
    left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
    picture = picture.crop((left, top, left + SIZE, top + SIZE))
    end, centre = SIZE - CROP, (SIZE - CROP) // 2
    crops = []
    for image in (picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        places = [(0, 0), (end, 0), (0, end), (end, end), (centre, centre)]
        crops += [image.crop((x, y, x + CROP, y + CROP)) for x, y in places]
    return torch.stack([to_tensor(crop) for crop in crops])


def batches(paths: list[Path], size: int) -> Iterator[Tensor]:
    """The ten crops of `size` files at a time."""
    for start in range(0, len(paths), size):
        yield torch.cat([ten_crops(path) for path in paths[start : start + size]])


@torch.inference_mode()
def peer(
    net: nn.Module, paths: list[Path], recipe: Recipe, device: torch.device, size: int, form: torch.memory_format
) -> Tensor:
    """The mean softmax outputs over ten crops, `size` files at a time."""
    found = []
    for x in batches(paths, size):
        with autocast(device, recipe):
            logits = net(x.to(device, memory_format=form))
        found.append(logits.float().softmax(1).unflatten(0, (-1, 10)).mean(1).cpu())
    return torch.cat(found)


def ours(net: AlexNet, split: Split, mean: np.ndarray, recipe: Recipe) -> Tensor:
    """As `evaluate` does it."""
    return torch.cat([part.mean(1) for part, _ in predict_batches(net, split, mean, recipe, views=10)])


class First:
    """The first `count` pictures of a split."""

    def __init__(self, split: Split, count: int) -> None:
        self.size, self.labels, self.image, self.images = split.size, split.labels[:count], split.image, split.images

    def __len__(self) -> int:
        return len(self.labels)


def ways(store: Store, folder: Path, count: int, classes: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """What is timed, by name."""
    recipe, split = Recipe(), First(store.validation(), count)
    paths = []
    for n in range(len(split)):
        paths.append(folder / f"{n}.jpg")
        Image.fromarray(split.image(n)).save(paths[-1], quality=95)
    net = AlexNet(classes, recipe.net).to_channels_last(device).eval()
    theirs, last = (torchvision_alexnet(classes).to(device).eval() for _ in range(2))
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, mean = pictures_per_batch(device, 10), store.statistics.mean
    plain, wanted = torch.contiguous_format, torch.channels_last
    return {
        "ours": lambda: ours(net, split, mean, recipe),  # type: ignore[arg-type]
        "torchvision's, loop": lambda: peer(theirs, paths, recipe, device, 1, plain),
        "torchvision's, batches": lambda: peer(theirs, paths, recipe, device, size, plain),
        "torchvision's, batches, channels_last": lambda: peer(last, paths, recipe, device, size, wanted),
        "(its pictures alone)": lambda: torch.stack([ten_crops(path)[:, 0, 0, 0] for path in paths]),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--store", type=Path, help="a store of 256 x 256 pictures; made of drawn ones by default")
    options.add_argument("--count", type=int, default=36, help="pictures evaluated in each turn")
    options.add_argument("--classes", type=int, default=1000)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--json", type=Path, metavar="FILE")
    given = options.parse_args()
    keep_freed_memory()
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if given.store is None:
            draw_folder(folder / "pictures", given.count + 4, "web")
            prepare(folder / "pictures", folder / "store", encoding="jpeg", held_out=0.9)
        store = Store(given.store or folder / "store")
        found = ways(store, folder, given.count, given.classes, device)
        count = min(given.count, len(store.validation()))
        spent = medians(time_interleaved(found, given.repeats, device))
    rates = {name: count / seconds for name, seconds in spent.items()}
    print(f"{count} pictures, ten views, {environment_info(device)}")
    rows = [(name, f"{rate:.2f}", f"{1e3 / rate:.1f}", f"{rates['ours'] / rate:.2f}x") for name, rate in rates.items()]
    print(markdown_table(rows, ("way", "pictures/s", "ms a picture", "ours against it")))
    write_json(given.json, {"about": environment_info(device), "pictures": count, "pictures_per_second": rates})


if __name__ == "__main__":
    main()

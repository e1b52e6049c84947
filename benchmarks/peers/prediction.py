"""Prediction as a user of torchvision writes it, with PIL and torch alone: transforms, DataLoader and net."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from alexnet.recipe import Recipe
from alexnet.training.precision import autocast

_CROP, _SIZE = 224, 256
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _to_tensor(picture: Image.Image) -> Tensor:
    """Do what torchvision's ToTensor and Normalize do to a PIL picture."""
    tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
    return tensor.sub_(mean).div_(deviation)


def _read_square(path: Path) -> Image.Image:
    """Do Resize(256) and CenterCrop(256) to a file."""
    picture = Image.open(path).convert("RGB")
    if min(picture.size) != _SIZE:
        scale = _SIZE / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BILINEAR
        )
    left, top = (picture.width - _SIZE) // 2, (picture.height - _SIZE) // 2
    return picture.crop((left, top, left + _SIZE, top + _SIZE))


def read_ten_crops(path: Path) -> Tensor:
    """Do Resize(256), CenterCrop(256), TenCrop(224), ToTensor and Normalize to a file; return (10, 3, 224, 224)."""
    picture = _read_square(path)
    end, centre = _SIZE - _CROP, (_SIZE - _CROP) // 2
    crops = []
    for image in (picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        corners = [(0, 0), (end, 0), (0, end), (end, end), (centre, centre)]
        crops += [image.crop((x, y, x + _CROP, y + _CROP)) for x, y in corners]
    return torch.stack([_to_tensor(crop) for crop in crops])


def _read_centre(path: Path) -> Tensor:
    """Do Resize(256), CenterCrop(224), ToTensor and Normalize to a file; return (1, 3, 224, 224)."""
    start = (_SIZE - _CROP) // 2
    return _to_tensor(_read_square(path).crop((start, start, start + _CROP, start + _CROP)))[None]


class _Crops(Dataset):
    """The crops of picture files."""

    def __init__(self, paths: list[Path], read: Callable[[Path], Tensor]) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.paths[index])


@torch.inference_mode()
def predict_files(
    net: nn.Module, paths: list[Path], recipe: Recipe, *, views: int, batch_size: int, workers: int
) -> Tensor:
    """Return the mean softmax outputs of picture files over their crops.

    Args:
        net: The net, in evaluation mode.
        paths: The files.
        recipe: The recipe whose precision is used.
        views: 1 for the centre, 10 for TenCrop.
        batch_size: The number of files in a batch.
        workers: The number of DataLoader's processes.

    Returns:
        (files, classes).
    """
    device = next(net.parameters()).device
    dataset = _Crops(paths, read_ten_crops if views == 10 else _read_centre)
    probabilities = []
    for crops in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
        with autocast(device, recipe):
            logits = net(crops.flatten(0, 1).to(device))
        probabilities.append(logits.float().softmax(1).unflatten(0, (-1, views)).mean(1).cpu())
    return torch.cat(probabilities)

"""What others would write to make the same batches: PIL with torch's DataLoader, NVIDIA DALI, FFCV; on the CPU.

DALI and FFCV do a little less than is asked: they subtract one mean per channel, not one per pixel, and shift no
colours. Neither has a version for every machine; where it cannot be imported it is left out.
"""

import importlib.util
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexnet.data.prepare.encode import JPEG_QUALITY, encode_jpeg
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store

BATCH, SIZE, CROP = 128, 256, 224
Way = Callable[[], None]


def use(batches: Iterator[object], wanted: int) -> None:
    """Make `wanted` pictures' batches."""
    assert sum(1 for _ in islice(batches, wanted // BATCH)) == wanted // BATCH


class Photographs(Dataset):
    """What a user of PIL and torch would write: file -> prepared crop."""

    def __init__(self, files: list[Path], store: Store) -> None:
        self.files = files
        start = (store.size - CROP) // 2
        self.mean = torch.from_numpy(store.statistics.mean[:, start : start + CROP, start : start + CROP].copy())
        self.components = torch.from_numpy(store.statistics.components).float()
        self.deviations = torch.from_numpy(store.statistics.colour_deviations()).float()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.open(self.files[index]).convert("RGB")
        scale = SIZE / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (int(torch.randint(side - CROP + 1, ())) for side in (width, height))
        picture = picture.crop((left, top, left + CROP, top + CROP))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float()
        shift = (0.1 * torch.randn(3) * self.deviations) @ self.components
        return pixels - self.mean + shift[:, None, None], index


def pillow(files: list[Path], store: Store, wanted: int) -> Way:
    """By PIL and DataLoader: what torchvision's Resize, RandomCrop, RandomHorizontalFlip and Normalize do to a file."""
    loader = DataLoader(Photographs(files, store), batch_size=BATCH, shuffle=True, num_workers=0, drop_last=True)
    batches = (images for _ in count() for images, _ in loader)
    return lambda: use(batches, wanted)


def has_dali() -> bool:
    """Whether DALI is installed."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def dali(files: list[Path], wanted: int, resize: bool) -> Way:
    """By DALI, one thread, nothing ahead: whole photographs to be resized, or squares of 256 pixels."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(
        batch_size=BATCH, num_threads=1, device_id=None, seed=1, prefetch_queue_depth=1, exec_async=False,
        exec_pipelined=False,
    )  # fmt: skip
    def make():  # type: ignore[no-untyped-def]
        data, labels = fn.readers.file(files=[str(file) for file in files], random_shuffle=True)
        images = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        if resize:
            images = fn.resize(images, resize_shorter=SIZE, interp_type=types.INTERP_LINEAR)
        places = {f"crop_pos_{axis}": fn.random.uniform(range=(0, 1)) for axis in "xy"}
        images = fn.crop_mirror_normalize(
            images, crop=(CROP, CROP), mirror=fn.random.coin_flip(), mean=[120.0, 115.0, 100.0], std=[1.0] * 3,
            dtype=types.FLOAT, output_layout="HWC", **places,
        )  # fmt: skip
        return images, labels

    pipeline = make()
    pipeline.build()
    batches = (pipeline.run() for _ in count())
    return lambda: use(batches, wanted)


def jpeg_files(split: Split, folder: Path, wanted: int) -> list[Path]:
    """The pictures of a split as JPEG files such as a JPEG store holds."""
    folder.mkdir()
    paths = [folder / f"{index:06d}.jpg" for index in range(wanted)]
    for index, path in enumerate(paths):
        path.write_bytes(encode_jpeg(split.image(index % len(split))))
    return paths


def has_ffcv() -> bool:
    """Whether FFCV is installed."""
    return importlib.util.find_spec("ffcv") is not None


def ffcv(split: Split, path: Path, wanted: int) -> Way:
    """By FFCV, one thread, from a file of its own with the same squares as JPEG of the same quality."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    class Pictures:
        def __len__(self) -> int:
            return wanted

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return split.image(index % len(split)), int(split.labels[index % len(split)])

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(Pictures())
    share = (CROP / SIZE) ** 2  # a square of 224 pixels anywhere: FFCV has no plain random crop
    decoder = RandomResizedCropRGBImageDecoder((CROP, CROP), scale=(share, share), ratio=(1, 1))
    normalised = NormalizeImage(np.array([120.0, 115.0, 100.0]), np.ones(3), np.float32)
    steps = [decoder, RandomHorizontalFlip(), normalised, ToTensor(), ToTorchImage(convert_back_int16=False)]
    loader = Loader(
        str(path), batch_size=BATCH, num_workers=1, order=OrderOption.RANDOM, os_cache=True, drop_last=True,
        batches_ahead=1, pipelines={"image": steps, "label": None},
    )  # fmt: skip
    return lambda: use(iter(loader), wanted)  # an epoch each time: its threads end with it

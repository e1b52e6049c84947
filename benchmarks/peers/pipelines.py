"""Other programs' CPU pipelines for the batches of `batches.py`: PIL with torch's DataLoader, NVIDIA DALI, FFCV.

DALI and FFCV do a little less than this project: they subtract one mean per channel, not one per pixel, and do not
shift colours. Neither has a version for every machine; `batches.py` leaves out what is not installed.
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

BATCH_SIZE = 128
_SIZE, _CROP = 256, 224
_MEAN = (120.0, 115.0, 100.0)  # of each channel, for DALI and FFCV


def consume(batches: Iterator[object], pictures: int) -> None:
    """Take the batches of `pictures` pictures from an iterator.

    Raises:
        AssertionError: The iterator ended before.
    """
    assert sum(1 for _ in islice(batches, pictures // BATCH_SIZE)) == pictures // BATCH_SIZE


class _Photographs(Dataset):
    """A dataset as a user of PIL and torch would write it: from a file to a crop, ready for the net."""

    def __init__(self, files: list[Path], store: Store) -> None:
        self.files = files
        start = (store.size - _CROP) // 2
        self.mean = torch.from_numpy(store.statistics.mean[:, start : start + _CROP, start : start + _CROP].copy())
        self.components = torch.from_numpy(store.statistics.components).float()
        self.deviations = torch.from_numpy(store.statistics.colour_deviations()).float()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.open(self.files[index]).convert("RGB")
        scale = _SIZE / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (int(torch.randint(side - _CROP + 1, ())) for side in (width, height))
        picture = picture.crop((left, top, left + _CROP, top + _CROP))
        if torch.rand(()) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float()
        shift = (0.1 * torch.randn(3) * self.deviations) @ self.components
        return pixels - self.mean + shift[:, None, None], index


def pillow_pipeline(files: list[Path], store: Store, pictures: int) -> Callable[[], None]:
    """Return a pipeline of PIL and DataLoader, with the operations of torchvision's usual training transforms."""
    loader = DataLoader(_Photographs(files, store), batch_size=BATCH_SIZE, shuffle=True, num_workers=0, drop_last=True)
    batches = (images for _ in count() for images, _ in loader)
    return lambda: consume(batches, pictures)


def has_dali() -> bool:
    """Whether DALI is installed."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def dali_pipeline(files: list[Path], pictures: int, resize: bool) -> Callable[[], None]:
    """Return a pipeline of DALI with one thread and without prefetching.

    Args:
        files: JPEG files.
        pictures: The number of pictures of a call.
        resize: Whether to resize the shorter side to 256 pixels; the files must have that size already otherwise.
    """
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(
        batch_size=BATCH_SIZE, num_threads=1, device_id=None, seed=1, prefetch_queue_depth=1, exec_async=False,
        exec_pipelined=False,
    )  # fmt: skip
    def make_pipeline():  # type: ignore[no-untyped-def]
        data, labels = fn.readers.file(files=[str(file) for file in files], random_shuffle=True)
        images = fn.decoders.image(data, device="cpu", output_type=types.RGB)
        if resize:
            images = fn.resize(images, resize_shorter=_SIZE, interp_type=types.INTERP_LINEAR)
        positions = {f"crop_pos_{axis}": fn.random.uniform(range=(0, 1)) for axis in "xy"}
        images = fn.crop_mirror_normalize(
            images, crop=(_CROP, _CROP), mirror=fn.random.coin_flip(), mean=list(_MEAN), std=[1.0] * 3,
            dtype=types.FLOAT, output_layout="HWC", **positions,
        )  # fmt: skip
        return images, labels

    pipeline = make_pipeline()
    pipeline.build()
    batches = (pipeline.run() for _ in count())
    return lambda: consume(batches, pictures)


def write_jpeg_files(split: Split, folder: Path, count: int) -> list[Path]:
    """Write the first `count` pictures of a split as JPEG files, encoded as in a JPEG store; repeat a small split."""
    folder.mkdir()
    paths = [folder / f"{index:06d}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(encode_jpeg(split.image(index % len(split))))
    return paths


def has_ffcv() -> bool:
    """Whether FFCV is installed."""
    return importlib.util.find_spec("ffcv") is not None


def ffcv_pipeline(split: Split, path: Path, pictures: int) -> Callable[[], None]:
    """Return a pipeline of FFCV with one thread; write its file, of a split's pictures as JPEG of the same quality."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    class SplitDataset:
        def __len__(self) -> int:
            return pictures

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return split.image(index % len(split)), int(split.labels[index % len(split)])

    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=JPEG_QUALITY), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(SplitDataset())
    area = (_CROP / _SIZE) ** 2  # a square of 224 pixels anywhere: FFCV has no plain random crop
    decoder = RandomResizedCropRGBImageDecoder((_CROP, _CROP), scale=(area, area), ratio=(1, 1))
    normalise = NormalizeImage(np.array(_MEAN), np.ones(3), np.float32)
    operations = [decoder, RandomHorizontalFlip(), normalise, ToTensor(), ToTorchImage(convert_back_int16=False)]
    loader = Loader(
        str(path), batch_size=BATCH_SIZE, num_workers=1, order=OrderOption.RANDOM, os_cache=True, drop_last=True,
        batches_ahead=1, pipelines={"image": operations, "label": None},
    )  # fmt: skip
    return lambda: consume(iter(loader), pictures)  # an epoch each time: its threads end with it

"""What is fuzzed: each reader of files from outside, with small true files to begin from.

A reader must return, or raise a ValueError or an OSError. `run.py` mutates the files for hours, `test_fuzz.py` a few of
them, with the inputs that once were faults.
"""

import bz2
import dataclasses
import functools
import gzip
import io
import json
import lzma
import pickle
import shutil
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "convert")]

from conftest import CLASSES, draw_pictures, small_net, write_store  # noqa: E402

from alexnet.architecture import Conv, Full  # noqa: E402
from alexnet.convert.assemble import assemble  # noqa: E402
from alexnet.convert.caffe_mean import read_caffe_mean  # noqa: E402
from alexnet.convert.from_export import exported_net  # noqa: E402
from alexnet.convert.read_external_net import read_external_net  # noqa: E402
from alexnet.convert.torch_file import is_safetensors  # noqa: E402
from alexnet.data.prepare.decode import read_image  # noqa: E402
from alexnet.data.prepare.other_formats import available_formats  # noqa: E402
from alexnet.data.sources import archive  # noqa: E402
from alexnet.data.sources.kinds import open_source  # noqa: E402
from alexnet.data.sources.pickles import read_pickle  # noqa: E402
from alexnet.data.store.store import Store  # noqa: E402
from alexnet.models.alexnet import AlexNet  # noqa: E402
from alexnet.recipe import Recipe  # noqa: E402
from alexnet.results.classifier import Classifier  # noqa: E402
from alexnet.results.predictions import Predictions  # noqa: E402
from alexnet.results.retrieval import Index  # noqa: E402
from alexnet.results.run_history import RunHistory  # noqa: E402
from alexnet.results.verify import verify  # noqa: E402
from alexnet.training.checkpoint import TrainState, save_checkpoint  # noqa: E402
from alexnet.utils.checksums import BLANK_CHECKSUM  # noqa: E402

SIDE = 24


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        seeds: Return true inputs, as bytes; it may write to a folder that `read` gets, too.
        read: Read an input, which may be written to the folder.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], None]


# ---- Pictures -------------------------------------------------------------------------------------------------------


def _picture_seeds(_: Path) -> list[bytes]:
    pixels = draw_pictures(1, SIDE)[0][0]
    picture = Image.fromarray(pixels)
    seeds = []
    settings: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in available_formats()]
    settings += [("JPEG", {"progressive": True}), ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"})]
    settings += [("TIFF", {"compression": method}) for method in ("tiff_lzw", "jpeg", "packbits")]
    for name, options in settings:
        modes = ("RGB", "L", "P", "CMYK", "RGBA", "I;16") if name in ("PNG", "TIFF", "JPEG") else ("RGB",)
        if options.get("compression") == "jpeg":
            modes = ("RGB", "L", "CMYK", "RGBA")  # others are refused, with Pillow 11.3 and 12.0 by damaged memory
        for mode in modes:
            converted = Image.fromarray(pixels[:, :, 0].astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
            file = io.BytesIO()
            with suppress(OSError, ValueError, KeyError):
                converted.save(file, name, **options)
                seeds.append(file.getvalue())
    return [*seeds, gzip.compress(seeds[0])]


def _read_picture(data: bytes, _: Path) -> None:
    assert read_image(data, 16).shape == (16, 16, 3)


# ---- Archives, lists and pickles ------------------------------------------------------------------------------------


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_pictures(1, 8)[0][0]).save(file, "PNG")
    return file.getvalue()


def _archive_seeds(_: Path) -> list[bytes]:
    picture, plain = _png(), io.BytesIO()
    names = ["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"]
    with tarfile.open(fileobj=plain, mode="w") as target:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(picture)
            target.addfile(member, io.BytesIO(picture))
        link = tarfile.TarInfo("train/a/link.png")
        link.type, link.linkname = tarfile.LNKTYPE, names[0]
        target.addfile(link)
    seeds = [plain.getvalue(), *(pack(plain.getvalue()) for pack in (gzip.compress, bz2.compress, lzma.compress))]
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(plain.getvalue())
    seeds.append(sink.getvalue().to_pybytes())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as target:
            for name in names:
                target.writestr(name, picture)
        seeds.append(file.getvalue())
    return seeds


def _read_archive(data: bytes, folder: Path) -> None:
    path = folder / "archive"
    path.write_bytes(data)
    with suppress(ValueError):
        _read_source(path)
    if archive.matches(path):
        tree = archive.open_tree(path)
        for entry in tree.entries():
            if not entry.path.endswith("/"):
                with suppress(ValueError):
                    tree.read(entry)


def _read_source(path: Path) -> None:
    source = open_source(path)
    for name, split in source.splits.items():
        for index in range(len(split.labels)):
            split.picture_name(index)
            with suppress(ValueError, OSError):
                read_image(source.read(name, index), 16)


_LIST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def _list_seeds(folder: Path) -> list[bytes]:
    rows = [("a.png", "cat", "train"), ("b.png", "dog", "train"), ("c.png", "cat", "val"), ("d.png", "dog", "val")]
    for name, _, _ in rows:
        (folder / name).write_bytes(_png())
    seeds = []
    for number, separator in ((0, ","), (1, "\t")):
        lines = ["path,label,split".replace(",", separator), *(separator.join(row) for row in rows)]
        seeds.append(bytes([number]) + "\n".join(lines).encode())
    objects = [dict(zip(("file_name", "label", "split"), row, strict=True)) for row in rows]
    seeds.append(b"\x02" + "\n".join(map(json.dumps, objects)).encode())
    table = pa.table({"image": [{"bytes": _png(), "path": row[0]} for row in rows], "label": [0, 1, 0, 1]})
    file = io.BytesIO()
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, file)
    return [*seeds, b"\x03" + file.getvalue()]


def _read_list(data: bytes, folder: Path) -> None:
    path = folder / f"list{_LIST_SUFFIXES[data[0] % len(_LIST_SUFFIXES)] if data else '.csv'}"
    path.write_bytes(data[1:])
    try:
        _read_source(path)
    finally:
        path.unlink()


def _pickle_seeds(_: Path) -> list[bytes]:
    value = {b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [0, 1], "names": ("a", None, True, 2.5)}
    return [pickle.dumps(value, protocol) for protocol in range(6)]


def _read_pickle(data: bytes, _: Path) -> None:
    read_pickle(data)


# ---- Stores ---------------------------------------------------------------------------------------------------------


def _store_seeds(folder: Path) -> list[bytes]:
    write_store(folder / "raw", size=8, train=4, val=2)
    pictures = folder / "pictures"
    for number, (picture, label) in enumerate(zip(*draw_pictures(6, SIDE), strict=True)):
        path = pictures / CLASSES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    from alexnet.data.prepare.prepare import prepare

    prepare(pictures, folder / "jpeg", size=8, encoding="jpeg", workers=1, progress=False)
    paths = [path for name in ("raw", "jpeg") for path in sorted((folder / name).iterdir())]
    (folder / "files.json").write_text(json.dumps([str(path.relative_to(folder)) for path in paths]))
    shutil.copytree(folder / "raw", folder / "true/raw")
    shutil.copytree(folder / "jpeg", folder / "true/jpeg")
    return [bytes([number]) + path.read_bytes() for number, path in enumerate(paths)]


def _read_store(data: bytes, folder: Path) -> None:
    with _replaced(data, folder) as path:
        store = Store(path.parent)
        assert store.statistics.mean.shape[0] == 3
        for name in store.splits:
            split = store.split(name)
            for index in range(len(split)):
                split.picture_name(index)
                split.image(index)
        _verify(path.parent)


class _replaced:  # noqa: N801, a context manager
    """The file that the first byte of an input chooses, replaced by the rest of it while the block runs."""

    def __init__(self, data: bytes, folder: Path) -> None:
        names = json.loads((folder / "files.json").read_text())
        name = names[data[0] % len(names) if data else 0]
        self._path, self._true, self._contents = folder / name, folder / "true" / name, data[1:]

    def __enter__(self) -> Path:
        self._path.write_bytes(self._contents)
        return self._path

    def __exit__(self, *_: object) -> None:
        shutil.copyfile(self._true, self._path)


def _verify(path: Path) -> None:
    with suppress(ValueError, OSError):
        verify(path)


# ---- Nets -----------------------------------------------------------------------------------------------------------


def _recipe() -> Recipe:
    conv = Conv(maps=2, kernel=5, stride=4, then=("activate", "normalise", "pool"))
    net = dataclasses.replace(
        small_net(), conv1=conv, conv2=None, conv3=None, conv4=None, conv5=None, fc6=Full(units=4), fc7=None
    )
    return Recipe(net=net, store_size=SIDE, batch_size=4, epochs=2)


def _write_checkpoint(path: Path) -> None:
    """Write a checkpoint without checksums, as earlier versions did: a changed one is read, too."""
    from alexnet.data.store.statistics import Statistics

    recipe = _recipe()
    net = AlexNet(3, recipe.net)
    pixels = draw_pictures(4, SIDE)[0].astype(np.int64)
    statistics = Statistics.from_sums(pixels.sum(0), pixels.reshape(-1, 3).T @ pixels.reshape(-1, 3), 4)
    tensors = {f"net.{name}": parameter.detach() for name, parameter in net.named_parameters()}
    path.parent.mkdir(parents=True)
    save_checkpoint(
        path, tensors, recipe=recipe, classes=CLASSES, statistics=statistics, state=TrainState(step=1), class_ids=None
    )
    path.write_bytes(without_checksums(path.read_bytes()))


def without_checksums(contents: bytes) -> bytes:
    """Return a safetensors file without the checksums in its metadata."""
    length = int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["alexnet"])
    for name in ("checksum", "checksums", "files"):
        metadata.pop(name, None)
    header["__metadata__"]["alexnet"] = json.dumps(metadata)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    assert BLANK_CHECKSUM[:5].encode() not in text
    return struct.pack("<Q", len(text)) + text + contents[8 + length :]


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    path = folder / "run/checkpoints/best.safetensors"
    _write_checkpoint(path)
    (folder / "run/recipe.json").write_text(_recipe().to_json())
    return [path.read_bytes()]


def _read_checkpoint(data: bytes, folder: Path) -> None:
    path = folder / "run/checkpoints/best.safetensors"
    path.write_bytes(data)
    _verify(folder / "run")
    classifier = Classifier.load(folder / "run", device="cpu")
    size = classifier.recipe.store_size
    if size <= 256 and sum(parameter.numel() for parameter in classifier.net.parameters()) < 1_000_000:
        classifier.predict(np.zeros((size, size, 3), np.uint8))


def _recipe_seeds(_: Path) -> list[bytes]:
    from alexnet.recipes import RECIPES

    return [recipe().to_json().encode() for recipe in RECIPES.values()]


def _read_recipe(data: bytes, folder: Path) -> None:
    path = folder / "recipe.json"
    path.write_bytes(data)
    recipe = Recipe.load(path)
    with torch.device("meta"):
        AlexNet(3, recipe.net)


def _weight_seeds(folder: Path) -> list[bytes]:
    from external_files import CaffeAlexNet, TorchvisionAlexNet, caffe_onnx, caffemodel
    from safetensors.torch import save

    net = TorchvisionAlexNet((2, 2, 2, 2, 2), 2, 2)
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(net.state_dict(), new)
    torch.save(net.state_dict(), old, _use_new_zipfile_serialization=False)
    caffe = CaffeAlexNet((2, 2, 2, 2, 2), 2, 2)
    checkpoint = folder / "exported/checkpoints/best.safetensors"
    _write_checkpoint(checkpoint)
    from alexnet.convert.export import export

    export(folder / "exported", state=folder / "net.safetensors")
    mean = io.BytesIO()
    np.save(mean, np.zeros(3, np.float32))
    return [
        *(new.getvalue(), old.getvalue(), save(net.state_dict())),
        *(caffemodel(caffe, old=old_version) for old_version in (False, True)),
        caffe_onnx(caffe, 227).SerializeToString(),
        without_checksums((folder / "net.safetensors").read_bytes()),
        mean.getvalue(),
    ]


def _read_weights(data: bytes, folder: Path) -> None:
    path = folder / "weights"
    path.write_bytes(data)
    if data.startswith(b"\x93NUMPY"):
        read_caffe_mean(path, 256)
        return
    if not (is_safetensors(path) and exported_net(path) is not None):
        assemble(read_external_net(path))


def _index_seeds(folder: Path) -> list[bytes]:
    from alexnet.results import binary_codes
    from alexnet.results.retrieval import build_index

    _write_checkpoint(folder / "run/checkpoints/best.safetensors")
    write_store(folder / "store", size=SIDE, train=4, val=2)
    binary_codes.STEPS = 2
    build_index(folder / "run", folder / "store", bits=8, progress=False)
    index = folder / "run/index"
    metadata = json.loads((index / "about.json").read_text())
    del metadata["files"], metadata["checksum"]
    (index / "about.json").write_text(json.dumps(metadata))
    encoder = index / "encoder.safetensors"
    encoder.write_bytes(without_checksums(encoder.read_bytes()))
    paths = sorted(index.iterdir())
    (folder / "files.json").write_text(json.dumps([str(path.relative_to(folder)) for path in paths]))
    shutil.copytree(index, folder / "true/run/index")
    return [bytes([number]) + path.read_bytes() for number, path in enumerate(paths)]


def _read_index(data: bytes, folder: Path) -> None:
    with _replaced(data, folder) as path:
        index = Index(path.parent)
        query = np.zeros((1, 4), np.float32)
        for codes in (False, True):
            distances, indices = index.search(query, 2, codes=codes)
            index.describe(distances[0], indices[0])
        _verify(path.parent)


def _prediction_seeds(folder: Path) -> list[bytes]:
    predictions = Predictions(("a",), CLASSES, 1, 1, {"val": "x"}, {"val": torch.full((2, 3), 1 / 3)})
    predictions.save(folder / "predictions")
    return [without_checksums((folder / "predictions").read_bytes())]


def _read_predictions(data: bytes, folder: Path) -> None:
    path = folder / "predictions"
    path.write_bytes(data)
    Predictions.load(path)


def _metrics_seeds(folder: Path) -> list[bytes]:
    (folder / "recipe.json").write_text(_recipe().to_json())
    start = {"event": "start", "train_pictures": 8, "seed": 0, "store": "s", "classes": 3}
    step = {"event": "step", "step": 1, "epoch": 0.5, "loss": 1.1}
    epoch = {"event": "epoch", "epoch": 1, "step": 2, "val_top1_error": 0.5, "split": "val"}
    return ["\n".join(map(json.dumps, (start, step, epoch, ""))).encode()]


_load_recipe = functools.cache(Recipe.load)  # the same for each input, and most of the time


def _read_metrics(data: bytes, folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(data)
    with patch.object(Recipe, "load", _load_recipe):
        RunHistory.read(folder)


TARGETS = {
    "pictures": Target(_picture_seeds, _read_picture),
    "archives": Target(_archive_seeds, _read_archive),
    "lists": Target(_list_seeds, _read_list),
    "pickles": Target(_pickle_seeds, _read_pickle),
    "store": Target(_store_seeds, _read_store),
    "checkpoint": Target(_checkpoint_seeds, _read_checkpoint),
    "recipe": Target(_recipe_seeds, _read_recipe),
    "weights": Target(_weight_seeds, _read_weights),
    "index": Target(_index_seeds, _read_index),
    "predictions": Target(_prediction_seeds, _read_predictions),
    "metrics": Target(_metrics_seeds, _read_metrics),
}


def new_folder(parent: Path) -> Path:
    """Return a new folder for a target, in which temporary files are written, too."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / "temporary").mkdir()
    tempfile.tempdir = str(folder / "temporary")
    return folder

"""The nearest pictures by the activities of the last hidden layer, or by short binary codes (section 7.1, Figure 4)."""

import contextlib
import copy
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from alexnet.checked import require
from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import make_view_batch, select_views
from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.on_demand import StoreLocation, open_training_store
from alexnet.data.store.base import Split
from alexnet.models.weight_files import check_checksums
from alexnet.results import binary_codes
from alexnet.results.binary_codes import Autoencoder, check_bits, train_autoencoder
from alexnet.results.evaluate import check_picture_size
from alexnet.results.index_files import IndexFiles, file_checksums, write_array
from alexnet.results.nearest_neighbours import iter_blocks, nearest_neighbours, nearest_neighbours_by_codes
from alexnet.results.vector_files import write_vectors
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.precision import autocast
from alexnet.utils.checksums import BLANK_CHECKSUM, is_whole, seal, sealed_header, with_checksums
from alexnet.utils.console import count_of, format_error
from alexnet.utils.device import choose_device
from alexnet.utils.files import explain_full_disk, replace_folder, write_atomic

_FORMAT = 1
_BATCH = 128


class Features:
    """The net of a run as a function from pictures to the activities of its last hidden layer.

    Args:
        checkpoint: The checkpoint of the net.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
    """

    def __init__(self, checkpoint: Checkpoint, device: str | torch.device | None = None) -> None:
        self.recipe = checkpoint.recipe
        self.net = checkpoint.net().to_channels_last(choose_device(device))
        self.device, crop = self.net.device, self.recipe.net.image_size
        self.centre = torch.from_numpy(centre_mean(checkpoint.statistics.mean, crop)).to(self.device)
        self.views = select_views(1, self.recipe.store_size, crop)
        self.width = self.net.num_features

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the activities for the centre of each picture.

        Args:
            pictures: (size, size, 3) uint8 each.

        Returns:
            (N, width) float32.
        """
        with autocast(self.device, self.recipe):
            activities = self.net.features(make_view_batch(pictures, self.views, self.centre))
        return np.asarray(activities.float().cpu())


# ---- The index of a run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbour:
    """A nearest neighbour.

    Args:
        name: The name of the picture in the store.
        label: The name of its class.
        distance: The Euclidean distance of its activities from those of the query.
    """

    name: str
    label: str
    distance: float


class Index:
    """The activities and the codes of a set of pictures, on disk, and the search among them.

    Args:
        folder: The folder that `build_index` wrote.

    Raises:
        FileNotFoundError: There is no index.
        ValueError: It is damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        metadata = folder / "about.json"
        if not metadata.exists():
            raise FileNotFoundError(
                f"{folder} must contain an index; there is none: build it with alexnet index RUN STORE"
            )
        self.folder = folder
        with _explain_damaged_index(folder):
            contents = metadata.read_bytes()
            if is_whole(contents) is False:
                raise ValueError(f"{metadata.name} has another checksum")
            self.metadata: dict[str, Any] = json.loads(contents)
            if not isinstance(self.metadata, dict):
                raise ValueError(f"{metadata.name} is no JSON object")
        if self.metadata.get("format") != _FORMAT:
            raise ValueError(
                f"index {folder} must be of format {_FORMAT}; it is of {self.metadata.get('format')}: build it again"
            )
        with _explain_damaged_index(folder):
            files = IndexFiles.read(folder, self.metadata)
        self.activities, self.labels, self.names, self.codes = files.activities, files.labels, files.names, files.codes
        self._encoder: Autoencoder | None = None

    def __len__(self) -> int:
        return len(self.activities)

    def encoder(self) -> Autoencoder:
        """Return the autoencoder that makes the codes.

        Raises:
            ValueError: The index has no codes.
        """
        if self._encoder is None:
            if self.codes.shape[1] == 0:
                raise ValueError(
                    f"index {self.folder} must have binary codes to search by `codes`; it has none: build it again "
                    "with alexnet index RUN STORE, or search by the activities"
                )
            self._encoder = self._load_encoder("encoder.safetensors", 8 * self.codes.shape[1])
        return self._encoder

    def _load_encoder(self, name: str, bits: int) -> Autoencoder:
        net = Autoencoder(self.activities.shape[1], bits).eval()
        with _explain_damaged_index(self.folder):
            check_checksums(self.folder / name)
            net.load_state_dict(load_file(self.folder / name))
        return net

    def with_code_length(self, bits: int, *, seed: int = 0, progress: bool = False) -> "Index":
        """Return the same index with codes of another length; their autoencoder is trained once and saved in it."""
        other, name = copy.copy(self), f"encoder-{bits}-{seed}.safetensors"
        if not (self.folder / name).exists():
            net, _ = train_autoencoder(self.activities, bits, seed=seed, progress=progress)
            write_atomic(self.folder / name, _encoder_bytes(net))
        other._encoder = net = self._load_encoder(name, bits)
        other.codes = np.concatenate([net.codes(block) for block in iter_blocks(self.activities)])
        return other

    def search(self, queries: np.ndarray, count: int, *, codes: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest pictures.

        Args:
            queries: (N, width) float32 activities.
            count: The number of pictures for each.
            codes: Whether to find candidates by their codes first, and compare the activities of these only.

        Returns:
            Distances (N, count) float32 and indices (N, count) int64 of the pictures, the nearest first.

        Raises:
            ValueError: `count` is below 1 or above the number of pictures; the queries have another width; or there are
                no codes.
        """
        require(1 <= count <= len(self), "count", f"from 1 to {len(self)}, the number of pictures", count)
        width = self.activities.shape[1]
        require(
            queries.shape[1:] == (width,), "queries", f"activities of {width} units, as in the index", queries.shape
        )
        if not codes:
            return nearest_neighbours(queries, iter_blocks(self.activities), count)
        return nearest_neighbours_by_codes(queries, self.encoder().codes(queries), self.activities, self.codes, count)

    def describe(self, distances: np.ndarray, indices: np.ndarray) -> list[Neighbour]:
        """Return the nearest neighbours of one query, (count,) distances and indices, with names and classes."""
        classes = self.metadata["classes"]
        return [
            Neighbour(self.names[index], classes[self.labels[index]], float(distance))
            for distance, index in zip(distances, indices, strict=True)
        ]


def _encoder_bytes(net: Autoencoder) -> bytes:
    """Return the contents of an autoencoder's file."""
    tensors = net.state_dict()
    return sealed_header(save(tensors, {"alexnet": json.dumps(with_checksums({}, tensors))}))


@contextlib.contextmanager
def _explain_damaged_index(folder: Path) -> Iterator[None]:
    """Turn the error for a file that cannot be read into one that says what to do."""
    try:
        yield
    except (ValueError, EOFError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = format_error(error, with_type=False, limit=100)
        raise ValueError(
            f"index {folder} is damaged ({reason}): build it again with alexnet index RUN STORE"
        ) from error


# ---- What the commands do -------------------------------------------------------------------------------------------


def build_index(
    run: str | Path,
    store: StoreLocation,
    *,
    split: str = "train",
    bits: int | None = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Write the activities of a split of pictures, and codes for them, to RUN/index (7.1).

    Args:
        run: The folder that `train` wrote.
        store: The folder that `prepare` wrote; its classes may be others than the run's.
        split: The split.
        bits: The length of the binary codes; the autoencoder that makes them is trained on these activities. None for
            an index without codes.
        seed: The seed of the autoencoder.
        force: Whether to replace an index of another split or of another store.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        progress: Whether to show progress on standard error.

    Returns:
        The folder of the index.

    Raises:
        FileNotFoundError: The run has no trained net, or there is no store.
        FileExistsError: There is an index of another split or store, and `force` is not set.
        ValueError: The store has another size of pictures, or no such split; `bits` is not a multiple of 8 up to 4096.
    """
    if bits is not None:
        check_bits(bits)
    checkpoint, opened = load_best(Path(run)), open_training_store(store, Path(run))
    check_picture_size(checkpoint, opened)
    pictures = opened.split(split)
    folder, unfinished = Path(run) / "index", Path(run) / "index.part"
    if not force:
        _check_replaced_index(folder, str(opened.path.resolve()), split)
    metadata = {
        "format": _FORMAT,
        "store": str(opened.path.resolve()),
        "split": split,
        "step": checkpoint.state.step,
        "classes": opened.classes,
        "bits": bits,
        "seed": seed,
    }
    try:
        with explain_full_disk(folder):
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
            unfinished.mkdir()
            features = Features(checkpoint, device)
            if progress:
                _print_plan(len(pictures), features.width, bits)
            activities = write_activities(unfinished / "activities.npy", features, pictures, progress)
            if bits is not None:
                net, fit = train_autoencoder(activities, bits, seed=seed, progress=progress)
                write_array(unfinished / "codes.npy", [net.codes(block) for block in iter_blocks(activities)])
                (unfinished / "encoder.safetensors").write_bytes(_encoder_bytes(net))
                metadata["autoencoder"] = asdict(fit)
            write_array(unfinished / "labels.npy", [pictures.labels.astype(np.int32)])
            names = [pictures.picture_name(index) for index in range(len(pictures))]
            (unfinished / "names.json").write_text(json.dumps(names), encoding="utf-8")
            metadata |= {"files": file_checksums(unfinished), "checksum": BLANK_CHECKSUM}
            (unfinished / "about.json").write_bytes(seal(json.dumps(metadata, indent=1).encode()))
            replace_folder(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _print_plan(count: int, width: int, bits: int | None) -> None:
    """Print on standard error what an index takes."""
    codes = "" if bits is None else f", then {binary_codes.STEPS:,} steps to train the autoencoder of the codes"
    print(f"index: {width:,} activities for each of {count_of(count, 'picture')}{codes}", file=sys.stderr)


def _check_replaced_index(folder: Path, store: str, split: str) -> None:
    """Check that an index, if there is one, is of the same split of the same store: `similar` searches in it."""
    if not (folder / "about.json").exists():
        return
    other = Index(folder).metadata
    if (other["store"], other["split"]) != (store, split):
        raise FileExistsError(
            f"{folder} is an index of split {other['split']} of {other['store']}: replace it by one of split {split} "
            f"of {store} with `force=True`, or rename its folder"
        )


def write_activities(path: Path, features: Features, split: Split, progress: bool = False) -> np.ndarray:
    """Write the activities of a split to a NumPy file, batch by batch, and return them memory-mapped.

    Returns:
        (N, width) float32.
    """
    starts = range(0, len(split), _BATCH)
    batches = (features([split.image(i) for i in range(start, min(start + _BATCH, len(split)))]) for start in starts)
    return write_vectors(path, batches, (len(split), features.width), "activities", progress)


def open_index(run: Path, step: int) -> Index:
    """Open the index of a run.

    Args:
        run: The folder of the run.
        step: The steps that its net was trained for.

    Raises:
        FileNotFoundError: There is no index.
        ValueError: It is damaged, or of another net.
    """
    index = Index(run / "index")
    if index.metadata["step"] != step:
        raise ValueError(
            f"the index of run {run} must be of its net after step {step}; it is of step "
            f"{index.metadata['step']}: build it again with alexnet index {run} STORE"
        )
    return index


def find_similar(
    run: str | Path,
    pictures: Sequence[str | Path],
    *,
    count: int = 6,
    codes: bool = False,
    device: str | torch.device | None = None,
    unreadable: dict[int, Exception] | None = None,
) -> list[list[Neighbour]]:
    """Find the pictures of RUN/index whose activities are nearest to those of other pictures (7.1, Figure 4 right).

    Args:
        run: The folder of a run that has an index.
        pictures: The files of the pictures to compare with.
        count: The number of pictures to find for each.
        codes: Whether to find candidates by the binary codes, and rank these by the activities.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        unreadable: If it is given, a file that is not a picture does not end the search: its position in `pictures` and
            the error are added to it.

    Returns:
        For each picture its neighbours, the nearest first; an empty list if it cannot be read.

    Raises:
        FileNotFoundError: There is no index, or no such file.
        ValueError: A file is not a picture, the index is of another net, or `count` is out of range.
    """
    checkpoint = load_best(Path(run))
    index = open_index(Path(run), checkpoint.state.step)
    features = Features(checkpoint, device)
    squares: dict[int, np.ndarray] = {}
    for position, picture in enumerate(pictures):
        try:
            squares[position] = read_image(picture, features.recipe.store_size)
        except (ValueError, OSError) as error:
            if unreadable is None:
                raise
            unreadable[position] = error
    neighbours: list[list[Neighbour]] = [[] for _ in pictures]
    if squares:
        rows = index.search(features(list(squares.values())), count, codes=codes)
        for position, distances, indices in zip(squares, *rows, strict=True):
            neighbours[position] = index.describe(distances, indices)
    return neighbours

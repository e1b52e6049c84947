"""The nearest pictures by the activities of the last hidden layer, or by short binary codes (section 7.1, Figure 4)."""

import contextlib
import copy
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from tqdm import tqdm

from alexnet.checked import require
from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import make_view_batch, select_views
from alexnet.data.prepare.decode import read_image
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.results.binary_codes import Autoencoder, train_autoencoder
from alexnet.results.evaluate import check_run_fits_store
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.precision import autocast
from alexnet.utils.console import format_error
from alexnet.utils.device import choose_device
from alexnet.utils.files import write_atomic

FORMAT = 1
BLOCK = 65_536  # activities compared at a time: of 4096 numbers, 1 GB
BATCH = 128
CANDIDATES = 20  # by codes, for each picture wanted; the exact distances then choose


@dataclass(frozen=True)
class Neighbour:
    """A picture found.

    Args:
        name: Its name in the store.
        label: Its class.
        distance: Euclidean distance of its activities from those asked for.
    """

    name: str
    label: str
    distance: float


def import_faiss() -> Any:
    """The search library.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError("searching needs a package: pip install faiss-cpu") from error
    return faiss


class Features:
    """The net of a run as a function from pictures to the activities of its last hidden layer.

    Args:
        found: The net.
        device: Where it computes; the first GPU or else the CPU by default.
    """

    def __init__(self, found: Checkpoint, device: str | torch.device | None = None) -> None:
        self.recipe = found.recipe
        self.net = found.net().to_channels_last(choose_device(device))
        self.device, crop = self.net.fc8.weight.device, self.recipe.net.image_size
        self.centre = torch.from_numpy(centre_mean(found.statistics.mean, crop)).to(self.device)
        self.view = select_views(1, self.recipe.store_size, crop)
        self.width = self.net.fc8.in_features

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """The activities for the centre of each picture.

        Args:
            pictures: (size, size, 3) uint8 each.

        Returns:
            (N, width) float32.
        """
        with autocast(self.device, self.recipe):
            found = self.net.features(make_view_batch(pictures, self.view, self.centre))
        return np.asarray(found.float().cpu())


@contextlib.contextmanager
def explain_damaged_index(folder: Path) -> Iterator[None]:
    """A line for a file of an index that cannot be read."""
    try:
        yield
    except (ValueError, EOFError, KeyError, RuntimeError, SafetensorError) as error:
        reason = format_error(error, with_type=False, limit=100)
        raise ValueError(f"index {folder} is damaged ({reason}): make it anew with alexnet index RUN STORE") from error


class Index:
    """The activities and codes of a set of pictures, on disk, and the search among them.

    Args:
        folder: What `index` wrote.

    Raises:
        FileNotFoundError: There is no index.
        ValueError: It is of another format.
    """

    def __init__(self, folder: Path) -> None:
        about = folder / "about.json"
        if not about.exists():
            raise FileNotFoundError(f"{folder} must hold an index; there is none: make it with alexnet index RUN STORE")
        self.folder = folder
        with explain_damaged_index(folder):
            self.about: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
        if self.about.get("format") != FORMAT:
            raise ValueError(
                f"index {folder} must be of format {FORMAT}; it is of {self.about.get('format')}: make it anew"
            )
        with explain_damaged_index(folder):
            self.activities: np.ndarray = np.load(folder / "activities.npy", mmap_mode="r")  # (N, width) float32
            self.labels: np.ndarray = np.load(folder / "labels.npy")
            self.names: list[str] = json.loads((folder / "names.json").read_text(encoding="utf-8"))
            self.codes: np.ndarray = np.load(folder / "codes.npy")  # (N, bits / 8) uint8
        self._encoder: Autoencoder | None = None

    def __len__(self) -> int:
        return len(self.activities)

    def encoder(self) -> Autoencoder:
        """The autoencoder that makes the codes."""
        if self._encoder is None:
            self._encoder = self._encoder_of("encoder.safetensors", 8 * self.codes.shape[1])
        return self._encoder

    def _encoder_of(self, name: str, bits: int) -> Autoencoder:
        net = Autoencoder(self.activities.shape[1], bits).eval()
        with explain_damaged_index(self.folder):
            net.load_state_dict(load_file(self.folder / name))
        return net

    def recoded(self, bits: int, *, seed: int = 0) -> "Index":
        """The same with codes of another length, whose autoencoder is kept beside the index's own."""
        other, name = copy.copy(self), f"encoder-{bits}-{seed}.safetensors"
        if not (self.folder / name).exists():
            net, _ = train_autoencoder(self.activities, bits, seed=seed)
            write_atomic(self.folder / name, save(net.state_dict()))
        other._encoder = net = self._encoder_of(name, bits)
        other.codes = np.concatenate([net.codes(part) for part in iter_blocks(self.activities)])
        return other

    def search(self, activities: np.ndarray, count: int, *, codes: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The nearest pictures: their distances and their places, nearest first, (N, count) each.

        Args:
            activities: (N, width) float32.
            count: How many.
            codes: Whether to search among the codes first, and compare activities only of the candidates.

        Raises:
            ValueError: A count below 1 or above the number of pictures.
        """
        require(1 <= count <= len(self), "count", f"from 1 to {len(self)}, the number of pictures", count)
        if not codes:
            return nearest_neighbours(activities, iter_blocks(self.activities), count)
        among = import_faiss().IndexBinaryFlat(8 * self.codes.shape[1])
        among.add(self.codes)
        _, candidates = among.search(self.encoder().codes(activities), min(CANDIDATES * count, len(self)))
        distances, places = np.empty((len(activities), count), np.float32), np.empty((len(activities), count), np.int64)
        for row, (asked, near) in enumerate(zip(activities, candidates, strict=True)):
            near.sort()  # so that the file is read in order
            distances[row], of_near = (
                found[0] for found in nearest_neighbours(asked[None], [self.activities[near]], count)
            )
            places[row] = near[of_near]
        return distances, places

    def neighbours(self, distances: np.ndarray, places: np.ndarray) -> list[Neighbour]:
        """What was found for one picture, with names and classes."""
        classes = self.about["classes"]
        return [
            Neighbour(self.names[place], classes[self.labels[place]], float(distance))
            for distance, place in zip(distances, places, strict=True)
        ]


def nearest_neighbours(asked: np.ndarray, among: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact nearest neighbours by Euclidean distance; memory stays the same however many vectors there are.

    Args:
        asked: (N, width) float32.
        among: Blocks of vectors (n, width), such as `blocks` makes; their places are counted through.
        count: How many, at most as many as there are vectors.

    Returns:
        Distances and places, nearest first, (N, count) each.
    """
    library = import_faiss()
    heap, start = library.ResultHeap(nq=len(asked), k=count), 0
    asked = np.ascontiguousarray(asked, np.float32)
    for part in among:
        block = np.ascontiguousarray(part, np.float32)
        distances, places = library.knn(asked, block, min(count, len(block)))
        heap.add_result(D=distances, I=places + start)
        start += len(block)
    heap.finalize()
    return np.sqrt(np.maximum(heap.D, 0)), heap.I


def iter_blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Vectors (N, width) in parts of a size that fits in memory."""
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK]


def build_index(
    run: str | Path,
    store: str | Path,
    *,
    split: str = "train",
    bits: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Path:
    """Write the activities of a set of pictures, and codes for them, to RUN/index (7.1).

    Args:
        run: Folder that `train` made.
        store: Folder that `prepare` made, of the same classes.
        split: Which of its pictures.
        bits: Length of the binary codes; the autoencoder that makes them is trained on these activities.
        seed: Of the autoencoder.
        device: Where the net computes; the first GPU or else the CPU by default.
        progress: Whether to show a bar on standard error when that is a terminal.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: No trained net, or no store.
        ValueError: Another set of classes or size of pictures; no such split; bits that are no multiple of 8.
    """
    require(bits >= 8 and bits % 8 == 0, "bits", "a multiple of 8", bits)
    found = load_best(Path(run))
    of_store = Store(store)
    check_run_fits_store(found, of_store)
    of = of_store.split(split)
    folder, beside = Path(run) / "index", Path(run) / "index.part"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    activities = write_activities(beside / "activities.npy", Features(found, device), of, progress)
    net, fit = train_autoencoder(activities, bits, seed=seed)
    np.save(beside / "codes.npy", np.concatenate([net.codes(part) for part in iter_blocks(activities)]))
    save_file(net.state_dict(), beside / "encoder.safetensors")
    np.save(beside / "labels.npy", of.labels.astype(np.int32))
    (beside / "names.json").write_text(json.dumps([of.picture_name(i) for i in range(len(of))]), encoding="utf-8")
    about = {
        "format": FORMAT,
        "store": str(of_store.path.resolve()),
        "split": split,
        "step": found.state.step,
        "classes": of_store.classes,
        "bits": bits,
        "seed": seed,
        "autoencoder": asdict(fit),
    }
    (beside / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    return beside.rename(folder)


def write_activities(path: Path, features: Features, split: Split, progress: bool = False) -> np.ndarray:
    """The activities of a whole split in a NumPy file, (N, width) float32, mapped; written batch by batch."""
    shape = (len(split), features.width)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with tqdm(total=len(split), unit="picture", leave=False, disable=None if progress else True) as bar:
        for start in range(0, len(split), BATCH):
            stop = min(start + BATCH, len(split))
            file[start:stop] = features([split.image(i) for i in range(start, stop)])
            bar.update(stop - start)
    file.flush()
    return file


def find_similar(
    run: str | Path,
    pictures: Sequence[str | Path],
    *,
    count: int = 6,
    codes: bool = False,
    device: str | torch.device | None = None,
    unreadable: dict[int, Exception] | None = None,
) -> list[list[Neighbour]]:
    """The pictures of RUN/index that look most like others to the net (7.1, Figure 4 right).

    Args:
        run: Folder that `index` worked on.
        pictures: Files.
        count: How many for each.
        codes: Whether to search by the binary codes, and rank what they find by the activities.
        device: Where the net computes; the first GPU or else the CPU by default.
        unreadable: Where given, files that are no pictures do not end the search: their places in `pictures` are put
            here, with the reason.

    Returns:
        For each picture its neighbours, nearest first; none for one that cannot be read.

    Raises:
        FileNotFoundError: No index, or no such file.
        ValueError: A file that is no picture, or a count out of range.
    """
    of, found = Index(Path(run) / "index"), load_best(Path(run))
    if of.about["step"] != found.state.step:
        raise ValueError(
            f"index of run {run} must be of its net after step {found.state.step}; it is of step "
            f"{of.about['step']}: make it anew with alexnet index {run} STORE"
        )
    features = Features(found, device)
    squares: dict[int, np.ndarray] = {}
    for place, picture in enumerate(pictures):
        try:
            squares[place] = read_image(picture, features.recipe.store_size)
        except (ValueError, OSError) as error:
            if unreadable is None:
                raise
            unreadable[place] = error
    near: list[list[Neighbour]] = [[] for _ in pictures]
    if squares:
        distances, places = of.search(features(list(squares.values())), count, codes=codes)
        for place, *one in zip(squares, distances, places, strict=True):
            near[place] = of.neighbours(*one)
    return near

"""Short binary codes of the net's activities find pictures of the same class; those of raw pixels hardly do (7.1).

    alexnet reproduce codes --data STORE
    alexnet reproduce codes --data STORE --recipe tiny-imagenet --seeds 3

The paper expects that codes of activities are much better for retrieval than the codes of raw pixels that Krizhevsky
and Hinton (2011) made. The same autoencoder is trained on both; pictures of over 64 pixels a side are made smaller for
it. The table has the share of the ten nearest pictures that are of the query's class: nearest by the vectors
themselves, by Euclidean distance, and by their codes alone, by the number of different bits.

Expected: the paper has no numbers.
Duration: a training for each seed, unless an experiment in the same folder has trained the net; then for each seed two
autoencoders of activities, of one to three minutes, and two of pixels, of about ten (one core).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from safetensors.numpy import load_file, save

from alexnet.data.store.base import Split
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.figure4 import open_coded_index, precision_at_k
from alexnet.experiments.paper_datasets import ILSVRC2010
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.recipe import Recipe
from alexnet.results.binary_codes import train_autoencoder
from alexnet.results.examples import balanced_sample
from alexnet.results.nearest_neighbours import import_faiss, nearest_codes, nearest_neighbours
from alexnet.results.retrieval import Features
from alexnet.results.vector_files import write_vectors
from alexnet.training.checkpoint import load_best
from alexnet.utils.checksums import checksum
from alexnet.utils.files import write_atomic

DATASET = ILSVRC2010
BITS = (64, 256)
_QUERIES, _NEIGHBOURS = 1000, 10
_SIDE = 64  # of the pictures whose raw pixels are compared
_BLOCK = 4096  # pictures compared at a time: of 64 pixels a side, 200 MB
_Add = Callable[[str, np.ndarray, int], None]  # adds a row: its name, the neighbours, the bytes of a picture


def small_picture(picture: np.ndarray) -> np.ndarray:
    """Return a picture as a vector of at most about 64 x 64 pixels; each is the mean of a square of the picture.

    Args:
        picture: (size, size, 3) uint8.

    Returns:
        (3 * side * side,) uint8.
    """
    factor = max(1, len(picture) // _SIDE)
    side = len(picture) // factor
    squares = picture[: side * factor, : side * factor].reshape(side, factor, side, factor, 3)
    pixels: np.ndarray = squares.mean((1, 3)).round().astype(np.uint8)  # (side, side, 3)
    return pixels.reshape(-1)


def _small_pictures(split: Split, indices: np.ndarray) -> np.ndarray:
    """Return pictures of a split as `small_picture` does, (N, 3 * side * side) uint8."""
    return np.stack([small_picture(split.image(int(index))) for index in indices])


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos", "alexnet-2012-run-2010")


def run(experiment: Experiment) -> ExperimentResult:
    """Train the nets, and compare what is nearest by activities, by pixels, and by the codes of each."""
    import_faiss()  # if it is missing, the error must come before the training
    recipe = base_recipe(experiment)
    experiment.net_count = experiment.seeds or 1
    test, train = experiment.store.split(experiment.test_split()), experiment.store.split("train")
    queries = balanced_sample(test.labels, min(_QUERIES, len(test)), 0)
    count = min(_NEIGHBOURS, len(train))
    measures = (f"precision at {count} (%)", "bytes a picture")
    result = ExperimentResult("Codes of activities, and of raw pixels (7.1)", experiment.describe_data(), measures)
    measured: dict[str, list[tuple[float, int | None]]] = {}

    def add(name: str, neighbours: np.ndarray, size: int) -> None:
        precision = to_percent(precision_at_k(neighbours, test.labels[queries], train.labels))
        row = measured.setdefault(name, [])
        row.append((precision, None if row else size))  # the size is the same for all seeds
        result.rows = [ResultRow(name, (None, None), tuple(row)) for name, row in measured.items()]
        result.write(experiment.folder)  # the results so far

    for seed in range(experiment.net_count):
        trained = experiment.train(f"net-{seed}", replace(recipe, seed=seed))
        features = Features(load_best(trained), experiment.device)
        activities = features([test.image(int(query)) for query in queries])
        for bits in BITS:
            experiment.check_time()
            index = open_coded_index(experiment, trained, bits)
            if bits == BITS[0]:
                add("activities", index.search(activities, count)[1], index.activities[0].nbytes)
            by_codes = nearest_codes(index.encoder().codes(activities), index.codes, count)
            add(f"codes of activities, {bits} bits", by_codes, bits // 8)
    _search_by_pixels(experiment, test, train, queries, count, add)
    result.notes = [
        f"Precision: the share of the {count} nearest training pictures that are of the query's class, over "
        f"{len(queries):,} pictures of split {test.name!r}. Pictures drawn at random would have "
        f"{to_percent(1 / len(experiment.store.classes)):.1f} %.",
        "Codes are compared by the number of different bits, nothing else. One autoencoder for each length and seed.",
    ]
    return result


def _search_by_pixels(
    experiment: Experiment, test: Split, train: Split, queries: np.ndarray, count: int, add: _Add
) -> None:
    """Add the rows of raw pixels, and of their codes for each seed."""
    query_pixels = _small_pictures(test, queries)
    width = query_pixels.shape[1]
    path = experiment.folder / "pixels.npy"
    blocks = (_small_pictures(train, indices) for indices in _index_blocks(len(train)))
    try:
        pixels = write_vectors(path, blocks, (len(train), width), "pixels", progress=True)
        as_floats = (pixels[indices].astype(np.float32) for indices in _index_blocks(len(train)))
        add("raw pixels", nearest_neighbours(query_pixels, as_floats, count)[1], width)
        for bits in BITS:
            for seed in range(experiment.seeds or 1):
                query_codes, codes = _pixel_codes(experiment, query_pixels, pixels, bits, seed)
                add(f"codes of raw pixels, {bits} bits", nearest_codes(query_codes, codes, count), bits // 8)
    finally:
        path.unlink(missing_ok=True)  # it is as large as the store


def _index_blocks(length: int) -> Iterator[np.ndarray]:
    """Yield the numbers from 0 to `length` - 1 in blocks."""
    for start in range(0, length, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, length))


def _pixel_codes(
    experiment: Experiment, query_pixels: np.ndarray, pixels: np.ndarray, bits: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes (N, bits / 8) of the queries, and those of the training pictures; they are computed once."""
    digest = checksum(experiment.store.statistics.mean.tobytes() + query_pixels.tobytes())
    path = experiment.folder / "pixel-codes" / f"{bits}-{seed}-{digest}.safetensors"
    if not path.exists():
        experiment.check_time()
        net, _ = train_autoencoder(pixels, bits, seed=seed, progress=True)
        codes = np.concatenate([net.codes(pixels[indices]) for indices in _index_blocks(len(pixels))])
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, save({"queries": net.codes(query_pixels), "pictures": codes}))
    tensors = load_file(path)
    return tensors["queries"], tensors["pictures"]

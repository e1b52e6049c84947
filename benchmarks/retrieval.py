"""Search for similar pictures by pixels, by activities and by binary codes, also among as many as ImageNet has.

    python benchmarks/retrieval.py RUN STORE [--bits 64 128 256] [--many 1200000] [--queries 200] [--json FILE]

The first table: RUN's net computes the activities of STORE's training pictures; the queries are validation pictures.
"precision at six" is the share of the six nearest neighbours that are of the query's class; the JSON file also has it
by class. The second table: synthetic vectors, mixtures of the activities of two pictures of a class, so that they are
distributed like real ones. They are written to a file in --folder (16 kB each) and may exceed the memory. On two cores
training an autoencoder for each code length takes three to four minutes, and writing 1.2 million vectors two.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.data.store.store import Store
from alexnet.experiments.figure4 import pixel_vector_blocks, pixel_vectors, precision_at_k
from alexnet.results.binary_codes import Autoencoder, train_autoencoder
from alexnet.results.examples import balanced_sample
from alexnet.results.nearest_neighbours import (
    import_faiss,
    iter_blocks,
    nearest_neighbours,
    nearest_neighbours_by_codes,
)
from alexnet.results.retrieval import Features, write_activities
from alexnet.training.checkpoint import load_best

_NEIGHBOURS = 6
_CHUNK = 20_000  # synthetic vectors made at a time: 330 MB of 4096 numbers


def _time_call(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Return the result of a call and its seconds."""
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def _write_synthetic_vectors(path: Path, activities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Write vectors that are random mixtures of the activities of two pictures of a class.

    Args:
        path: The file to write.
        activities: (n, width) float32.
        labels: (n,), the class of each row.
        count: The number of vectors to write.

    Returns:
        The vectors (count, width), mapped from the file.
    """
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, activities.shape[1]))
    random, order = np.random.default_rng(0), np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], np.arange(labels.max() + 1))  # of each class in `order`
    number = np.bincount(labels, minlength=labels.max() + 1)
    for start in range(0, count, _CHUNK):
        size = min(_CHUNK, count - start)
        classes = labels[random.integers(len(labels), size=size)]
        a, b = (order[first[classes] + random.integers(number[classes])] for _ in range(2))
        weights = random.random((size, 1), dtype=np.float32)
        vectors[start : start + size] = weights * activities[a] + (1 - weights) * activities[b]
    vectors.flush()
    return vectors


class _Report:
    """The rows of both tables, printed as they are measured.

    Args:
        store: The store, for the names of its classes.
        labels: The labels of the queries.
        train_labels: The labels of the pictures that are searched.
    """

    def __init__(self, store: Store, labels: np.ndarray, train_labels: np.ndarray) -> None:
        self.classes, self.labels, self.train_labels = store.classes, labels, train_labels
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, neighbours: np.ndarray | None, size: int, seconds: float, **more: float) -> None:
        """Add and print a row.

        Args:
            name: What the search compares.
            neighbours: (queries, 6), the indices of the neighbours of each query; None where their precision has no
                meaning.
            size: The bytes of a vector or code.
            seconds: The time of all queries.
            more: Further numbers.
        """
        row: dict[str, Any] = {"what": name, "precision": None, "bytes": size,
                               "ms": 1000 * seconds / len(self.labels), **more}  # fmt: skip
        if neighbours is not None:
            row["precision"] = 100 * precision_at_k(neighbours, self.labels, self.train_labels)
            row["by_class"] = {
                self.classes[label]: self._class_precision(neighbours, label) for label in np.unique(self.labels)
            }
        self.rows.append(row)
        precision = "" if neighbours is None else f"{row['precision']:6.2f} %"
        extra = "".join(f"  {key} {value:,.1f}" for key, value in more.items())
        print(f"{name:42} {precision:>9} {size:8,} bytes {row['ms']:10.3f} ms a query{extra}", flush=True)

    def _class_precision(self, neighbours: np.ndarray, label: int) -> float:
        rows = self.labels == label
        return 100 * precision_at_k(neighbours[rows], self.labels[rows], self.train_labels)


def _measure_real(report: _Report, queries: np.ndarray, activities: np.ndarray, bits: list[int]) -> list[Autoencoder]:
    """Search among the activities of the training pictures, exactly and by codes; return the trained autoencoders."""
    (_, neighbours), seconds = _time_call(nearest_neighbours, queries, iter_blocks(activities), _NEIGHBOURS)
    report.add("activities, exactly", neighbours, activities[0].nbytes, seconds)
    autoencoders = []
    for length in bits:
        (autoencoder, _), fit_seconds = _time_call(train_autoencoder, activities, length)
        autoencoders.append(autoencoder)
        codes, query_codes = autoencoder.codes(activities), autoencoder.codes(queries)
        (_, neighbours), seconds = _time_call(
            nearest_neighbours_by_codes, queries, query_codes, activities, codes, _NEIGHBOURS
        )
        report.add(f"codes of {length} bits, then activities", neighbours, length // 8, seconds, fit_s=fit_seconds)
    return autoencoders


def _measure_synthetic(
    report: _Report, queries: np.ndarray, vectors: np.ndarray, bits: list[int], autoencoders: list[Autoencoder]
) -> None:
    """Search among the synthetic vectors, exactly and by codes."""
    (_, exact), seconds = _time_call(nearest_neighbours, queries, iter_blocks(vectors), _NEIGHBOURS)
    report.add("activities, exactly", None, vectors[0].nbytes, seconds, read_GB=vectors.nbytes / 1e9)
    for length, autoencoder in zip(bits, autoencoders, strict=True):
        start = time.perf_counter()
        codes = np.concatenate([autoencoder.codes(block) for block in iter_blocks(vectors)])
        built = time.perf_counter()
        query_codes = autoencoder.codes(queries)
        _, neighbours = nearest_neighbours_by_codes(queries, query_codes, vectors, codes, _NEIGHBOURS)
        seconds = time.perf_counter() - built
        share = float(np.mean([np.isin(a, b).mean() for a, b in zip(neighbours, exact, strict=True)]))
        report.add(f"codes of {length} bits", None, length // 8, seconds, build_s=built - start,
                   code_MB=codes.nbytes / 1e6, exact=100 * share)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run whose net computes the activities")
    parser.add_argument("store", type=Path, help="the store that is searched")
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 128, 256], help="code lengths")
    parser.add_argument("--many", type=int, default=1_200_000, help="synthetic vectors; 0 for none")
    parser.add_argument("--queries", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="for the vectors, 20 GB for 1.2 million; default: /tmp")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    store = Store(options.store)
    validation, train = store.validation(), store.split("train")
    indices = balanced_sample(validation.labels, options.queries, 0)
    report = _Report(store, validation.labels[indices], train.labels)
    threads = torch.get_num_threads()
    import_faiss().omp_set_num_threads(threads)
    print(f"{len(train):,} pictures, {len(indices)} queries, {threads} threads; precision at {_NEIGHBOURS}")
    (_, neighbours), seconds = _time_call(
        lambda: nearest_neighbours(pixel_vectors(validation, indices), pixel_vector_blocks(train), _NEIGHBOURS)
    )
    report.add("raw pixels", neighbours, 3 * validation.size**2, seconds)
    features = Features(load_best(options.run))
    queries = features([validation.image(int(index)) for index in indices])
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        activities = write_activities(Path(folder) / "activities.npy", features, train)
        autoencoders = _measure_real(report, queries, activities, options.bits)
        if options.many:
            print(f"\n{options.many:,} vectors made up to the same distribution")
            start, path = time.perf_counter(), Path(folder) / "many.npy"
            vectors = _write_synthetic_vectors(path, np.asarray(activities), train.labels, options.many)
            print(f"written in {time.perf_counter() - start:.0f} s, {vectors.nbytes / 1e9:.1f} GB")
            _measure_synthetic(report, queries, vectors, options.bits, autoencoders)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"\npeak resident memory {peak:,.0f} MB, with the pages of the mapped file")
    print("'exact': the share, in %, of the six exact neighbours that the codes find")
    if options.json:
        options.json.write_text(json.dumps({"rows": report.rows, "peak_MB": peak}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

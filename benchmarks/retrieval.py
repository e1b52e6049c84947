"""Searching among many pictures: by pixels, by activities, by binary codes; then among as many as ImageNet has.

    python benchmarks/retrieval.py RUN STORE [--bits 64 128 256] [--many 1200000] [--queries 200] [--json FILE]

RUN's net makes the activities of STORE's training pictures; the queries are its validation pictures. "precision at six"
is the share of the six nearest that are of the query's class; the JSON has it for each class too. The vectors of the
second table are made up: mixtures of the real activities of two pictures of a class, so that they lie as the real ones
do; they are written to a file in --folder (16 kB each), since they may be more than the memory holds.
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
from alexnet.results.binary_codes import train_autoencoder
from alexnet.results.examples import balanced_sample
from alexnet.results.retrieval import (
    CANDIDATES,
    Features,
    import_faiss,
    iter_blocks,
    nearest_neighbours,
    write_activities,
)
from alexnet.training.checkpoint import load_best

COUNT = 6
MADE_AT_ONCE = 20_000


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def by_codes(among: np.ndarray, codes: np.ndarray, asked: np.ndarray, asked_codes: np.ndarray) -> np.ndarray:
    """Places of the nearest among the candidates that the codes give, ranked by activities: (N, COUNT)."""
    index = import_faiss().IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    _, candidates = index.search(asked_codes, min(CANDIDATES * COUNT, len(codes)))
    found = []
    for one, near in zip(asked, candidates, strict=True):
        near.sort()
        found.append(near[nearest_neighbours(one[None], [among[near]], COUNT)[1][0]])
    return np.stack(found)


def made_up(path: Path, activities: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """`count` vectors like the activities, in a mapped file."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, activities.shape[1]))
    random, order = np.random.default_rng(0), np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], np.arange(labels.max() + 1))
    number = np.bincount(labels, minlength=labels.max() + 1)
    for start in range(0, count, MADE_AT_ONCE):
        size = min(MADE_AT_ONCE, count - start)
        of = labels[random.integers(len(labels), size=size)]
        a, b = (order[first[of] + random.integers(number[of])] for _ in range(2))
        share = random.random((size, 1), dtype=np.float32)
        file[start : start + size] = share * activities[a] + (1 - share) * activities[b]
    file.flush()
    return file


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path)
    options.add_argument("store", type=Path)
    options.add_argument("--bits", type=int, nargs="+", default=[64, 128, 256])
    options.add_argument("--many", type=int, default=1_200_000)
    options.add_argument("--queries", type=int, default=200)
    options.add_argument("--folder", type=Path, help="for the made-up vectors, 20 GB for 1.2 million; by default /tmp")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    store = Store(given.store)
    of, among = store.validation(), store.split("train")
    places = balanced_sample(of.labels, given.queries, 0)
    labels, rows = of.labels[places], []

    def row(what: str, found: np.ndarray | None, size: int, seconds: float, **more: float) -> None:
        share = None if found is None else 100 * precision_at_k(found, labels, among.labels)
        rows.append({"what": what, "precision": share, "bytes": size, "ms": 1000 * seconds / len(places), **more})
        if found is not None:
            rows[-1]["by_class"] = {
                store.classes[one]: 100 * precision_at_k(found[labels == one], labels[labels == one], among.labels)
                for one in np.unique(labels)
            }
        text = "" if share is None else f"{share:6.2f} %"
        extra = "".join(f"  {name} {value:,.1f}" for name, value in more.items())
        print(f"{what:42} {text:>9} {size:8,} bytes {rows[-1]['ms']:10.3f} ms a query{extra}", flush=True)

    threads = torch.get_num_threads()
    import_faiss().omp_set_num_threads(threads)
    print(f"{len(among):,} pictures, {len(places)} queries, {threads} threads; precision at {COUNT}")
    found, seconds = timed(lambda: nearest_neighbours(pixel_vectors(of, places), pixel_vector_blocks(among), COUNT)[1])
    row("raw pixels", found, 3 * of.size**2, seconds)
    features = Features(load_best(given.run))
    asked = features([of.image(int(i)) for i in places])
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        activities = write_activities(Path(folder) / "activities.npy", features, among)
        found, seconds = timed(lambda: nearest_neighbours(asked, iter_blocks(activities), COUNT)[1])
        row("activities, exactly", found, activities[0].nbytes, seconds)
        nets = {}
        for bits in given.bits:
            (net, _), fitted = timed(lambda n=bits: train_autoencoder(activities, n))  # type: ignore[misc]
            nets[bits] = net
            codes, asked_codes = net.codes(activities), net.codes(asked)
            found, seconds = timed(lambda c=codes, a=asked_codes: by_codes(activities, c, asked, a))  # type: ignore[misc]
            row(f"codes of {bits} bits, then activities", found, bits // 8, seconds, fit_s=fitted)
        if given.many:
            print(f"\n{given.many:,} vectors made up to the same distribution")
            many, seconds = timed(
                lambda: made_up(Path(folder) / "many.npy", np.asarray(activities), among.labels, given.many)
            )
            print(f"written in {seconds:.0f} s, {many.nbytes / 1e9:.1f} GB")
            found, seconds = timed(lambda: nearest_neighbours(asked, iter_blocks(many), COUNT)[1])
            row("activities, exactly", None, many[0].nbytes, seconds, read_GB=many.nbytes / 1e9)
            for bits, net in nets.items():
                codes, built = timed(lambda n=net: np.concatenate([n.codes(part) for part in iter_blocks(many)]))  # type: ignore[misc]
                near, seconds = timed(lambda c=codes, n=net: by_codes(many, c, asked, n.codes(asked)))  # type: ignore[misc]
                same = float(np.mean([np.isin(a, b).mean() for a, b in zip(near, found, strict=True)]))
                size = codes.nbytes / 1e6
                row(f"codes of {bits} bits", None, bits // 8, seconds, build_s=built, code_MB=size, exact=100 * same)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"\npeak resident memory {peak:,.0f} MB (the mapped file's pages counted); 'exact': % of the exact six found")
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "peak_MB": peak}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Figure 4: the net's guesses at eight pictures, and the training pictures nearest to five by its last hidden layer.

    alexnet reproduce figure4 --data STORE

The right part adds what the paper only mentions: the nearest by raw pixels, beside the nearest by activities. The table
says how many of the six nearest are of the query's class, over many queries: by pixels, by activities, and by the
binary codes that section 7.1 proposes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from alexnet.data.store.base import Split
from alexnet.experiments.lab import ILSVRC2010, Experiment, ExperimentResult, ResultRow, percent
from alexnet.results.examples import balanced_sample, predict_examples
from alexnet.results.figures import draw_guesses, to_png
from alexnet.results.retrieval import Features, Index, build_index, import_faiss, nearest_neighbours
from alexnet.training.checkpoint import load_best

DATA = ILSVRC2010
SHOWN, QUERIES, NEIGHBOURS, BITS = 5, 200, 6, (64, 128, 256)
PIXEL_BLOCK = 256  # pictures compared at a time: of 256 pixels a side, 200 MB


def pixel_vectors(split: Split, places: Sequence[int] | np.ndarray) -> np.ndarray:
    """Pictures as vectors of their raw bytes, (N, 3 * size * size) float32."""
    return np.stack([split.image(int(i)).reshape(-1) for i in places]).astype(np.float32)


def pixel_vector_blocks(split: Split) -> Iterator[np.ndarray]:
    """All pictures of a split as such vectors, some at a time."""
    for start in range(0, len(split), PIXEL_BLOCK):
        yield pixel_vectors(split, range(start, min(start + PIXEL_BLOCK, len(split))))


def precision_at_k(found: np.ndarray, labels: np.ndarray, among: np.ndarray) -> float:
    """The share of the pictures found, (N, count) places, that have the label of their query."""
    return float((among[found] == labels[:, None]).mean())


def run(lab: Experiment) -> ExperimentResult:
    """Train a net, draw both parts of the figure, and measure the three ways of searching."""
    import_faiss()  # or it is missed only after the training
    base = lab.base("photos", "alexnet-2012-run-2010")
    trained = lab.trained("net-0", base)
    of, among = lab.store.split(lab.tested()), lab.store.split("train")
    queries = balanced_sample(of.labels, min(QUERIES, len(of)), 0)
    asked = Features(load_best(trained), lab.device)([of.image(int(i)) for i in queries])
    count = min(NEIGHBOURS, len(among))
    by_pixels = nearest_neighbours(pixel_vectors(of, queries), pixel_vector_blocks(among), count)[1]

    measure = f"precision at {count} (%)"
    finding = ExperimentResult("Figure 4: guesses and neighbours", lab.data(), (measure, "bytes a picture"))
    size = 3 * of.size**2
    finding.rows = [row("raw pixels", by_pixels, size, of.labels[queries], among.labels)]
    if not (trained / "index" / "about.json").exists():
        build_index(trained, lab.store.path, bits=BITS[0], device=lab.device)
    found = Index(trained / "index")
    by_activities = found.search(asked, count)[1]
    bytes_of = found.activities[0].nbytes
    finding.rows.append(row("activities", by_activities, bytes_of, of.labels[queries], among.labels))
    for bits in BITS:
        coded = found if bits == BITS[0] else found.with_code_length(bits)
        by_codes = coded.search(asked, count, codes=True)[1]
        name = f"codes of {bits} bits, then activities"
        finding.rows.append(row(name, by_codes, bits // 8, of.labels[queries], among.labels))
    finding.notes = [f"Over {len(queries)} pictures of split {of.name!r}; bytes are those that are searched through."]

    save(
        draw_guesses(predict_examples(load_best(trained), of, queries[:8], lab.device)),
        lab.folder / "figure4-left.png",
        finding,
    )
    shown = slice(0, SHOWN)
    right = draw_neighbours(of, among, queries[shown], by_activities[shown], by_pixels[shown])
    save(right, lab.folder / "figure4-right.png", finding)
    return finding


def row(name: str, found: np.ndarray, size: int, labels: np.ndarray, among: np.ndarray) -> ResultRow:
    """A way of searching: how good it is, and how many bytes it reads for each picture."""
    return ResultRow(name, (None, None), ((percent(precision_at_k(found, labels, among)), size),))


def save(figure: Figure, path: Path, finding: ExperimentResult) -> None:
    """Write a figure and name it in the finding."""
    path.write_bytes(to_png(figure))
    finding.figures.append(path.name)


def draw_neighbours(
    of: Split, among: Split, queries: np.ndarray, by_activities: np.ndarray, by_pixels: np.ndarray
) -> Figure:
    """A row for each query: the picture, its nearest by activities, its nearest by pixels."""
    count = by_activities.shape[1]
    figure = Figure(figsize=(2 + 2 * count * 0.95, 1.05 * len(queries) + 0.4), layout="constrained")
    widths = [1, 0.15, *[1] * count, 0.15, *[1] * count]
    grid = figure.add_gridspec(len(queries), len(widths), width_ratios=widths)
    for number, query in enumerate(queries):
        line = [(0, of.image(int(query)))]
        line += [(2 + n, among.image(int(place))) for n, place in enumerate(by_activities[number])]
        line += [(3 + count + n, among.image(int(place))) for n, place in enumerate(by_pixels[number])]
        for column, picture in line:
            axes = figure.add_subplot(grid[number, column])
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if number == 0 and column in (0, 2, 3 + count):
                title = {0: "test picture", 2: "nearest by activities", 3 + count: "nearest by raw pixels"}[column]
                axes.set_title(title, loc="left", fontsize=8)
    return figure

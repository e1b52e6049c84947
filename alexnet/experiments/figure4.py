"""Figure 4: the net's guesses for eight pictures, and the training pictures nearest to five by its last hidden layer.

    alexnet reproduce figure4 --data STORE

The right part adds what the paper only mentions: beside the nearest pictures by activities, the nearest by raw pixels.
The table says how many of the six nearest pictures are of the query's class, over many queries: by pixels, by
activities, and by the binary codes that section 7.1 proposes.

Expected: the paper has no numbers. Here, on Caltech-101 with photos: 10.8 % by pixels, 34.0 % by activities, 34.9 to
35.8 % by codes.
Duration: a training, then three autoencoders of 200 s each (one core).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from alexnet.data.store.base import Split
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2010
from alexnet.experiments.result import ExperimentResult, ResultRow, to_percent
from alexnet.recipe import Recipe
from alexnet.results.examples import balanced_sample, predict_examples
from alexnet.results.figure_files import save_figure
from alexnet.results.figures import draw_guesses
from alexnet.results.nearest_neighbours import import_faiss, nearest_neighbours
from alexnet.results.retrieval import Features, Index, build_index
from alexnet.training.checkpoint import load_best

DATASET = ILSVRC2010
BITS = (64, 128, 256)
_GUESSES_SHOWN, _QUERIES_SHOWN = 8, 5
_QUERIES, _NEIGHBOURS = 200, 6
_PIXEL_BLOCK = 256  # pictures compared at a time: of 256 pixels a side, 200 MB


def pixel_vectors(split: Split, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return pictures as vectors of their raw pixels, (N, 3 * size * size) float32."""
    return np.stack([split.image(int(index)).reshape(-1) for index in indices]).astype(np.float32)


def pixel_vector_blocks(split: Split) -> Iterator[np.ndarray]:
    """Yield all pictures of a split as vectors of their raw pixels, in blocks."""
    for start in range(0, len(split), _PIXEL_BLOCK):
        yield pixel_vectors(split, range(start, min(start + _PIXEL_BLOCK, len(split))))


def precision_at_k(neighbours: np.ndarray, labels: np.ndarray, train_labels: np.ndarray) -> float:
    """Return the share of the neighbours that have the label of their query.

    Args:
        neighbours: (N, k) int, the indices of each query's neighbours.
        labels: (N,) int, the labels of the queries.
        train_labels: The labels of the pictures that were searched.
    """
    return float((train_labels[neighbours] == labels[:, None]).mean())


def open_coded_index(experiment: Experiment, run: Path, bits: int) -> Index:
    """Return the index of a run with codes of this length; what it lacks is made.

    Raises:
        ValueError: The run has an index of other pictures.
    """
    store = experiment.store.path
    if not (run / "index" / "about.json").exists():
        build_index(run, store, bits=bits, device=experiment.device)
    index = Index(run / "index")
    indexed = index.metadata["store"], index.metadata["split"]
    if indexed != (str(store.resolve()), "train"):
        raise ValueError(
            f"{index.folder} must be an index of split train of {store}; it is one of split {indexed[1]} of "
            f"{indexed[0]}: rename its folder"
        )
    return index if 8 * index.codes.shape[1] == bits else index.with_code_length(bits, progress=True)


def base_recipe(experiment: Experiment) -> Recipe:
    """Return the recipe to vary; raise a ValueError if the experiment's epochs do not suit it."""
    return experiment.base_recipe("photos", "alexnet-2012-run-2010")


def run(experiment: Experiment) -> ExperimentResult:
    """Train a net, draw both parts of the figure, and compare the three ways to search."""
    import_faiss()  # if it is missing, the error must come before the training
    experiment.net_count = 1
    recipe = base_recipe(experiment)
    run_folder = experiment.train("net-0", recipe)
    test, train = experiment.store.split(experiment.test_split()), experiment.store.split("train")
    queries = balanced_sample(test.labels, min(_QUERIES, len(test)), 0)
    count = min(_NEIGHBOURS, len(train))
    measures = (f"precision at {count} (%)", "bytes a picture")
    result = ExperimentResult("Figure 4: guesses and neighbours", experiment.describe_data(), measures)

    def add_row(name: str, neighbours: np.ndarray, size: int) -> None:
        precision = to_percent(precision_at_k(neighbours, test.labels[queries], train.labels))
        result.rows.append(ResultRow(name, (None, None), ((precision, size),)))

    by_pixels = nearest_neighbours(pixel_vectors(test, queries), pixel_vector_blocks(train), count)[1]
    add_row("raw pixels", by_pixels, 3 * test.size**2)
    index, checkpoint = open_coded_index(experiment, run_folder, BITS[0]), load_best(run_folder)
    activities = Features(checkpoint, experiment.device)([test.image(int(query)) for query in queries])
    by_activities = index.search(activities, count)[1]
    add_row("activities", by_activities, index.activities[0].nbytes)
    for bits in BITS:
        experiment.check_time()
        coded = open_coded_index(experiment, run_folder, bits)
        by_codes = coded.search(activities, count, codes=True)[1]
        add_row(f"codes of {bits} bits, then activities", by_codes, bits // 8)
    result.notes = [f"Over {len(queries)} pictures of split {test.name!r}; the bytes are those that are searched."]

    examples = predict_examples(checkpoint, test, queries[:_GUESSES_SHOWN], experiment.device)
    left = draw_guesses(examples)
    shown = slice(0, _QUERIES_SHOWN)
    right = draw_neighbours(test, train, queries[shown], by_activities[shown], by_pixels[shown])
    for name, figure in (("figure4-left.png", left), ("figure4-right.png", right)):
        save_figure(experiment.folder / name, figure, recipe)
        result.figures.append(name)
    return result


def draw_neighbours(
    test: Split, train: Split, queries: np.ndarray, by_activities: np.ndarray, by_pixels: np.ndarray
) -> Figure:
    """Draw a row for each query: the picture, its nearest by activities, its nearest by pixels.

    Args:
        test: The split of the queries.
        train: The split that was searched.
        queries: (N,) int, indices into `test`.
        by_activities, by_pixels: (N, count) int, indices into `train`.
    """
    count = by_activities.shape[1]
    figure = Figure(figsize=(2 + 2 * count * 0.95, 1.05 * len(queries) + 0.4), layout="constrained")
    widths = [1, 0.15, *[1] * count, 0.15, *[1] * count]
    titles = {0: "test picture", 2: "nearest by activities", 3 + count: "nearest by raw pixels"}  # by column
    grid = figure.add_gridspec(len(queries), len(widths), width_ratios=widths)
    for row, query in enumerate(queries):
        pictures = [(0, test.image(int(query)))]
        pictures += [(2 + n, train.image(int(index))) for n, index in enumerate(by_activities[row])]
        pictures += [(3 + count + n, train.image(int(index))) for n, index in enumerate(by_pixels[row])]
        for column, picture in pictures:
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0 and column in titles:
                axes.set_title(titles[column], loc="left", fontsize=8)
    return figure

"""The nearest vectors by Euclidean distance: exactly, or among candidates found by binary codes (section 7.1)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from alexnet.utils.extras import missing_extra

BLOCK = 65_536  # activities compared at a time: of 4096 numbers each, 1 GB
CANDIDATES = 20  # found by codes for each nearest neighbour asked for; the exact distances choose among them


def import_faiss() -> Any:
    """Return the search library.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise missing_extra("searching", "search", error) from error
    return faiss


def nearest_neighbours(queries: np.ndarray, blocks: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the exact nearest neighbours by Euclidean distance; one block at a time is in memory.

    Args:
        queries: (N, width) float32.
        blocks: Blocks (n, width) of the vectors to search, as `iter_blocks` yields them.
        count: The number of neighbours, at most the number of vectors.

    Returns:
        Distances (N, count) float32 and indices (N, count) int64 into all blocks together, the nearest first.
    """
    faiss = import_faiss()
    heap, start = faiss.ResultHeap(nq=len(queries), k=count), 0
    queries = np.ascontiguousarray(queries, np.float32)
    for part in blocks:
        block = np.ascontiguousarray(part, np.float32)
        distances, indices = faiss.knn(queries, block, min(count, len(block)))
        heap.add_result(D=distances, I=indices + start)
        start += len(block)
    heap.finalize()
    return np.sqrt(np.maximum(heap.D, 0)), heap.I


def nearest_neighbours_by_codes(
    queries: np.ndarray, query_codes: np.ndarray, vectors: np.ndarray, codes: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find candidates by their binary codes, then the nearest of these by Euclidean distance.

    Args:
        queries: (N, width) float32.
        query_codes: (N, bytes) uint8, the codes of the queries.
        vectors: (n, width) float32, the vectors to search.
        codes: (n, bytes) uint8, their codes.
        count: The number of neighbours, at most the number of vectors.

    Returns:
        Distances (N, count) float32 and indices (N, count) int64 of the vectors, the nearest first.
    """
    candidates = nearest_codes(query_codes, codes, min(CANDIDATES * count, len(codes)))
    distances, indices = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    for row, (query, rows) in enumerate(zip(queries, candidates, strict=True)):
        rows.sort()  # so that the file is read in order
        exact, order = nearest_neighbours(query[None], [vectors[rows]], count)
        distances[row], indices[row] = exact[0], rows[order[0]]
    return distances, indices


def nearest_codes(query_codes: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Find the nearest binary codes: those with the fewest different bits.

    Args:
        query_codes: (N, bytes) uint8, the codes of the queries.
        codes: (n, bytes) uint8, the codes to search.
        count: The number of neighbours, at most the number of codes.

    Returns:
        (N, count) int64, indices into `codes`, the nearest first.
    """
    index = import_faiss().IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    neighbours: np.ndarray = index.search(query_codes, count)[1]
    return neighbours


def iter_blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield vectors (N, width) in blocks that fit in memory."""
    for start in range(0, len(vectors), BLOCK):
        yield vectors[start : start + BLOCK]

"""Some classes and some pictures of a store, as a source that `prepare` makes a smaller store of."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from alexnet.data.sources.base import Part
from alexnet.data.store.local import Split, Store


class Subset:
    """A `Source` whose pictures are those of a store, pixel for pixel.

    What is prepared from it is a store like any other: it has the mean activity and the colour components of its own
    training pictures (3, 5.1), and every command can be tried on it. Its encoding should be "raw", since pictures that
    were JPEG in the store have lost something once already.

    Args:
        of: The store.
        classes: Names of the classes to keep, in their new order.
        pictures: For each split of the smaller store the split to take its pictures from, and their places there,
            (N,) int64. All must be of `classes`.
    """

    def __init__(self, of: Store, classes: Sequence[str], pictures: Mapping[str, tuple[Split, np.ndarray]]) -> None:
        self.name = f"{len(classes)} of the {len(of.classes)} classes of {of.path.resolve()}"
        self.classes = tuple(classes)
        self.size: int | None = of.size
        self.ignored: dict[str, int] = {}
        self._pictures = pictures
        labels = {of.classes.index(name): label for label, name in enumerate(classes)}
        self.parts = {name: _part(split, places, labels) for name, (split, places) in pictures.items()}

    def read(self, split: str, index: int) -> np.ndarray:
        """A picture, (size, size, 3) uint8."""
        of, places = self._pictures[split]
        return of.image(int(places[index]))


def _part(split: Split, places: np.ndarray, labels: Mapping[int, int]) -> Part:
    """The listing of those pictures of a split, their labels replaced as `labels` says."""
    names = pa.array([split.picture_name(int(place)).encode() for place in places], pa.binary())
    of = np.array([labels[int(label)] for label in split.labels[places]], np.int32)
    sizes = np.full(len(places), split.size**2 * 3, np.int64)
    return Part(names, of, sizes, np.zeros_like(sizes))

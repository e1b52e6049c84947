"""Some classes and pictures of a store, or some splits of a source, as a source from which `prepare` makes a store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from alexnet.data.sources.base import Source, SourceSplit
from alexnet.data.store.base import Split
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.store import Store


class StoreSubset:
    """A `Source` whose pictures are those of a store, pixel for pixel.

    The store that is prepared from it has the mean activity and the colour components of its own training pictures
    (sections 3 and 5.1), and works with every command. Prepare it with encoding "raw": pictures that are JPEG in the
    larger store would lose quality a second time.

    Args:
        store: The larger store.
        classes: Names of the classes to keep, in their new order.
        pictures: For each split of the smaller store, the split to take its pictures from and their (N,) int64 indices
            in it. All pictures must be of `classes`.
    """

    def __init__(self, store: Store, classes: Sequence[str], pictures: Mapping[str, tuple[Split, np.ndarray]]) -> None:
        self.name = f"{len(classes)} of the {len(store.classes)} classes of {store.path.resolve()}"
        self.classes = tuple(classes)
        self.size: int | None = store.size
        self.ignored: dict[str, int] = {}
        self.class_ids: ClassIds | None = None
        if store.class_ids is not None:
            ids = dict(zip(store.classes, store.class_ids.ids, strict=True))
            self.class_ids = ClassIds(store.class_ids.contest, tuple(ids[name] for name in classes))
        self._pictures = pictures
        new_labels = {store.classes.index(name): label for label, name in enumerate(classes)}
        self.splits = {name: _list_pictures(split, indices, new_labels) for name, (split, indices) in pictures.items()}

    def read(self, split: str, index: int) -> np.ndarray:
        """Return the (size, size, 3) uint8 pixels of a picture."""
        store_split, indices = self._pictures[split]
        return store_split.image(int(indices[index]))


def _list_pictures(split: Split, indices: np.ndarray, new_labels: Mapping[int, int]) -> SourceSplit:
    """Return the listing of some pictures of a store's split.

    Args:
        split: The split of the larger store.
        indices: (N,) int64 indices of the pictures.
        new_labels: The new label for each label of the larger store.
    """
    names = pa.array([split.picture_name(int(index)).encode() for index in indices], pa.binary())
    labels = np.array([new_labels[int(label)] for label in split.labels[indices]], np.int32)
    sizes = np.full(len(indices), split.size**2 * 3, np.int64)
    return SourceSplit(names, labels, sizes, np.zeros_like(sizes), np.zeros_like(sizes))


class RelabelledSource:
    """A `Source` with some splits of another one, and labels that are indices into other class names.

    Args:
        source: The other source.
        path: Where it is, for messages.
        classes: The class names of the net that is to be measured on the pictures. All classes of the source must be
            among them.
        splits: The splits to keep.

    Raises:
        ValueError: The source has another class, or none of the splits.
    """

    def __init__(self, source: Source, path: Path, classes: Sequence[str], splits: Sequence[str]) -> None:
        labels = {name: label for label, name in enumerate(classes)}
        unknown = [name for name in source.classes if name not in labels]
        if unknown:
            listed = ", ".join(map(repr, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
            raise ValueError(
                f"{path}: its classes must be among the run's {len(classes)} ({', '.join(classes[:5])}"
                f"{' ...' if len(classes) > 5 else ''}); got {listed}: rename or remove these folders"
            )
        if not splits:
            raise ValueError(f"{path}: it must have pictures to measure; it has {', '.join(source.splits)}")
        self.name, self.size, self.ignored = source.name, source.size, source.ignored
        self.classes = tuple(classes)
        self.class_ids: ClassIds | None = None
        new_labels = np.array([labels[name] for name in source.classes], np.int32)
        self.splits = {
            name: replace(source.splits[name], labels=new_labels[source.splits[name].labels]) for name in splits
        }
        self._source = source

    def read(self, split: str, index: int) -> bytes | np.ndarray:
        """Return a picture file's bytes, or its pixels."""
        return self._source.read(split, index)

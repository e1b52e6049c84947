"""The training pictures that look most like a picture to the net of a run, found in the run's index (section 7.1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.data.prepare.in_memory import Picture
from alexnet.data.store.base import Split
from alexnet.data.store.store import Store
from alexnet.results.classifier import Classifier
from alexnet.results.nearest_neighbours import import_faiss
from alexnet.results.retrieval import Index, open_index
from alexnet.utils.console import format_error, note_once


@dataclass(frozen=True, eq=False)
class NearestPicture:
    """A picture of the index.

    Args:
        name: Its name in the store.
        label: The name of its class.
        distance: The Euclidean distance of its activities from those of the other picture.
        picture: (size, size, 3) uint8; None if the store cannot be read any more.
    """

    name: str
    label: str
    distance: float
    picture: np.ndarray | None


class NearestPictures:
    """The search for the nearest pictures of a run's index.

    Args:
        run: The folder of the run.
        classifier: The classifier of the same run.

    Raises:
        FileNotFoundError: The run has no index.
        ValueError: The index is damaged or of another net, or the search library is not installed.
    """

    def __init__(self, run: str | Path, classifier: Classifier) -> None:
        import_faiss()  # says now what is missing
        self._index = open_index(Path(run), classifier.step)
        self._classifier = classifier
        self._split = _open_split(self._index)

    def find(self, picture: Picture, count: int = 6) -> list[NearestPicture]:
        """Return the nearest pictures, the nearest first.

        Args:
            picture: The picture, as for `Classifier.predict`.
            count: How many; all if the index has fewer.
        """
        return self.find_each([picture], count)[0]

    def find_each(self, pictures: Sequence[Picture], count: int = 6) -> list[list[NearestPicture]]:
        """Return the nearest pictures of each of several, as `find` does of one."""
        # They are maps, if the net has no hidden layer.
        activities = self._classifier.features(pictures).reshape(len(pictures), -1)
        distances, rows = self._index.search(activities, min(count, len(self._index)))
        return [self._describe(*nearest) for nearest in zip(distances, rows, strict=True)]

    def _describe(self, distances: np.ndarray, rows: np.ndarray) -> list[NearestPicture]:
        """Return the pictures in rows of the index."""
        return [
            NearestPicture(neighbour.name, neighbour.label, neighbour.distance, self._read(int(row), neighbour.name))
            for neighbour, row in zip(self._index.describe(distances, rows), rows, strict=True)
        ]

    def _read(self, row: int, name: str) -> np.ndarray | None:
        """Return a picture of the store, if it is the one that the index was made from."""
        if self._split is None or row >= len(self._split) or self._split.picture_name(row) != name:
            return None
        return self._split.image(row)


def open_nearest_pictures(run: str | Path, classifier: Classifier) -> NearestPictures | None:
    """Return the search for the nearest pictures of a run's index; None if it has none, which a note says once."""
    try:
        return NearestPictures(run, classifier)
    except FileNotFoundError:
        note_once(f"no nearest pictures: run {run} has no index; build it with alexnet index {run} STORE")
    except ValueError as error:
        note_once(f"no nearest pictures: {error}")
    return None


def _open_split(index: Index) -> Split | None:
    """Return the split that an index was made from; None if it cannot be read, which a note says once."""
    location = index.metadata["store"]
    try:
        return Store(location).split(index.metadata["split"])
    except (OSError, ValueError) as error:
        reason = format_error(error, with_type=False)
        note_once(f"the nearest pictures have names only: store {location} cannot be read ({reason})")
        return None

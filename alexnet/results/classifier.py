"""A trained net as a function from picture files to class names (section 7.1, Figure 4 left)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet.data.loading.views import check_view_count, select_views
from alexnet.data.prepare.decode import read_image
from alexnet.data.sources.named_pictures import NamedPicture
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.inference import default_views, pictures_per_batch, predict_pictures
from alexnet.utils.console import format_error
from alexnet.utils.cores import available_cores
from alexnet.utils.device import choose_device
from alexnet.utils.memory import keep_freed_memory
from alexnet.utils.prefetch import prefetch_batches

_PictureFile = str | Path | bytes


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of a picture, or why it could not be read.

    Args:
        name: The picture's path or address; "" for the contents of a file.
        classes: Names and probabilities, the most probable first; empty if the picture could not be read.
        error: Why the picture could not be read, on one line; None if it was.
    """

    name: str
    classes: Sequence[tuple[str, float]] = ()
    error: str | None = None


class Classifier:
    """A trained net with its class names and its preprocessing.

    Args:
        checkpoint: The checkpoint of the net; `Classifier.load` finds the best one of a run.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str | torch.device | None = None) -> None:
        checkpoint.require_classes()
        self.recipe, self.classes, self.mean = checkpoint.recipe, checkpoint.classes, checkpoint.statistics.mean
        self.net = checkpoint.net().to_channels_last(choose_device(device))

    @property
    def default_views(self) -> int:
        """The number of views that `predict` takes if it is not told: the same as for `evaluate`."""
        return default_views(self.recipe)

    @classmethod
    def load(cls, run: str | Path, *, device: str | torch.device | None = None) -> "Classifier":
        """Load the classifier that a run has trained.

        Raises:
            FileNotFoundError: `run` has no trained net.
        """
        return cls(load_best(Path(run)), device=device)

    def predict(self, picture: _PictureFile, *, top: int = 5, views: int | None = None) -> list[tuple[str, float]]:
        """Return the most probable classes of a picture and their probabilities, the most probable first.

        Args:
            picture: The path of a file, or its contents.
            top: The number of classes.
            views: 1 for the centre, 9 or 10 for the mean over several views (5.1); by default the recipe's number, or 1
                if the crops are as large as the pictures.

        Raises:
            ValueError: The file is not a picture, or `views` is not 1, 9 or 10.
            OSError: The file cannot be read.
        """
        return self.predict_many([picture], top=top, views=views)[0]

    def predict_many(
        self, pictures: Sequence[_PictureFile], *, top: int = 5, views: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return what `predict` returns, for several pictures at once."""
        views = self._check_options(top, views)
        squares = [read_image(picture, self.recipe.store_size) for picture in pictures]
        return self._predict_squares(squares, top, views)

    def predict_stream(
        self,
        pictures: Iterable[_PictureFile | NamedPicture],
        *,
        top: int = 5,
        views: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Return an iterator over the predictions for any number of pictures, in their order.

        Threads read the next pictures while the net computes; few pictures are in memory at a time. A picture that
        cannot be read has a prediction with the reason. Where the next picture takes more than a second, such as
        one on the web, those before it do not wait for it.

        Args:
            pictures: Paths, contents of files, or what `iter_named_pictures` yields; another thread takes them.
            top, views: As for `predict`.
            batch_size: The number of pictures that go through the net at a time; by default a number that suits the
                device.

        Raises:
            ValueError: `top` or `batch_size` is less than 1, or `views` is not 1, 9 or 10.
        """
        views = self._check_options(top, views)
        if batch_size is None:
            batch_size = pictures_per_batch(self.net.device, self.count_crops(views))
        if batch_size < 1:
            raise ValueError(f"the number of pictures in a batch must be at least 1; got {batch_size}")
        return self._predict_batches(pictures, top, views, batch_size)

    def count_crops(self, views: int) -> int:
        """Return how many of the 1, 9 or 10 views differ."""
        return len(select_views(views, self.recipe.store_size, self.recipe.net.image_size))

    def _check_options(self, top: int, views: int | None) -> int:
        """Check the options of a prediction and return the number of views."""
        views = self.default_views if views is None else views
        check_view_count(views)
        if top < 1:
            raise ValueError(f"top must be at least 1; got {top}")
        return views

    def _predict_batches(
        self, pictures: Iterable[_PictureFile | NamedPicture], top: int, views: int, batch_size: int
    ) -> Iterator[Prediction]:
        keep_freed_memory()
        workers = available_cores()
        with closing(prefetch_batches(self._read, pictures, workers=workers, batch_size=batch_size)) as batches:
            for batch in batches:
                squares = [square for _, square in batch if isinstance(square, np.ndarray)]
                classes = iter(self._predict_squares(squares, top, views, batch_size))
                for name, square in batch:
                    yield Prediction(name, error=square) if isinstance(square, str) else Prediction(name, next(classes))

    def _read(self, picture: _PictureFile | NamedPicture) -> tuple[str, np.ndarray | str]:
        """Return a picture's name and its square, or the reason why it cannot be read."""
        match picture:
            case NamedPicture():
                name = picture.name
            case bytes():
                name = ""
            case _:
                name = str(picture)
        try:
            if not isinstance(picture, NamedPicture):
                return name, read_image(picture, self.recipe.store_size)
            data = picture.read()
            try:
                return name, read_image(data, self.recipe.store_size)
            except ValueError as error:
                raise ValueError(f"{name}: not a readable picture: {error}") from error
        except (ValueError, OSError) as error:
            text = format_error(error, with_type=False, limit=None)
            start = " ".join(name.split())  # on one line, as the text
            return name, text if text.startswith(start) else f"{start}: {text}"

    def _predict_squares(
        self, squares: list[np.ndarray], top: int, views: int, batch_size: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return the most probable classes of each square."""
        if not squares:
            return []
        predicted = predict_pictures(self.net, squares, self.mean, self.recipe, views, batch_size=batch_size)
        values, labels = predicted.topk(min(top, len(self.classes)), dim=1)  # of (N, classes)
        return [
            [(self.classes[label], float(value)) for label, value in zip(*row, strict=True)]
            for row in zip(labels.tolist(), values.tolist(), strict=True)
        ]

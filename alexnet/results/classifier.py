"""A trained net as a function from pictures to classes, probabilities or activations (section 7.1, Figure 4 left)."""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, overload

import numpy as np
import torch
from torch import Tensor

from alexnet.data.loading.augment import centre_mean
from alexnet.data.loading.views import check_view_count, make_view_batch, select_views
from alexnet.data.prepare.in_memory import Picture, is_picture, read_picture
from alexnet.data.sources.named_pictures import NamedPicture
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.inference import default_views, pictures_per_batch, predict_pictures
from alexnet.training.precision import autocast
from alexnet.utils.console import format_error
from alexnet.utils.cores import available_cores
from alexnet.utils.device import choose_device
from alexnet.utils.memory import keep_freed_memory
from alexnet.utils.prefetch import prefetch_batches


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable classes of a picture, or why it could not be read.

    Args:
        name: The picture's path or address; "" for a picture without a name, such as the contents of a file.
        classes: Names and probabilities, the most probable first; empty if the picture could not be read.
        error: Why the picture could not be read, on one line; None if it was.
        picture: (size, size, 3) uint8, what the net saw the views of; None unless it is asked for.
    """

    name: str
    classes: Sequence[tuple[str, float]] = ()
    error: str | None = None
    picture: np.ndarray | None = field(default=None, compare=False, repr=False)


class Classifier:
    """A trained net with its class names and its preprocessing.

    A picture is a path, an http or https address, the bytes of a file, a PIL picture, an array (H, W, 3) or a tensor
    (3, H, W), as `read_picture` takes them. Several pictures are a list or any other iterable of such, an array
    (N, H, W, 3) or a tensor (N, 3, H, W). They are read by threads while the net computes; few are in memory at a time.

    Args:
        checkpoint: The checkpoint of the net; `Classifier.load` finds the best one of a run.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.

    Attributes:
        recipe: The recipe of the net.
        classes: The class names, in the order of the probabilities.
        mean: (3, size, size) float32, the mean activity that is subtracted.
        net: The net.
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str | torch.device | None = None) -> None:
        checkpoint.require_classes()
        self.recipe, self.classes, self.mean = checkpoint.recipe, checkpoint.classes, checkpoint.statistics.mean
        self.step = checkpoint.state.step
        self.net = checkpoint.net().to_channels_last(choose_device(device))
        self._run = checkpoint.path.parent.parent

    def __repr__(self) -> str:
        return (
            f"Classifier({str(self._run)!r}, classes={len(self.classes)}, views={self.default_views}, "
            f"device={str(self.net.device)!r})"
        )

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

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Collection, too
        self, pictures: Picture, *, top: int = 5, views: int | None = None, batch_size: int | None = None
    ) -> list[tuple[str, float]]: ...

    @overload
    def predict(  # type: ignore[overload-overlap]  # a Collection is an Iterable, too
        self, pictures: Collection[Picture], *, top: int = 5, views: int | None = None, batch_size: int | None = None
    ) -> list[list[tuple[str, float]]]: ...

    @overload
    def predict(
        self, pictures: Iterable[Picture], *, top: int = 5, views: int | None = None, batch_size: int | None = None
    ) -> Iterator[list[tuple[str, float]]]: ...

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        top: int = 5,
        views: int | None = None,
        batch_size: int | None = None,
    ) -> list[tuple[str, float]] | list[list[tuple[str, float]]] | Iterator[list[tuple[str, float]]]:
        """Return the most probable classes of one or several pictures and their probabilities, the most probable first.

        Args:
            pictures: One picture or several.
            top: The number of classes.
            views: 1 for the centre, 9 or 10 for the mean over several views (5.1); by default the recipe's number, or 1
                if the crops are as large as the pictures.
            batch_size: The number of pictures that go through the net at a time; by default a number that suits the
                device.

        Returns:
            Of one picture a list of names and probabilities. Of several pictures a list of such lists; or, where their
            number is not known, as of a generator, an iterator over such lists, which takes pictures as it goes.

        Raises:
            TypeError: A picture is of another type.
            ValueError: A picture cannot be decoded, or has another shape or range of values; there is none; `top` or
                `batch_size` is less than 1, or `views` is not 1, 9 or 10.
            OSError: A file cannot be read.
        """
        views = self._check_options(top, views, batch_size)
        predictions = (
            classes
            for squares in self._square_batches(pictures, views, batch_size)
            for classes in self._most_probable(self._predict_squares(squares, views, batch_size), top)
        )
        if is_picture(pictures):
            return next(predictions)
        return list(predictions) if isinstance(pictures, Sized) else predictions

    def predict_many(
        self, pictures: Sequence[Picture], *, top: int = 5, views: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return what `predict` returns of a list, also of an empty one."""
        return self.predict([*pictures], top=top, views=views) if len(pictures) else []

    def probabilities(
        self, pictures: Picture | Iterable[Picture], *, views: int | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """Return the probabilities of all classes, in the order of `classes`.

        Args:
            pictures: One picture or several.
            views, batch_size: As for `predict`.

        Returns:
            (N, classes) float32; (classes,) of one picture.

        Raises:
            TypeError, ValueError, OSError: As for `predict`.
        """
        views = self._check_options(1, views, batch_size)
        batches = self._square_batches(pictures, views, batch_size)
        probabilities = [self._predict_squares(squares, views, batch_size).numpy() for squares in batches]
        return _concatenate(probabilities, pictures)

    def features(
        self, pictures: Picture | Iterable[Picture], *, layer: str | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """Return the activations of a layer for the centre of each picture (7.1).

        Args:
            pictures: One picture or several.
            layer: The name of the layer, such as "conv5" or "fc7"; by default the last hidden layer, the paper's fc7.
            batch_size: As for `predict`.

        Returns:
            (N, units) float32 of a fully connected layer, (N, maps, side, side) of a convolutional one; of one picture
            without N.

        Raises:
            TypeError, ValueError, OSError: As for `predict`; ValueError also if the net has no such layer.
        """
        self._check_options(1, 1, batch_size)
        layer = [*self.net.convs, *self.net.hidden][-1] if layer is None else layer
        self.net.check_layer(layer)
        batches = self._square_batches(pictures, 1, batch_size)
        return _concatenate([self._activations(squares, layer) for squares in batches], pictures)

    def predict_stream(
        self,
        pictures: Iterable[Picture | NamedPicture],
        *,
        top: int = 5,
        views: int | None = None,
        batch_size: int | None = None,
        keep_pictures: bool = False,
    ) -> Iterator[Prediction]:
        """Return an iterator over the predictions for any number of pictures, in their order.

        A picture that cannot be read has a prediction with the reason. Where the next picture takes more than a second,
        such as one on the web, those before it do not wait for it.

        Args:
            pictures: Pictures, or what `iter_named_pictures` yields; another thread takes them.
            top, views, batch_size: As for `predict`.
            keep_pictures: Whether each prediction has its picture, too.

        Raises:
            ValueError: `top` or `batch_size` is less than 1, or `views` is not 1, 9 or 10.
        """
        views = self._check_options(top, views, batch_size)
        batch_size = batch_size or self._default_batch_size(views)
        return self._predict_stream(pictures, top, views, batch_size, keep_pictures)

    def count_crops(self, views: int) -> int:
        """Return how many of the 1, 9 or 10 views differ."""
        return len(select_views(views, self.recipe.store_size, self.recipe.net.image_size))

    def _default_batch_size(self, views: int) -> int:
        return pictures_per_batch(self.net.device, self.count_crops(views))

    def _check_options(self, top: int, views: int | None, batch_size: int | None) -> int:
        """Check the options of a prediction and return the number of views."""
        views = self.default_views if views is None else views
        check_view_count(views)
        if top < 1:
            raise ValueError(f"top must be at least 1; got {top}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the number of pictures in a batch must be at least 1; got {batch_size}")
        return views

    def _square_batches(
        self, pictures: Picture | Iterable[Picture], views: int, batch_size: int | None
    ) -> Iterator[list[np.ndarray]]:
        """Return an iterator over the squares of one or several pictures, in batches.

        The exception of a picture that cannot be read comes after the pictures before it.
        """
        if is_picture(pictures) or not isinstance(pictures, Iterable):  # of another type, it is refused as one picture
            return iter([[read_picture(cast(Picture, pictures), self.recipe.store_size)]])
        if isinstance(pictures, Sized) and len(pictures) == 0:
            raise ValueError("pictures must be one or more; got none")
        return self._read_batches(cast(Iterable[Picture], pictures), batch_size or self._default_batch_size(views))

    def _read_batches(self, pictures: Iterable[Picture], batch_size: int) -> Iterator[list[np.ndarray]]:
        keep_freed_memory()
        workers, items = available_cores(), enumerate(pictures)
        with closing(prefetch_batches(self._read_item, items, workers=workers, batch_size=batch_size)) as batches:
            for batch in batches:
                squares = [*itertools.takewhile(lambda item: isinstance(item, np.ndarray), batch)]
                if squares:
                    yield cast(list[np.ndarray], squares)
                if len(squares) < len(batch):
                    raise cast(Exception, batch[len(squares)])

    def _read_item(self, item: tuple[int, Picture]) -> np.ndarray | Exception:
        """Return the square of a picture, or the exception to raise in its turn, which names the picture."""
        number, picture = item
        try:
            return read_picture(picture, self.recipe.store_size)
        except OSError as error:  # it has the path
            return error
        except (TypeError, ValueError) as error:
            if isinstance(picture, (str, os.PathLike)):
                return error
            kind = TypeError if isinstance(error, TypeError) else ValueError
            return kind(f"picture {number}: {error}")

    def _predict_stream(
        self, pictures: Iterable[Picture | NamedPicture], top: int, views: int, batch_size: int, keep: bool
    ) -> Iterator[Prediction]:
        keep_freed_memory()
        workers = available_cores()
        with closing(prefetch_batches(self._read_named, pictures, workers=workers, batch_size=batch_size)) as batches:
            for batch in batches:
                squares = [square for _, square in batch if isinstance(square, np.ndarray)]
                probabilities = self._predict_squares(squares, views, batch_size) if squares else torch.empty(0)
                classes = iter(self._most_probable(probabilities, top) if squares else [])
                for name, square in batch:
                    if isinstance(square, str):
                        yield Prediction(name, error=square)
                    else:
                        yield Prediction(name, next(classes), picture=square if keep else None)

    def _read_named(self, picture: Picture | NamedPicture) -> tuple[str, np.ndarray | str]:
        """Return a picture's name and its square, or the reason why it cannot be read."""
        name = ""
        if isinstance(picture, NamedPicture):
            name = picture.name
        elif isinstance(picture, (str, os.PathLike)):
            name = os.fspath(picture)
        try:
            if not isinstance(picture, NamedPicture):
                return name, read_picture(picture, self.recipe.store_size)
            data = picture.read()
            try:
                return name, read_picture(data, self.recipe.store_size)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        except (TypeError, ValueError, OSError) as error:
            text = format_error(error, with_type=False, limit=None)
            start = " ".join(name.split())  # on one line, as the text
            return name, text if text.startswith(start) else f"{start}: {text}"

    def _predict_squares(self, squares: list[np.ndarray], views: int, batch_size: int | None = None) -> Tensor:
        """Return the probabilities (N, classes) of squares, on the CPU."""
        return predict_pictures(self.net, squares, self.mean, self.recipe, views, batch_size=batch_size)

    def _most_probable(self, probabilities: Tensor, top: int) -> list[list[tuple[str, float]]]:
        """Return the names and probabilities of the most probable classes, for (N, classes) probabilities."""
        values, labels = probabilities.topk(min(top, len(self.classes)), dim=1)
        return [
            [(self.classes[label], float(value)) for label, value in zip(*row, strict=True)]
            for row in zip(labels.tolist(), values.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def _activations(self, squares: list[np.ndarray], layer: str) -> np.ndarray:
        """Return the activations of a layer for the centre of each square."""
        crop, device = self.recipe.net.image_size, self.net.device
        centre = torch.from_numpy(centre_mean(self.mean, crop)).to(device)
        batch = make_view_batch(squares, select_views(1, len(squares[0]), crop), centre)
        with autocast(device, self.recipe):
            activations = self.net.layer_output(batch, layer)
        return activations.float().contiguous().cpu().numpy()


def _concatenate(batches: list[np.ndarray], pictures: object) -> np.ndarray:
    """Return the rows of all batches of several pictures, or the row of one picture."""
    if not batches:
        raise ValueError("pictures must be one or more; got none")
    rows = np.concatenate(batches)
    return np.asarray(rows[0]) if is_picture(pictures) else rows

"""The net in scikit-learn's form: an estimator with `fit`, `predict`, `predict_proba` and `score`."""

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from alexnet.checked import require
from alexnet.data.prepare.in_memory import Picture, is_picture, read_picture
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.base import SourceOptions, SourceSplit
from alexnet.data.sources.hold_out import hold_out
from alexnet.data.store.class_ids import ClassIds
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.classifier import Classifier
from alexnet.training.finetune import read_origin_recipe
from alexnet.training.train import train
from alexnet.utils.extras import missing_extra
from alexnet.utils.signals import SignalInterrupt

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_consistent_length, check_is_fitted
except ImportError as error:
    raise ImportError(str(missing_extra("AlexNetClassifier", "sklearn", error))) from error


class AlexNetClassifier(ClassifierMixin, BaseEstimator):
    """A net that learns to classify pictures, as an estimator of scikit-learn.

    X is a list of pictures or any other collection of them: paths, contents of files, PIL pictures, arrays; or an array
    (N, H, W, 3), uint8 or floats from 0 to 1. See `Classifier`. Pictures are cut to squares of the recipe's size.

    Args:
        recipe: The name of a recipe, or a `Recipe`; None for "photos", or with `start_from` "photos-finetune".
        start_from: A run, such as one that `import_net` made, from whose net the training starts; None to start anew.
        settings: Fields of the recipe to change, as `Recipe.with_settings` takes them: ["learning_rate=0.005"].
        epochs: The number of passes through the training pictures; None for the recipe's. All its times change in
            proportion.
        batch_size: The number of pictures in a step; None for the recipe's.
        validation_fraction: The share of each class, at least one picture in all, that is not trained on. The net after
            the epoch with the lowest error on these pictures is kept.
        views: The number of views at test time: 1, 9 or 10; None for the recipe's.
        run: A folder for the run; None for a temporary one. A run in it that was stopped is continued.
        random_state: A seed, NumPy's `RandomState`, or None for its global one.
        device: The device to compute on; by default the first GPU, or the CPU if there is none.
        verbose: Whether to show the progress on standard error.

    Attributes:
        classes_: The labels, sorted.
        classifier_: The trained net, a `Classifier`.
        recipe_: The recipe that it was trained by.
    """

    classes_: np.ndarray
    classifier_: Classifier
    recipe_: Recipe

    def __init__(
        self,
        recipe: str | Recipe | None = None,
        *,
        start_from: str | Path | None = None,
        settings: Sequence[str] = (),
        epochs: int | None = None,
        batch_size: int | None = None,
        validation_fraction: float = 0.1,
        views: int | None = None,
        run: str | Path | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device | None = None,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.start_from = start_from
        self.settings = settings
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.views = views
        self.run = run
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Iterable[Picture], y: Iterable[Any]) -> Self:  # noqa: N803, scikit-learn's name
        """Train a net on pictures.

        Args:
            X: N pictures.
            y: (N,) their labels: texts or numbers.

        Raises:
            TypeError, ValueError, OSError: A picture cannot be read, as of `Classifier.predict`.
            ValueError: There are fewer than two classes, or a parameter is out of range.
            SignalInterrupt: A signal, such as that of Ctrl-C, has stopped the training.
        """
        pictures = _several_pictures(X)
        labels = column_or_1d(y, warn=True)
        check_consistent_length(pictures, labels)
        check_classification_targets(labels)
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must have at least two classes; got {len(classes)} class")
        require(
            0 < self.validation_fraction < 1, "validation_fraction", "above 0 and below 1", self.validation_fraction
        )
        recipe = self._choose_recipe()
        source = _LabelledPictures(pictures, indices, classes, recipe, self.validation_fraction)
        with tempfile.TemporaryDirectory(prefix="alexnet-") as folder:
            run = Path(folder) / "run" if self.run is None else Path(self.run)
            store = Path(folder) / "store"
            prepare(
                source,
                store,
                size=recipe.store_size,
                max_failures=0,
                ignore_duplicates=True,
                progress=bool(self.verbose),
            )
            outcome = train(
                store, run, recipe, start_from=self.start_from, device=self.device, progress=bool(self.verbose)
            )
            if not outcome.finished:
                raise SignalInterrupt(outcome.signal)
            self.classifier_ = Classifier.load(run, device=self.device)
        self.classes_, self.recipe_ = classes, recipe
        return self

    def predict_proba(self, X: Iterable[Picture]) -> np.ndarray:  # noqa: N803
        """Return the probabilities (N, classes) of N pictures, in the order of `classes_`."""
        check_is_fitted(self, "classifier_")
        return self.classifier_.probabilities(_several_pictures(X), views=self.views)

    def predict(self, X: Iterable[Picture]) -> np.ndarray:  # noqa: N803
        """Return the most probable labels (N,) of N pictures."""
        probabilities = self.predict_proba(X)
        labels: np.ndarray = self.classes_[probabilities.argmax(1)]
        return labels

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: pictures are no table of numbers, so its checks with tables do not apply."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def _choose_recipe(self) -> Recipe:
        """Return the recipe with all changes, and with a seed from `random_state`."""
        origin = None if self.start_from is None else read_origin_recipe(self.start_from)
        name = self.recipe or ("photos" if origin is None else "photos-finetune")
        recipe = name if isinstance(name, Recipe) else recipe_named(name, origin)
        recipe = recipe.with_settings(self.settings)
        if self.epochs is not None:
            require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
            recipe = recipe.with_epochs(self.epochs)
        if self.batch_size is not None:
            recipe = recipe.with_batch(self.batch_size)
        seed = int(check_random_state(self.random_state).randint(2**31))
        return dataclasses.replace(recipe, seed=seed)


class _LabelledPictures:
    """A `Source` of pictures that a program has.

    Args:
        pictures: N pictures.
        labels: (N,) the number of each picture's class.
        classes: The labels that these numbers stand for.
        recipe: It has the size of the pictures and the seed of the choice of the validation pictures.
        validation_fraction: The share of each class that is not trained on.
    """

    def __init__(
        self, pictures: Any, labels: np.ndarray, classes: np.ndarray, recipe: Recipe, validation_fraction: float
    ) -> None:
        self.name = "pictures in memory"
        self.size: int | None = recipe.store_size
        self.class_ids: ClassIds | None = None
        self.classes = tuple(str(label) for label in classes)
        self.ignored: dict[str, int] = {}
        self._pictures, self._size = pictures, recipe.store_size
        numbers = pa.array([str(number).encode() for number in range(len(labels))], pa.binary())
        zeros = np.zeros(len(labels), np.int64)
        listing = SourceSplit(numbers, labels.astype(np.int32), zeros, zeros, zeros)
        options = SourceOptions(held_out=validation_fraction, seed=recipe.seed)
        self.splits = hold_out(Path("X"), self.classes, listing, options)

    def read(self, split: str, index: int) -> np.ndarray:
        """Return the (size, size, 3) uint8 pixels of a picture."""
        number = int(self.splits[split].picture_name(index))
        return read_picture(self._pictures[number], self._size)


def _several_pictures(X: Iterable[Picture]) -> Any:  # noqa: N803
    """Return pictures as a sequence: an array, or a list; raise a ValueError unless there are any."""
    if is_picture(X) or not isinstance(X, Iterable):
        shape = getattr(X, "shape", None)
        received = type(X).__name__ if shape is None else f"an array of shape {tuple(shape)}"
        raise ValueError(f"X must be several pictures, such as paths or an array (N, H, W, 3); got {received}")
    pictures = X if isinstance(X, np.ndarray) else list(X)
    require(len(pictures) > 0, "X", "at least one picture", len(pictures))
    return pictures

"""A trained net as a function from picture files to class names (section 7.1, Figure 4 left)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from alexnet.data.loading.views import check_view_count
from alexnet.data.prepare.decode import read_image
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.device import choose_device

_PictureFile = str | Path | bytes


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
        views = self.default_views if views is None else views
        check_view_count(views)
        if top < 1:
            raise ValueError(f"top must be at least 1; got {top}")
        squares = [read_image(picture, self.recipe.store_size) for picture in pictures]
        if not squares:
            return []
        predicted = predict_pictures(self.net, squares, self.mean, self.recipe, views)  # (N, classes)
        values, labels = predicted.topk(min(top, len(self.classes)), dim=1)
        return [
            [(self.classes[label], float(value)) for label, value in zip(*row, strict=True)]
            for row in zip(labels.tolist(), values.tolist(), strict=True)
        ]

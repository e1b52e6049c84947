"""A trained net as a function from picture files to class names (section 7.1, Figure 4 left)."""

from collections.abc import Sequence
from pathlib import Path

import torch

from alexnet.data.loading.views import check_view_count
from alexnet.data.prepare.decode import read_image
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.inference import default_views, predict_pictures
from alexnet.utils.device import choose_device

Picture = str | Path | bytes


class Classifier:
    """A trained net with its class names and its preprocessing.

    Args:
        found: The checkpoint it is made of; `Classifier.load` finds that of a run.
        device: Where the net computes; the first GPU or else the CPU by default.
    """

    def __init__(self, found: Checkpoint, *, device: str | torch.device | None = None) -> None:
        self.recipe, self.classes, self.mean = found.recipe, found.classes, found.statistics.mean
        self.net = found.net().to_channels_last(choose_device(device))

    @classmethod
    def load(cls, run: str | Path, *, device: str | torch.device | None = None) -> "Classifier":
        """The classifier that a run has trained (`load_best`).

        Raises:
            FileNotFoundError: `run` holds no trained net.
        """
        return cls(load_best(Path(run)), device=device)

    def predict(self, picture: Picture, *, top: int = 5, views: int | None = None) -> list[tuple[str, float]]:
        """The most probable classes of one picture, most probable first, with their probabilities.

        Args:
            picture: A file's path, or its contents.
            top: How many classes.
            views: 1 for the centre, 9 or 10 for the mean over several views (5.1, `Recipe.views`); by default as many
                as the recipe says, where crops are smaller than the pictures.

        Raises:
            ValueError: The file is no picture, or views is none of 1, 9 and 10.
            OSError: The file cannot be read.
        """
        return self.predict_many([picture], top=top, views=views)[0]

    def predict_many(
        self, pictures: Sequence[Picture], *, top: int = 5, views: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """`predict` for several pictures at once."""
        views = default_views(self.recipe) if views is None else views
        check_view_count(views)
        if top < 1:
            raise ValueError(f"top must be at least 1; got {top}")
        squares = [read_image(picture, self.recipe.store_size) for picture in pictures]
        if not squares:
            return []
        found = predict_pictures(self.net, squares, self.mean, self.recipe, views)  # (N, classes)
        values, places = found.topk(min(top, len(self.classes)), dim=1)
        return [
            [(self.classes[i], float(p)) for i, p in zip(index, row, strict=True)]
            for index, row in zip(places.tolist(), values.tolist(), strict=True)
        ]

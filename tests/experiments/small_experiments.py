"""What the tests of the experiments share: a small recipe, and a record of what is trained."""

from pathlib import Path

import numpy as np
import pytest
from conftest import small_net
from PIL import Image

from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.training.train import train

RECIPE = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2)


def record_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the experiments add the name of each run that they train by a step or more."""
    names: list[str] = []

    def recorded_train(store: Store, run: Path, recipe: Recipe, **options: object) -> object:
        before = sorted((run / "checkpoints").glob("*"))
        outcome = train(store, run, recipe, **(options | {"progress": False}))  # type: ignore[arg-type]
        if sorted((run / "checkpoints").glob("*")) != before:
            names.append(run.name)
        return outcome

    monkeypatch.setattr("alexnet.experiments.experiment.train", recorded_train)
    return names


def write_class_folders(folder: Path, pictures: np.ndarray, classes: int) -> None:
    """Write pictures (N, size, size, 3) as PNG files, in turn to the folders "class 0", "class 1", and so on."""
    for number, picture in enumerate(pictures):
        path = folder / f"class {number % classes}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)

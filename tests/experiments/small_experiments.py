"""What the tests of the experiments share: a small recipe, and a record of what is trained."""

from pathlib import Path

import pytest
from conftest import small_net

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

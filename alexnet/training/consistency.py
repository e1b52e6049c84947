"""What must be the same in all processes that train or evaluate together."""

import hashlib
import json
from importlib.metadata import version
from typing import Any

import torch

from alexnet.data.store.store import Store
from alexnet.recipe import Recipe


def shared_settings(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Return the settings of a training that must be the same in all processes, by name."""
    fields = {f"recipe.{name}": value for name, value in json.loads(recipe.to_json()).items()}
    return versions() | fields | {"the store's pictures": describe_pictures(store)}


def versions() -> dict[str, str]:
    """Return the versions that must be the same in all processes, by name."""
    return {"the version of alexnet": version("alexnet"), "the version of torch": torch.__version__}


def describe_pictures(store: Store) -> str:
    """Return a store's numbers of classes and pictures, and a digest of the labels and the mean activity."""
    splits = {name: store.split(name) for name in store.splits}
    digest = hashlib.sha256(repr(store.classes).encode())
    for split in splits.values():
        digest.update(split.labels.tobytes())
    digest.update(store.statistics.mean.tobytes())
    counts = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    return f"{len(store.classes)} classes, {counts} ({digest.hexdigest()[:12]})"

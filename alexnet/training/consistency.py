"""What the processes of one training must have in common."""

import hashlib
import json
from importlib.metadata import version
from typing import Any

import torch

from alexnet.data.store.store import Store
from alexnet.recipe import Recipe


def shared_settings(recipe: Recipe, store: Store) -> dict[str, Any]:
    """What all processes must have in common, by name."""
    fields = {f"recipe.{name}": value for name, value in json.loads(recipe.to_json()).items()}
    return versions() | fields | {"the store's pictures": describe_pictures(store)}


def versions() -> dict[str, str]:
    """The versions that processes must have in common, by name."""
    return {"the version of alexnet": version("alexnet"), "the version of torch": torch.__version__}


def describe_pictures(store: Store) -> str:
    """A store's classes and numbers of pictures, and a digest of the labels and the mean activity."""
    parts = {name: store.split(name) for name in store.splits}
    digest = hashlib.sha256(repr(store.classes).encode())
    for part in parts.values():
        digest.update(part.labels.tobytes())
    digest.update(store.statistics.mean.tobytes())
    counts = ", ".join(f"{len(part)} {name}" for name, part in parts.items())
    return f"{len(store.classes)} classes, {counts} ({digest.hexdigest()[:12]})"

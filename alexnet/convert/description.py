"""What each exported file says about its net: its classes, how pictures are made ready for it, its sizes."""

import dataclasses
from importlib import metadata
from typing import Any

from alexnet.training.checkpoint import Checkpoint

EXPORT_FORMAT = "alexnet-export-1"


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what someone needs to know to use a net, as plain data (docs/formats.md)."""
    recipe = checkpoint.recipe
    return {
        "format": EXPORT_FORMAT,
        "program": f"alexnet {metadata.version('alexnet')}",
        "classes": list(checkpoint.classes),
        "preprocessing": {
            "resize": recipe.store_size,
            "crop": recipe.net.image_size,
            "colours": "RGB",
            "range": [0, 255],
            "mean": "subtracted by the net",
        },
        "net": dataclasses.asdict(recipe.net),
    }

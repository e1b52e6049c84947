"""The precision in which the net computes."""

import torch

from alexnet.recipe import Recipe
from alexnet.utils.console import note_once
from alexnet.utils.device import has_bfloat16


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Return the context in which the net computes on this device: autocast to bfloat16, or none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, recipe))


def uses_bfloat16(device: torch.device, recipe: Recipe) -> bool:
    """Return whether the net computes in bfloat16 on this device: "auto" means if the device multiplies in it."""
    return recipe.precision == "bfloat16" or (recipe.precision == "auto" and has_bfloat16(device))


def note_missing_bfloat16(device: torch.device, recipe: Recipe) -> None:
    """Note on standard error that training is slow if the recipe allows bfloat16, but the device lacks it."""
    if recipe.precision == "auto" and not has_bfloat16(device):
        note_once(
            f"training is slower here than it can be: in float32, since the {device.type} has no bfloat16 arithmetic"
        )

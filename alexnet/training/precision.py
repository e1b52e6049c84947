"""In which precision a net computes."""

import torch

from alexnet.recipe import Recipe
from alexnet.utils.device import has_bfloat16


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """The context the net runs in: bfloat16 where the recipe asks for it, or leaves it open and the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device, recipe))


def uses_bfloat16(device: torch.device, recipe: Recipe) -> bool:
    """Whether the net computes in bfloat16 on this device."""
    return recipe.precision == "bfloat16" or (recipe.precision == "auto" and has_bfloat16(device))

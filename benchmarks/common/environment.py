"""The machine, the versions and the precision that a benchmark's numbers belong to."""

import platform
import subprocess
from typing import Any

import torch

from alexnet.recipe import Recipe
from alexnet.training.precision import uses_bfloat16
from alexnet.utils.device import has_bfloat16


def environment_info(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the versions of torch and Python, the processor, its threads and the GPU."""
    info: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    info |= {"processor": _processor_name(), "threads": torch.get_num_threads()}
    info["bfloat16"] = has_bfloat16(torch.device(device))
    if torch.device(device).type == "cuda":
        info |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return info


def activity_bytes(device: torch.device, recipe: Recipe) -> int:
    """Return the bytes of one activity of a recipe's net on a device: 2 in bfloat16, 4 in float32."""
    return 2 if uses_bfloat16(device, recipe) else 4


def _processor_name() -> str:
    """Return the processor's model name, or its architecture if `lscpu` does not report a model."""
    try:
        output = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in output.splitlines() if line.startswith("Model name")]
    return names[0] if names else platform.machine()

"""Weights by name from files of torch and of safetensors; nothing that is in a file is run."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from alexnet.utils.console import format_error

_REFUSED = re.compile(r"GLOBAL (\S+)|Unsupported (?:operand|class|global) (\S+)|Trying to (?:call|load|set) (.+?) ")


def read_safetensors_state(file: Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file.

    Raises:
        ValueError: It is damaged.
    """
    try:
        state: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"it must be a whole safetensors file; it cannot be read ({error}): get the file again"
        ) from error
    return state


def read_torch_state(file: Path) -> dict[str, Tensor]:
    """Read the weights of a file that torch.save wrote: a `state_dict`, alone or in a dictionary with other values.

    Raises:
        ValueError: It needs code to be run, which is named and not run; or it is damaged, or holds something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on types of storage that old files have
            contents = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise ValueError(_damaged(error)) from error
        name = next(group for group in refused.groups() if group)
        raise ValueError(
            f"it must hold tensors only; reading it would run {name}, which was not run: save the net's `state_dict()` "
            "with torch.save, or as safetensors"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, AttributeError, IndexError, TypeError, UnicodeError) as error:
        raise ValueError(_damaged(error)) from error
    return _find_state(contents)


def _damaged(error: Exception) -> str:
    reason = format_error(error, with_type=True, limit=100)
    return (
        f"it must be a file that torch.save wrote of a `state_dict`; it cannot be read ({reason}): get the file again"
    )


def _find_state(contents: Any) -> dict[str, Tensor]:
    """Return the dictionary of tensors, which may be a value of another dictionary, such as "state_dict"."""
    candidates = [contents, *(contents.values() if isinstance(contents, Mapping) else ())]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name): tensor for name, tensor in candidate.items()}
    names = ", ".join(str(name) for name in contents) if isinstance(contents, Mapping) else type(contents).__name__
    raise ValueError(f"it must hold a dictionary of weights (a `state_dict`); got {names[:100] or 'nothing'}")

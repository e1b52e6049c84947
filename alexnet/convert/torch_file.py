"""Weights by name from files of torch and of safetensors; nothing that is in a file is run."""

import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_REASON_LENGTH = 100  # characters of torch's message
_REFUSED = re.compile(r"GLOBAL (\w[\w.]*)")  # in torch's message: a class or function that is no tensor's


def is_safetensors(file: Path) -> bool:
    """Return whether a file begins with a length of eight bytes, then JSON. A file that is cut off is one, too."""
    with file.open("rb") as opened:
        head = opened.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and (length < file.stat().st_size or file.suffix == ".safetensors")


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
    except Exception as error:  # what torch raises for a damaged file depends on where it is cut off
        refused = _REFUSED.search(str(error))
        if name := refused[1] if refused else _find_code(file):
            raise ValueError(
                f"it must hold tensors only; reading it would run {name}, which was not run: save the net's "
                "`state_dict()` with torch.save, or as safetensors"
            ) from error
        reason = " ".join(str(error).rpartition("WeightsUnpickler error: ")[2].split())[:_REASON_LENGTH]
        raise ValueError(
            f"it must be a file that torch.save wrote of a `state_dict`; it cannot be read ({type(error).__name__}: "
            f"{reason}): it may be cut off, get the file again"
        ) from error
    return _find_state(contents)


def _find_code(file: Path) -> str | None:
    """Return the name of the first function or class that a plain pickle would call, without running it.

    torch's message names none if it meets an operation that it does not know before.
    """
    strings: list[str] = []
    try:
        with file.open("rb") as opened:
            for operation, argument, _ in pickletools.genops(opened):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":  # its module and name are the last two strings
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, OverflowError, MemoryError):  # not a pickle, or one that is cut off, or asks for too much
        return None
    return None


def _find_state(contents: Any) -> dict[str, Tensor]:
    """Return the dictionary of tensors, which may be a value of another dictionary, such as "state_dict"."""
    candidates = [contents, *(contents.values() if isinstance(contents, Mapping) else ())]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return {str(name): tensor for name, tensor in candidate.items()}
    names = ", ".join(str(name) for name in contents) if isinstance(contents, Mapping) else type(contents).__name__
    raise ValueError(f"it must hold a dictionary of weights (a `state_dict`); got {names[:100] or 'nothing'}")

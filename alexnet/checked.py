"""Dataclasses that hold their fields to types and rules, with messages that name the field."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def require(rule: bool, name: str, text: str, value: object) -> None:
    """Raise the ValueError "NAME must be TEXT; got VALUE" unless `rule` holds."""
    if not rule:
        raise ValueError(f"{name} must be {text}; got {value!r}")


def require_finite(name: str, value: float, *, least: float = 0.0, above: bool = False) -> None:
    """Raise a ValueError unless `value` is finite and at least `least`, or above it."""
    ok = math.isfinite(value) and (value > least if above else value >= least)
    require(ok, name, f"a finite number {'above' if above else 'of at least'} {least:g}", value)


def build(kind: type[T], data: Any, name: str) -> T:
    """An object of dataclass `kind` from plain JSON data; `name` is for messages."""
    require(isinstance(data, Mapping), name, f"an object with the fields of {kind.__name__}", data)
    known = typing.get_type_hints(kind)
    unknown = sorted(set(data) - set(known))
    require(not unknown, name, f"made of known fields ({', '.join(known)})", ", ".join(unknown))
    try:
        return kind(**data)
    except TypeError as error:  # a field without default is missing
        raise ValueError(f"{name} must have every field of {kind.__name__}: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value` as the type `hint` says, or a ValueError that names the field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(inner, value, name)
    if origin is Literal:
        require(value in arguments, name, "one of " + ", ".join(map(repr, arguments)), value)
        return value
    if origin is tuple:
        require(isinstance(value, (list, tuple)), name, "a list", value)
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        require(len(hints) == len(value), name, f"a list of {len(hints)}", value)
        return tuple(_convert(h, v, name) for h, v in zip(hints, value, strict=True))
    if origin is dict:
        require(isinstance(value, Mapping), name, "an object", value)
        return {key: _convert(arguments[1], v, f"{name}.{key}") for key, v in value.items()}
    if dataclasses.is_dataclass(hint) and not isinstance(value, typing.cast(type, hint)):
        try:
            return build(typing.cast(type, hint), value, name)
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(name) else f"{name}.{error}") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    require(fits, name, f"of type {hint.__name__}", value)
    return value


class Checked:
    """A dataclass whose fields are held to their types and rules when it is made, from Python as from JSON."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            # Lists become tuples, whole numbers floats and objects the dataclasses that the fields ask for.
            object.__setattr__(self, name, _convert(hint, getattr(self, name), name))
        self._check()

    def _check(self) -> None:
        raise AssertionError(f"{type(self).__name__} has no rules")

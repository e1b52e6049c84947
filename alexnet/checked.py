"""Dataclasses that check the types and values of their fields, with messages that name the field."""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")

# The types of a class's fields, by name; they take long to find.
_type_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Check a condition on a value.

    Args:
        condition: What must hold.
        name: Name of the value, such as that of a field.
        rule: The condition in words, as they follow "must be".
        value: The value.

    Raises:
        ValueError: The condition does not hold: "NAME must be RULE; got VALUE".
    """
    if not condition:
        raise ValueError(f"{name} must be {rule}; got {value!r}")


def require_finite(name: str, value: float, *, positive: bool = False) -> None:
    """Raise a ValueError unless `value` is finite and at least 0, or above 0 if `positive`."""
    is_valid = math.isfinite(value) and (value > 0 if positive else value >= 0)
    require(is_valid, name, f"a finite number {'above' if positive else 'of at least'} 0", value)


def suggest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ": did you mean ...?" with the name that is closest to one that is wrong; "" if none is close.

    Args:
        name, names: The wrong name, and the right ones.
        cutoff: How close it must be, as for `difflib.get_close_matches`.
    """
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return f": did you mean {close[0]}?" if close else ""


def require_one_of(name: str, value: str, names: Iterable[str]) -> None:
    """Check that a value is one of many names; the message begins with the closest one, so that it is not overlooked.

    Args:
        name: What the value is called.
        value: The value.
        names: The names that are known.

    Raises:
        ValueError: It is another.
    """
    names = list(names)
    close = suggest(value, names)
    if value not in names and close:
        raise ValueError(f"{name} must be a name that is known; got {value!r}{close} All names: {', '.join(names)}")
    require(value in names, name, f"one of {', '.join(names)}", value)


def build(kind: type[T], data: Any, name: str) -> T:
    """Return an object of a dataclass, built from plain JSON data.

    Args:
        kind: The dataclass.
        data: A mapping from the fields' names to their values.
        name: What messages call the data.

    Raises:
        ValueError: No mapping, an unknown or missing field, or a value that the field does not allow.
    """
    require(isinstance(data, Mapping), name, f"an object with the fields of {kind.__name__}", data)
    fields = _type_hints(kind)
    unknown = sorted(set(data) - set(fields))
    if unknown:
        rule = f"an object with no other fields than {', '.join(fields)}"
        raise ValueError(f"{name} must be {rule}; got {', '.join(unknown)!r}{suggest(unknown[0], fields)}")
    try:
        return kind(**data)
    except TypeError as error:  # a field without default is missing
        raise ValueError(f"{name} must have every field of {kind.__name__}: {error}") from error


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as the type `hint`; raise a ValueError that names the field if it is of another type."""
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
            message = str(error)
            is_of_field = message.partition(" ")[0].partition(".")[0] in _type_hints(hint)
            message = message if message.startswith(name) else f"{name}{'.' if is_of_field else ': '}{message}"
            raise ValueError(message) from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_of_type = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    require(is_of_type, name, f"of type {hint.__name__}", value)
    return value


class Checked:
    """Base of dataclasses that check the types and values of their fields, whether built in Python or from JSON."""

    def __post_init__(self) -> None:
        for name, hint in _type_hints(type(self)).items():
            # Lists become tuples, integers floats and mappings dataclasses, where the fields are such.
            object.__setattr__(self, name, _convert(hint, getattr(self, name), name))
        self.check()

    def check(self) -> None:
        """Raise a ValueError that names the field if a value is not allowed."""
        raise NotImplementedError

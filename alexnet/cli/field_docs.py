"""The fields of a recipe with their values, defaults and meanings, which their dataclasses' docstrings have."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Any

from alexnet.recipe import Recipe

_ENTRY = re.compile(r"^    (\w+(?: \.\.\. \w+|(?:, \w+)*)): (.*)$")  # "name, name: ..." or "conv1 ... conv6: ..."


@dataclass(frozen=True)
class FieldDoc:
    """A field of a recipe.

    Args:
        path: Its path, as `--set` takes it, such as "net.fc6.dropout".
        value, default: Its value, and its value by default, as plain JSON data.
        meaning: What it means; "" for a field whose meaning an earlier one of the same kind has.
        has_value: Whether it has a value, and not fields, which follow; those of the objects in a list, such as
            `changes`, have none.
    """

    path: str
    value: Any
    default: Any
    meaning: str
    has_value: bool = True


def explain_recipe(recipe: Recipe) -> list[FieldDoc]:
    """Return all fields of a recipe, in order."""
    return list(_explain(recipe, Recipe(), "", set()))


def _explain(data: Any, defaults: Any, prefix: str, explained: set[tuple[type, str]]) -> Iterator[FieldDoc]:
    """Yield the fields of a dataclass's object, each followed by those of the object that it has.

    Args:
        data: The object.
        defaults: The object by default.
        prefix: What the paths begin with.
        explained: The classes and meanings that have been given; updated.
    """
    meanings = _field_meanings(type(data))
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        default = getattr(defaults, field.name)
        key = (type(data), meanings[field.name])
        meaning = "" if key in explained else meanings[field.name]
        explained.add(key)
        path = prefix + field.name
        if is_dataclass(value):
            if meaning or default is None:
                yield FieldDoc(path, {}, {} if default is not None else None, meaning, has_value=False)
            yield from _explain(value, value if default is None else default, f"{path}.", explained)
        else:
            yield FieldDoc(path, _to_plain(value), _to_plain(default), meaning)
            if item_class := _list_item_class(type(data), field.name):
                for name, text in _field_meanings(item_class).items():
                    yield FieldDoc(f"{path}[].{name}", None, None, text, has_value=False)


def _list_item_class(kind: type, name: str) -> type | None:
    """Return the dataclass of the objects that a field has a list of; None for other fields."""
    item_class, *rest = typing.get_args(typing.get_type_hints(kind)[name]) or (None,)
    return item_class if rest == [...] and isinstance(item_class, type) and is_dataclass(item_class) else None


def _field_meanings(kind: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of each field under "Args:", with JSON's null for None."""
    entries: dict[str, list[str]] = {}
    current: list[str] = []
    for line in (inspect.getdoc(kind) or "").partition("\nArgs:\n")[2].splitlines():
        if entry := _ENTRY.match(line):
            current = [entry[2]]
            entries |= dict.fromkeys(_names(entry[1], kind), current)
        elif line.startswith("        "):
            current.append(line.strip())
        else:
            break
    return {name: re.sub(r"\bNone\b", "null", " ".join(lines)) for name, lines in entries.items()}


def _names(text: str, kind: type) -> list[str]:
    """Return the names that an entry is about: "a, b", or "a ... c" for those between in the order of the fields."""
    if " ... " not in text:
        return text.split(", ")
    first, last = text.split(" ... ")
    names = list(typing.get_type_hints(kind))
    return names[names.index(first) : names.index(last) + 1]


def _to_plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_to_plain(each) for each in value] if isinstance(value, tuple) else value

"""The columns of a table that hold pictures and labels: by Hugging Face's metadata, else by their types and names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from alexnet.data.sources.labels import LABEL_COLUMNS
from alexnet.utils.console import note_once

_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png")
_LABEL_COLUMNS = (*LABEL_COLUMNS, "fine_label")


@dataclass(frozen=True)
class PictureColumns:
    """The columns of a table that hold pictures and labels.

    Args:
        image: The name of the column with the pictures: the bytes of files, or structures of bytes and a path.
        has_paths: Whether the column has paths.
        label: The name of the column with the labels.
        class_names: The class names, of which a label is the index; None if the labels are the names.
    """

    image: str
    has_paths: bool
    label: str
    class_names: tuple[str, ...] | None


def find_columns(place: str, schema: pa.Schema, features: Mapping[str, Any] | None = None) -> PictureColumns:
    """Return the columns with the pictures and the labels.

    Args:
        place: The table, for messages.
        schema: Its schema.
        features: The features of the columns as Hugging Face's `datasets` describes them. By default those in the
            metadata of the schema.

    Raises:
        ValueError: There are no such columns.
    """
    features = _read_features(schema) if features is None else features
    types = {field.name: field.type for field in schema}
    images = _columns_of_type(features, types, "Image") or [name for name in types if _is_image(types[name])]
    labels = _columns_of_type(features, types, "ClassLabel") or [name for name in types if _is_label(name, types[name])]
    columns = ", ".join(f"{name} ({str(types[name])[:40]})" for name in list(types)[:8])
    if not images:
        raise ValueError(f"{place}: must have a column of pictures, the bytes of files; got {columns or 'none'}")
    if not labels:
        raise ValueError(
            f"{place}: must have a column of labels, called {', '.join(_LABEL_COLUMNS)}; got {columns}: rename it"
        )
    image, label = _choose(images, _IMAGE_COLUMNS), _choose(labels, _LABEL_COLUMNS)
    for chosen, columns_of_kind in ((image, images), (label, labels)):
        if len(columns_of_kind) > 1:
            others = ", ".join(name for name in columns_of_kind if name != chosen)
            note_once(f"{place}: of the columns {chosen} and {others}, {chosen} is read")
    if not _is_image(types[image]):
        raise ValueError(
            f"{place}: column {image} must be bytes or have a field of bytes; got {str(types[image])[:80]}"
        )
    has_paths = pa.types.is_struct(types[image]) and types[image].get_field_index("path") >= 0
    return PictureColumns(image, has_paths, label, _class_names(place, label, features))


def _read_features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features in the metadata that Hugging Face's `datasets` writes; none if there are no such metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _columns_of_type(features: Mapping[str, Any], types: Mapping[str, pa.DataType], name: str) -> list[str]:
    """Return the columns whose feature is of a type of this name."""
    return [key for key, feature in features.items() if key in types and _type_of(feature) == name]


def _type_of(feature: Any) -> Any:
    """Return the name of the type of a feature, None if it is a list or structure of features."""
    return feature.get("_type") if isinstance(feature, dict) else None


def _is_image(column_type: pa.DataType) -> bool:
    """Return whether a column of this type may hold pictures: bytes, or structures with bytes."""
    if pa.types.is_struct(column_type):
        index = column_type.get_field_index("bytes")
        return index >= 0 and _is_binary(column_type.field(index).type)
    return _is_binary(column_type)


def _is_binary(column_type: pa.DataType) -> bool:
    """Return whether a type is bytes of any length."""
    return bool(pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type))


def _is_label(name: str, column_type: pa.DataType) -> bool:
    """Return whether a column may hold labels: it is called so, and has text or whole numbers."""
    value_type = column_type.value_type if pa.types.is_dictionary(column_type) else column_type
    is_text = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
    return name.lower() in _LABEL_COLUMNS and bool(is_text or pa.types.is_integer(value_type))


def _choose(columns: Sequence[str], preferred: Sequence[str]) -> str:
    """Return the column with the first of the preferred names; the first column if none has such a name."""
    by_name = {name.lower(): name for name in reversed(columns)}
    return next((by_name[name] for name in preferred if name in by_name), columns[0])


def _class_names(place: str, label: str, features: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names of a column of labels; None if its feature has none."""
    names = features[label].get("names") if _type_of(features.get(label)) == "ClassLabel" else None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{place}: the names of {label} must be a list of text; got {str(names)[:80]}")
    return tuple(names)

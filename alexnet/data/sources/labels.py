"""Labels as text: their order, the columns of lists and tables that hold them, and what class names must be."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

# The names of columns with labels. The first one that a list or table has is taken.
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")


def sort_labels(place: str, labels: Iterable[str]) -> list[str]:
    """Return different labels in their order: numbers by value, names alphabetically.

    Args:
        place: The list or table, for messages.
        labels: The labels.

    Raises:
        ValueError: A number is negative.
    """
    labels = sorted(labels)
    if not all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in labels):
        return labels
    labels.sort(key=int)
    if labels and int(labels[0]) < 0:
        raise ValueError(f"{place}: a label must be a name or a number of at least 0; got {labels[0]}")
    return labels


def check_class_names(place: str, classes: Sequence[str]) -> None:
    """Raise a ValueError if two classes have the same name, or names that differ in upper and lower case only."""
    by_lower_name: dict[str, str] = {}
    for name in classes:
        lower_name = unicodedata.normalize("NFC", name).lower()
        other = by_lower_name.get(lower_name)
        if other is not None:
            raise ValueError(
                f"{place}: classes must differ in more than upper and lower case; got {other!r} and {name!r}: rename "
                "one, or make them one class"
            )
        by_lower_name[lower_name] = name

"""The numbers that a contest gives to the classes: those of its development kit, and of a submission."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ClassIds:
    """The contest's number of each class.

    Args:
        contest: The contest: "ILSVRC2012".
        ids: The number of each class (ILSVRC2012_ID), from 1, in the order of the labels.
    """

    contest: str
    ids: tuple[int, ...]

    def to_metadata(self) -> dict[str, Any]:
        """Return the numbers as the metadata of a file have them."""
        return {"class_ids": asdict(self)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> "ClassIds | None":
        """Return the numbers in the metadata of a file; None if there are none.

        Raises:
            ValueError: They are none.
        """
        saved = metadata.get("class_ids")
        if saved is None:
            return None
        try:
            return cls(str(saved["contest"]), tuple(map(int, saved["ids"])))
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"class_ids must have the contest's numbers of the classes; got {saved!r:.100}") from error

"""Where a store is: a folder on this machine, or a URL of an object store."""

from pathlib import Path


class StoreURL(str):
    """The URL of a store that is not on a disk of this machine, such as s3://bucket/folder.

    It has `name` and `resolve`, as a Path does, so that code can treat both alike.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.rpartition("/")[2]

    def resolve(self) -> "StoreURL":
        """Return the URL itself: a URL means the same in every folder and on every machine."""
        return self


def parse_location(location: str | Path) -> Path | StoreURL:
    """Return the location of a store, as the user or the files of a run give it, as a path or a URL."""
    return StoreURL(str(location).rstrip("/")) if "://" in str(location) else Path(location)

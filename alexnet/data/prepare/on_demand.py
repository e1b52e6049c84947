"""Prepare pictures where a command asks for a store: the store is kept beside the run, and used again.

It is in RUN/../.stores, in a folder whose name has a digest of the pictures' path and one of their listing: names,
sizes and times of modification. So pictures that have changed get a new store, and the old one is removed.
"""

import hashlib
import shutil
from pathlib import Path

from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.base import Source, fingerprint
from alexnet.data.sources.kinds import is_source, open_source
from alexnet.data.store.format import PROGRESS_FILE, SHARD_NAME, STATISTICS_FILE
from alexnet.data.store.location import StoreURL, parse_location
from alexnet.data.store.store import Store
from alexnet.distributed.coordinator import Coordinator
from alexnet.recipe import Recipe
from alexnet.utils.console import note_once
from alexnet.utils.processes import is_main_process, world_size

StoreLocation = str | Path | Store
_FOLDER = ".stores"


def store_to_train_on(
    location: StoreLocation, run: str | Path, size: int | None = None, source: Source | None = None
) -> StoreLocation:
    """Return the location of a store; if there are pictures instead, of one that is prepared from them beside the run.

    All processes that torchrun has started must call this.

    Args:
        location: A store, or anything that `prepare` takes.
        run: The folder of the run, which need not exist.
        size: Side of the stored pictures; by default that of the run's recipe.
        source: The pictures, if they are open already.

    Raises:
        ValueError: The pictures cannot be prepared, or the run has no recipe.
        ReportedElsewhere: Another process has failed.
    """
    if not are_pictures(location):
        return location
    assert not isinstance(location, Store)
    path, run = Path(location), Path(run)
    size = _agree_on_size(run, size)
    return prepare_beside(run, path, source or open_source(path), size, store_prefix(path, size))


def open_training_store(
    location: StoreLocation, run: Path, size: int | None = None, source: Source | None = None
) -> Store:
    """Open the store that `store_to_train_on` finds or prepares for a run."""
    location = store_to_train_on(location, run, size, source)
    return location if isinstance(location, Store) else Store(location)


def are_pictures(location: StoreLocation) -> bool:
    """Return whether there is a file, or a folder that is no store, at a location; or whether it names pictures."""
    path = None if isinstance(location, Store) else parse_location(location)
    if path is None or isinstance(path, StoreURL):
        return False
    if not path.exists():
        return is_source(path)  # such as hf:OWNER/NAME
    return path.is_file() or not any(_is_store_file(file.name) for file in path.iterdir())


def read_classes(location: StoreLocation) -> tuple[str, ...]:
    """Return the class names of a store, or of pictures that a store can be prepared from."""
    if isinstance(location, Store):
        return location.classes
    return open_source(location).classes if are_pictures(location) else Store(location).classes


def _is_store_file(name: str) -> bool:
    return name in (STATISTICS_FILE, PROGRESS_FILE) or SHARD_NAME.fullmatch(name) is not None


def _agree_on_size(run: Path, size: int | None) -> int:
    """Return the size of the stored pictures; the main process decides, which may alone have a recipe."""
    if world_size() == 1:
        return size or read_recipe(run).store_size
    coordinator = Coordinator.from_torchrun()
    with coordinator.raise_together():
        if coordinator.rank == 0:
            coordinator.publish("size", str(size or read_recipe(run).store_size))
        size = int(coordinator.wait_for("size"))
        coordinator.shutdown()
    return size


def read_recipe(run: Path) -> Recipe:
    """Return the recipe of a run.

    Raises:
        ValueError: It has none.
    """
    path = run / "recipe.json"
    if not path.exists():
        raise ValueError(f"run {run} must have a recipe.json, or be given a recipe; it has none: check the path")
    return Recipe.load(path)


def store_prefix(path: Path, size: int, purpose: str = "") -> str:
    """Return how the names of all stores begin that are prepared from the same place for the same purpose.

    Args:
        path: The folder or archive of the pictures.
        size: Side of the stored pictures.
        purpose: What distinguishes the store from others of the same pictures.
    """
    digest = hashlib.sha256(repr((str(path.resolve()), purpose)).encode()).hexdigest()[:8]
    return f"{path.resolve().name}-{size}-{digest}-"


def stores_beside(run: Path) -> Path:
    """Return the folder of the stores that are prepared beside a run."""
    return run.absolute().parent / _FOLDER


def prepare_beside(run: Path, path: Path, source: Source, size: int, prefix: str) -> Path:
    """Prepare a store beside a run, or find it there.

    Args:
        run: The folder of the run.
        path: The folder or archive of the pictures.
        source: The pictures.
        size: Side of the stored pictures.
        prefix: What `store_prefix` returned.

    Returns:
        The folder of the store.

    Raises:
        ValueError: The pictures cannot be prepared, or the run is among them.
        ReportedElsewhere: Another process has failed.
    """
    stores = stores_beside(run)
    if path.is_dir() and stores.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"run {run} is inside the pictures {path}; choose a RUN outside of them")
    store = stores / (prefix + listing_digest(path, source))
    is_complete = (store / STATISTICS_FILE).is_file()
    if is_complete and is_main_process():
        note_once(f"{path}: using the store {store}, which was prepared from these pictures before")
    if is_complete:
        return store
    if is_main_process():
        count = sum(map(len, source.splits.values()))
        for old in stores.iterdir() if stores.is_dir() else ():
            if old.name.startswith(prefix) and old != store:
                note_once(f"{path} has changed: removing the store {old}, which was prepared from it before")
                shutil.rmtree(old)
        note_once(f"{path}: preparing {count:,} pictures in {store}, to be used again next time")
    summary = prepare(source, store, size=source.size or size, parallel=world_size() > 1)
    for line in summary.warnings() if is_main_process() else ():
        note_once(line)
    return store


def listing_digest(path: Path, source: Source) -> str:
    """Return a digest of the names, sizes and times of modification of all pictures."""
    digest = hashlib.sha256(fingerprint(source).encode())
    if path.is_file():
        digest.update(str(path.stat().st_mtime_ns).encode())
    for split in source.splits.values():
        digest.update(split.mtimes.tobytes())
    return digest.hexdigest()[:8]

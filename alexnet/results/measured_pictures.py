"""Find or prepare the store to measure a net on, if pictures are given in place of a store."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from alexnet.data.prepare.on_demand import (
    StoreLocation,
    are_pictures,
    listing_digest,
    prepare_beside,
    read_recipe,
    store_prefix,
    stores_beside,
)
from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.kinds import open_source
from alexnet.data.sources.subset import RelabelledSource
from alexnet.data.store.format import SHARD_NAME, read_shard, read_shard_metadata
from alexnet.data.store.location import StoreURL, parse_location
from alexnet.data.store.store import Store
from alexnet.models.weight_files import best_checkpoint, read_architecture
from alexnet.utils.console import note_once
from alexnet.utils.processes import is_main_process


def store_to_measure(
    location: StoreLocation, runs: Sequence[Path], splits: Sequence[str | None] = (None,)
) -> StoreLocation:
    """Return the location of a store; if there are pictures instead, of one that is prepared from them beside the run.

    If the run was trained on these pictures, that is the store that was prepared for the training: its "val" has the
    pictures that were held out. All other pictures are measured, unless they have train/, val/ or test/ of their own.
    They may have some of the run's classes only. All processes that torchrun has started must call this.

    Args:
        location: A store, or anything that `prepare` takes.
        runs: Runs, and files of predictions.
        splits: The splits to measure; None for the default one.

    Raises:
        ValueError: The pictures cannot be prepared, or have a class that the run does not have; or there are only files
            of predictions, which are for the pictures of a store.
        ReportedElsewhere: Another process has failed.
    """
    if not are_pictures(location):
        return location
    path = Path(str(location))
    run = next((run for run in runs if run.is_dir()), None)
    if run is None:
        raise ValueError(
            f"{path} must be a store, as predictions in files are for the pictures of a store; got pictures"
        )
    size, trained_on = read_recipe(run).store_size, _training_store(run)
    prefix = store_prefix(path, size)
    if trained_on.parent == stores_beside(run) and trained_on.name.startswith(prefix):
        if is_main_process():
            note_once(f"{path}: using the store {trained_on}, whose val pictures were held out of the training")
            if trained_on.name != prefix + listing_digest(path, open_source(path)):
                note_once(f"{path} has changed since the training: pictures that are new are not measured")
        return trained_on
    source = open_source(path, SourceOptions(test=1))
    _, classes = read_architecture(best_checkpoint(run))
    names = {name for name in splits if name} or set(source.splits) - {"train"}
    measured = RelabelledSource(source, path, classes, [name for name in source.splits if name in names])
    if is_main_process():
        _note_known_pictures(path, measured, trained_on, run)
    purpose = hashlib.sha256(repr((classes, list(measured.splits))).encode()).hexdigest()
    return prepare_beside(run, path, measured, size, store_prefix(path, size, purpose))


def open_measured_store(location: StoreLocation, run: Path) -> Store:
    """Open the store that `store_to_measure` finds or prepares for a run."""
    location = store_to_measure(location, [run])
    return location if isinstance(location, Store) else Store(location)


def _training_store(run: Path) -> Path:
    """Return the folder of the store that a run was trained on, as its first line of metrics.jsonl says."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    location = parse_location(json.loads(lines[0]).get("store", "") if lines else "")
    return Path() if isinstance(location, StoreURL) else location


def _note_known_pictures(path: Path, source: Source, trained_on: Path, run: Path) -> None:
    """Print a note if pictures have the names of pictures that a run was trained on, in a source of the same name."""
    shards = [file for file in sorted(trained_on.glob("train-*.arrow")) if SHARD_NAME.fullmatch(file.name)]
    if not shards or read_shard_metadata(shards[0])["source"] != source.name:
        return
    known = {name for shard in shards for batch in read_shard(shard)[0] for name in batch.column("name").to_pylist()}
    names = [name.as_py().decode("utf-8", "replace") for split in source.splits.values() for name in split.names]
    count = sum(name in known for name in names)
    if count:
        note_once(
            f"{count:,} of the {len(names):,} pictures in {path} have the names of pictures that {run} was trained on; "
            "if they are the same, its error is too low: measure it on its own store, or on other pictures"
        )

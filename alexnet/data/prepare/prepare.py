"""Prepare a store from a source: pictures of one size, the mean activity and the colour components (section 3).

The source is cut into shards, and a shard into chunks of a few megabytes. Threads prepare the chunks (decoding,
resizing and summing release the interpreter lock), and the main thread writes them in order. So the bytes of the store
do not depend on the number of threads, nor on whether the work was interrupted.

Several processes, on one machine or on several that share a file system, can divide the shards among them. The plan
follows from the source alone, so they need not wait for each other. The main process determines which shards are
missing, and at the end adds up the records of all of them.
"""

import json
import shutil
import socket
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

from alexnet.checked import require
from alexnet.data.prepare.chunk import Chunk, prepare_chunk
from alexnet.data.prepare.failures import FailureLimit
from alexnet.data.prepare.moves import move_pictures, plans_of_moves, read_or_find_duplicates
from alexnet.data.prepare.plan import Plan, Shard
from alexnet.data.prepare.progress import ProgressReport
from alexnet.data.prepare.resume import find_difference, resume
from alexnet.data.prepare.summary import Summary, summarise
from alexnet.data.prepare.writer import complete_store, write_shard
from alexnet.data.sources.base import Source, SourceOptions
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.format import PROGRESS_FILE
from alexnet.distributed.coordinator import POLL_SECONDS, Coordinator
from alexnet.utils.console import format_bytes
from alexnet.utils.cores import available_cores
from alexnet.utils.files import exclusive_lock, explain_full_disk, local_path
from alexnet.utils.prefetch import prefetch

_SIZE = 256  # of the stored pictures (3)
VISIBLE_SECONDS = 60.0  # until a file that one machine has written is visible to another on a network file system
SILENT_SECONDS = 600.0  # without a picture from any worker process, until the main process gives up waiting


def prepare(
    source: str | Path | Source,
    store: str | Path,
    *,
    size: int | None = None,
    encoding: str = "raw",
    held_out: float | None = None,
    test: float | None = None,
    train_per_class: int | None = None,
    val_batch: int | None = None,
    coarse: bool = False,
    seed: int | None = None,
    synsets: str | Path | None = None,
    verify_archives: bool | None = None,
    workers: int | None = None,
    max_failures: float = 0.05,
    ignore_duplicates: bool = False,
    progress: bool = True,
    parallel: bool = False,
) -> Summary:
    """Prepare a store of square pictures from a source, or resume where an earlier call was stopped (section 3).

    Args:
        source: A folder or archive with a folder of pictures for each class, or CIFAR-10 (see `open_source`); or an
            open source, such as a `StoreSubset`.
        store: The folder to write. It must be new, empty, or one that an earlier call with the same arguments started.
        size: Side of the pictures in pixels, by default 256. Those of CIFAR-10 and CIFAR-100 keep their 32.
        encoding: "raw" for exact pixels, which need no decoding during training, or "jpeg" for at most a seventh of the
            size.
        held_out: Share of each class that becomes "val" if the source has no splits of its own; 0 for no "val". By
            default a tenth.
        test: Share of each class that becomes "test" if the source has no splits of its own; 1 for all of it. By
            default none.
        train_per_class: Number of pictures of each class that become "train", where all others become "test".
        val_batch: Training batch of CIFAR-10, 1 to 5, that becomes "val".
        coarse: Whether the classes of CIFAR-100 are its 20 superclasses instead of the 100 classes.
        seed: Seed of the choice of the held-out pictures; by default 0.
        synsets: A text file with the synsets of ImageNet to prepare, one WordNet ID a line.
        verify_archives: Whether to compare the MD5 checksums of ImageNet's archives with the published ones first.
        workers: Number of threads of this process. By default the processes of a machine have one for each core.
        max_failures: Share of the files that may fail to be readable pictures. Two may in any case, unless it is 0.
        ignore_duplicates: Whether to leave each picture in the split that it was drawn for, even if another picture of
            the same photograph is in another split (see alexnet.data.prepare.parts).
        progress: Whether to show progress on standard error.
        parallel: Whether to share the work with the other processes of torchrun. Each must make the same call. The
            store is the same as that of one process. If one process fails, all stop.

    Returns:
        A summary.

    Raises:
        FileNotFoundError: There is no such source.
        ValueError: An argument, the source or the folder of the store is unsuitable, or too many files are unreadable.
        ReportedElsewhere: Another process failed first.
        OSError: The disk is full. The shards that are complete remain.
    """
    start_time = time.perf_counter()
    coordinator = Coordinator.from_torchrun() if parallel else Coordinator()
    with coordinator.raise_together():
        _check_arguments(source, store, size, encoding, workers, max_failures)
        options = SourceOptions(
            held_out=held_out,
            train_per_class=train_per_class,
            val_batch=val_batch,
            seed=seed,
            synsets=None if synsets is None else Path(synsets),
            verify_archives=verify_archives,
            test=test,
            coarse=coarse or None,
        )
        opened = open_source(source, options) if isinstance(source, (str, Path)) else source
        if options.only_tests and "train" in opened.splits:
            options.refuse("test", Path(str(source)), "it has pictures to train on in a split of its own")
        if opened.size is not None and size not in (None, opened.size):
            raise ValueError(f"size must be {opened.size} or left out for {source}, whose pictures keep it; got {size}")
        side = opened.size or size or _SIZE
        plan = Plan.create(Path(store), opened, side, encoding, options, ignore_duplicates=ignore_duplicates)
        failures = FailureLimit(plan, max_failures, coordinator)
        workers = workers or max(1, available_cores() // coordinator.local_world_size)
        if coordinator.rank == 0:
            prepared = _run_main_process(plan, failures, coordinator, workers, progress)
        else:
            prepared = _run_worker_process(plan, failures, coordinator, workers)
        coordinator.shutdown()
    return summarise(plan.store, opened, prepared, time.perf_counter() - start_time)


def _check_arguments(
    source: str | Path | Source,
    store: str | Path,
    size: int | None,
    encoding: str,
    workers: int | None,
    max_failures: float,
) -> None:
    """Check the arguments of `prepare` that are not options of the source."""
    require(size is None or 1 <= size <= 4096, "size", "from 1 to 4096 pixels", size)
    require(encoding in ("raw", "jpeg"), "encoding", "'raw' or 'jpeg'", encoding)
    require(workers is None or workers >= 1, "workers", "at least 1 thread", workers)
    require(0 <= max_failures <= 1, "max_failures", "a share from 0 to 1, such as 0.05", max_failures)
    store = local_path(store)
    folder = Path(source) if isinstance(source, (str, Path)) else None
    if folder and folder.is_dir() and store.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{store}: is inside the source {source}; choose a folder outside it")


def _run_main_process(
    plan: Plan, failures: FailureLimit, coordinator: Coordinator, workers: int, progress: bool
) -> int | None:
    """Determine which shards are missing, write this process's part of them, and complete the store.

    Returns:
        The number of pictures in the missing shards; None if the store was complete.
    """
    prepared = None
    with exclusive_lock(plan.store):
        missing = resume(plan, failures)
        _check_free_space(plan, missing or [])
        coordinator.publish("begun", json.dumps({"plan": plan.progress_metadata, "missing": missing}))
        if missing is not None:
            prepared = _write_shards(plan, missing, failures, coordinator, workers, progress)
            duplicates = read_or_find_duplicates(plan)
            new_checksums = move_pictures(plan, duplicates.moves, failures, workers)
            complete_store(plan, duplicates, plans_of_moves(plan, duplicates.moves), new_checksums)
    coordinator.publish("finished", "")
    return prepared


def _run_worker_process(plan: Plan, failures: FailureLimit, coordinator: Coordinator, workers: int) -> int | None:
    """Write this process's part of the shards that the main process finds missing, and wait until all is complete.

    Returns:
        The number of pictures in the missing shards; None if the store was complete.
    """
    main = json.loads(coordinator.wait_for("begun"))
    name = f"process {coordinator.rank} on {socket.gethostname()}"
    if difference := find_difference(main["plan"], plan.progress_metadata):
        raise ValueError(
            f"{plan.store}: {name} differs from the main process, which prepares it with {difference}; give all "
            "processes the same source and options"
        )
    if main["missing"] is None:
        return None
    if not coordinator.wait_until((plan.store / PROGRESS_FILE).is_file, VISIBLE_SECONDS):
        raise ValueError(
            f"{plan.store}: {name} does not see the files of the main process there; choose a STORE on a shared disk"
        )
    with explain_full_disk(plan.store):
        prepared = _write_shards(plan, main["missing"], failures, coordinator, workers, progress=False)
    coordinator.wait_for("finished")
    return prepared


def _check_free_space(plan: Plan, missing: list[int]) -> None:
    """Check that the missing raw shards and their records, whose sums have 4 bytes a value, fit on the disk."""
    free = shutil.disk_usage(plan.store).free
    needed = sum(len(plan.shards[index]) + 4 for index in missing) * plan.size**2 * 3
    if plan.encoding == "raw" and needed > free:
        raise ValueError(
            f"{plan.store}: raw pictures need {format_bytes(needed)} more and {format_bytes(free)} are free "
            "on that disk; free some space, choose another disk or `encoding='jpeg'`"
        )


def _write_shards(
    plan: Plan, missing: list[int], failures: FailureLimit, coordinator: Coordinator, workers: int, progress: bool
) -> int:
    """Write this process's part of the missing shards; the main process then waits for the others.

    Returns:
        The number of pictures in all missing shards.
    """
    picture_count = sum(len(plan.shards[index]) for index in missing)
    shards = [plan.shards[index] for index in missing[coordinator.rank :: coordinator.world_size]]
    jobs = ((shard, *chunk) for shard in shards for chunk in plan.chunk_ranges(shard))
    report = ProgressReport(plan.picture_count, plan.picture_count - picture_count, progress)

    def prepare_job(job: tuple[Shard, int, int]) -> Chunk:
        return prepare_chunk(plan, *job)

    def on_chunk(file_count: int) -> None:
        report.update(coordinator.add("seen", file_count))
        coordinator.check_others()

    with closing(report):
        with closing(prefetch(prepare_job, jobs, workers=workers, buffer_size=workers + 1)) as chunks:
            for shard in shards:
                chunk_count = sum(1 for _ in plan.chunk_ranges(shard))
                write_shard(plan, shard, islice(chunks, chunk_count), failures, on_chunk)
        coordinator.add("ended", 1)
        if coordinator.rank == 0:
            _wait_for_worker_processes(plan, coordinator, report)
    return picture_count


def _wait_for_worker_processes(plan: Plan, coordinator: Coordinator, report: ProgressReport) -> None:
    """Wait until all processes have written their shards, and show their progress meanwhile."""
    last_state, last_change = (0, 0), time.monotonic()
    while (state := (coordinator.add("ended"), coordinator.add("seen")))[0] < coordinator.world_size:
        if state != last_state:
            last_state, last_change = state, time.monotonic()
            report.update(state[1])
        elif time.monotonic() - last_change > SILENT_SECONDS:
            silent = coordinator.world_size - state[0]
            raise ValueError(
                f"{plan.store}: {silent} of {coordinator.world_size} processes have made no progress for "
                f"{SILENT_SECONDS / 60:.0f} minutes; stop them and run the same command again: it resumes"
            )
        coordinator.check_others()
        time.sleep(POLL_SECONDS)

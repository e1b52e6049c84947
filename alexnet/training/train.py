"""Training a net on a prepared store (section 6)."""

import contextlib
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet.data.loading.loader import Loader
from alexnet.data.prepare.on_demand import StoreLocation, store_to_train_on
from alexnet.data.store.base import Split
from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.distributed.launch import init_team
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.training.activity_cache import ActivityCache, make_activity_cache
from alexnet.training.checkpoint import TrainState
from alexnet.training.checkpointer import Checkpointer, open_run
from alexnet.training.class_weights import class_weights
from alexnet.training.description import print_start
from alexnet.training.divergence import DivergenceError, check_finite, save_batch, weights_not_finite
from alexnet.training.error_rates import ErrorRates, measure_errors, sum_errors
from alexnet.training.finetune import Taken
from alexnet.training.losses import DelayedLosses
from alexnet.training.metrics import EpochStats, MetricsWriter, epoch_metrics, start_metrics
from alexnet.training.plan import Rehearsal, plan_epochs
from alexnet.training.precision import note_missing_bfloat16
from alexnet.training.progress import TimeLeft, epoch_progress, print_epoch
from alexnet.training.retry import go_back
from alexnet.training.schedule import Schedule, make_schedule
from alexnet.training.setup import build_net, check_options, default_workers, has_begun, resolve_statistics, sync_recipe
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.signals import StopRequest, stop_on_signal
from alexnet.training.step import Step
from alexnet.utils.files import local_path
from alexnet.utils.processes import report_once
from alexnet.utils.progress import Progress

STEPS_PER_LINE = 50  # steps between two lines "step" in metrics.jsonl


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Args:
        finished: Whether it came to its end; else a signal stopped it.
        epoch, step: Epochs and steps done.
        error: The lowest top-1 error on "val"; the last error if the store has no "val", or its pictures are folded in.
        seconds: Time spent, over all calls.
        signal: Number of the signal that stopped it, if one did.
        split, images: The split on which the error was measured, and its number of pictures.
        is_best: Whether the error is the lowest, by which a checkpoint was selected; else it is that of the last epoch.
    """

    finished: bool
    epoch: int
    step: int
    error: float | None
    seconds: float
    signal: int | None = None
    split: str = "val"
    images: int = 0
    is_best: bool = True


@dataclass(frozen=True)
class Training:
    """What the functions of the loop share.

    Args:
        recipe, store: How to train, and on what.
        statistics: The statistics that the training uses: the store's, perhaps with another run's mean activity.
        team: The processes that train together, of which this is one.
        net, optimiser: This process's shard of what is trained.
        activities: Keeps the activities of frozen layers, which are then trained on in place of pictures; or None.
        step: Makes one step of training.
        schedule: Decides the learning rates, the splits and the end.
        state: How far the training is; updated.
        metrics: Writes metrics.jsonl.
        checkpointer: Writes checkpoints.
        stop: A request to stop.
        workers: Threads that make batches.
        show_progress: Whether this process shows the progress on standard error.
        start_time: When the training would have started if it had run without a break, on the monotonic clock.
        time_left: Says how long the training will take.
    """

    recipe: Recipe
    store: Store
    statistics: Statistics
    team: Team
    net: AlexNet
    optimiser: SGD
    activities: ActivityCache | None
    step: Step
    schedule: Schedule
    state: TrainState
    metrics: MetricsWriter
    checkpointer: Checkpointer
    stop: StopRequest
    workers: int
    show_progress: bool
    start_time: float
    time_left: TimeLeft


def train(
    store: StoreLocation,
    run: str | Path,
    recipe: Recipe | None = None,
    *,
    start_from: str | Path | None = None,
    take: Sequence[str] = (),
    hours: float | None = None,
    device: str | torch.device | None = None,
    parallel: str = "none",
    micro_batch: int | None = None,
    hang_seconds: float = 300,
    workers: int | None = None,
    cache_gb: float = 8,
    checkpoint_minutes: float = 10,
    keep: int = 2,
    tensorboard: bool = False,
    progress: bool = True,
    graph: bool = True,
    on_divergence: str = "stop",
) -> Outcome:
    """Train a net on a prepared store, or resume the training of `run` (section 6).

    On the CPU, with the same number of threads, a training that was stopped and resumed ends with bit for bit the same
    weights as one that was not.

    Args:
        store: Folder that `prepare` made, its address in an object store, or a `Store`; or anything that `prepare`
            takes, from which a store is then prepared beside `run` (alexnet.data.prepare.on_demand).
        run: Folder for recipe.json, metrics.jsonl and checkpoints/; of several processes, the main one uses it.
        recipe: What to train and how; None for the recipe that `run` was begun with.
        start_from: Another run, from whose net a new run takes start values (7: pre-training).
        take: Names of the layers to take from it; by default all that fit.
        hours: The time in which a new run is to end: it trains fewer epochs than the recipe has if they would take
            longer (`plan_epochs`). A resumed run keeps their number, which is in recipe.json.
        device: The device; by default the first GPU or else the CPU, with several processes a GPU each.
        parallel: How the processes of torchrun share the work (4.2): "data", "towers" or "hybrid", see `Team` in
            alexnet.distributed.team. A run may be resumed under another scheme, with another number of processes.
        micro_batch: Pictures that a process takes through the net at a time, adding up gradients; by default its
            whole shard of a batch, or, for a run resumed with fewer processes, as many as at its start.
        hang_seconds: Time after which a process that makes no progress is given up, and all processes end.
        workers: Threads that make batches; by default one for a CPU, which suffices, and one per core for a GPU.
        cache_gb: Room on the disk of `run` for the activities of frozen layers, in gigabytes; 0 keeps none. They are
            kept where the first layers of the net are frozen, the recipe has a number of augmentations, and one process
            trains (docs/finetuning.md).
        checkpoint_minutes: Time between checkpoints within an epoch; one is also written after each epoch.
        keep: Number of checkpoints to keep, besides the best one by validation error, if the store has "val".
        tensorboard: Whether to write TensorBoard event files too, to `run`/tensorboard.
        progress: Whether to show the progress on standard error.
        graph: Whether a GPU replays the step as a CUDA graph, instead of launching each kernel; one process only.
        on_divergence: What to do when the loss or a weight is not finite: "stop"; or "retry", go back to the end of the
            last epoch, or to the start, and train with half the learning rates, at most three times.

    Returns:
        How the training ended.

    Raises:
        ValueError: The recipe differs from the run's, or does not fit the store; another process trains in the run;
            the processes do not suit the scheme, or differ in what they are to train.
        DivergenceError: The loss or a weight is not finite; the batch is in `run`/divergence.json.
        OSError: A file cannot be written; the last checkpoint remains.
        ReportedElsewhere: Another of several processes raises one of these.
    """
    run = local_path(run)
    store = store_to_train_on(store, run, recipe.store_size if recipe else None)
    with init_team(parallel, device, hang_seconds) as team:
        with team.raise_together():
            check_options(
                keep, workers, cache_gb, checkpoint_minutes, micro_batch, start_from, take, on_divergence
            )  # fmt: skip
            store = store if isinstance(store, Store) else Store(store)
        recipe = sync_recipe(team, run, recipe, store, micro_batch, hours)
        if progress and team.is_main:
            note_missing_bfloat16(team.device, recipe)
        workers = default_workers(team) if workers is None else workers
        statistics = resolve_statistics(team, run, recipe, store, start_from)
        shown = progress and team.is_main
        if hours is not None and not team.broadcast(has_begun(run)):
            arguments = start_from, take, micro_batch, workers, cache_gb, graph
            recipe = plan_epochs(Rehearsal(team, run, recipe, store, statistics, *arguments), hours, progress=shown)
        with stop_on_signal() as stop:
            while True:
                net, taken = build_net(team, run, recipe, store, start_from, take)
                optimiser = SGD(
                    parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum,
                    decay=recipe.decay,
                )  # fmt: skip
                checkpointer = Checkpointer(
                    run, recipe, store, statistics, net, optimiser, team, keep=keep, minutes=checkpoint_minutes,
                    keep_epoch=on_divergence == "retry",
                )  # fmt: skip
                with open_run(checkpointer, tensorboard) as (state, metrics):
                    schedule = make_schedule(recipe, state.plateau, state.folded)
                    default = math.ceil(recipe.batch_size / team.data_group.size)
                    state.micro_batch = state.micro_batch or micro_batch or default
                    pictures = micro_batch or state.micro_batch
                    activities = make_activity_cache(checkpointer, cache_gb, micro_batch=pictures, progress=shown)
                    step = Step(
                        net, optimiser, recipe, graph=graph, team=team, micro_batch=pictures,
                        class_weights=class_weights(recipe, store), head=activities.head if activities else None,
                    )  # fmt: skip
                    training = Training(
                        recipe, store, statistics, team, net, optimiser, activities, step, schedule, state, metrics,
                        checkpointer, stop, workers=workers, show_progress=shown,
                        start_time=time.monotonic() - state.seconds,
                        time_left=TimeLeft(schedule, store, is_upper_bound=activities is not None, shown=shown),
                    )  # fmt: skip
                    if shown:
                        print_start(checkpointer, schedule, state, taken, start_from)
                    if state.metrics_bytes == 0:
                        _begin_run(training, start_from, taken, hours, save=on_divergence == "retry")
                    if run_epochs(training, may_retry=on_divergence == "retry"):
                        break
    stopped_by = None if state.finished else stop.signal or signal.SIGTERM
    _, measured = schedule.splits_for_epoch(store)
    return Outcome(
        state.finished, state.epoch, state.step, state.error, state.seconds, stopped_by,
        measured.name, len(measured), schedule.may_select_best(measured),
    )  # fmt: skip


def run_epochs(training: Training, *, may_retry: bool) -> bool:
    """Train and validate, epoch by epoch, until the schedule ends the training or a signal stops it.

    Args:
        training: The training.
        may_retry: Whether to go back to an earlier checkpoint after a divergence.

    Returns:
        Whether it came to an end; else it diverged, and another call resumes it from an earlier checkpoint.

    Raises:
        DivergenceError: The loss or a weight is not finite, and the training must not, or no longer, go back.
    """
    state, schedule = training.state, training.schedule
    while not state.finished and not training.stop.agreed:
        train_split, val_split = schedule.splits_for_epoch(training.store)
        epoch, first_step = state.epoch, state.step - state.batch
        try:
            stats = train_epoch(training, train_split)
            if stats is None:
                break  # stopped within the epoch
            errors = validate(training, val_split, stats)
            is_best = end_epoch(training, val_split, stats, errors)
            training.checkpointer.save(state, schedule, training.metrics, best=is_best)
        except DivergenceError as error:
            _save_batch(training, error, train_split, epoch, error.step - first_step - 1)
            if not (may_retry and _go_back(training, error)):
                raise report_once(error) from error
            return False
    return True


def _save_batch(training: Training, error: DivergenceError, split: Split, epoch: int, batch: int) -> None:
    """Write the pictures of the batch at which a divergence was found; the main process does."""
    with training.team.raise_together():
        if training.team.is_main:
            loader = _make_loader(training, split, training.schedule.image_size_in(epoch))
            indices = loader.batch_draws(epoch)[batch] % len(split)
            names = [split.picture_name(int(index)) for index in indices]
            save_batch(training.checkpointer.run, error, weights_not_finite(training.net), split.name, names)


def _go_back(training: Training, error: DivergenceError) -> bool:
    """Let the training go back to an earlier checkpoint, and say so; return whether it may do so once more."""
    line = None
    with training.team.raise_together():
        if training.team.is_main:
            line = go_back(training.checkpointer.run, error, training.state.epoch_step)
            if line and training.show_progress:
                print(line, file=sys.stderr)
    return training.team.broadcast(line) is not None


def train_epoch(training: Training, split: Split) -> EpochStats | None:
    """Train on the batches of the current epoch that have not been trained on yet.

    Returns:
        How the epoch went; None if a signal stopped it, and a checkpoint was written within it.
    """
    schedule, state = training.schedule, training.state
    loader = _make_loader(training, split, schedule.image_size_in(state.epoch))
    shift_colours = schedule.shifts_colours_at(state.epoch)
    if training.activities:
        batches = training.activities.batches(loader, state.epoch, state.batch, shift_colours)
    else:
        batches = loader.batches(state.epoch, state.batch, shift_colours)
    losses = DelayedLosses(state, training.recipe, training.team, training.stop)
    start_time, start_pictures = time.monotonic(), state.totals["pictures"]
    bar = epoch_progress(state, schedule.total_epochs(), len(loader), shown=training.show_progress)
    training.net.train()
    with contextlib.closing(batches), bar:
        for batch in batches:
            training.team.watchdog.report_progress(state.step + 1, "training")
            rates = schedule.rates_at(state.epoch, state.batch / len(loader)).scaled(state.rate_factor)
            set_learning_rates(training.optimiser, rates)
            loss, errors = training.step(batch.images, batch.labels, batch.total)  # forward, backward, update
            state.step, state.batch = state.step + 1, state.batch + 1
            state.seconds = time.monotonic() - training.start_time
            losses.add(loss, errors, batch.total, rates.highest, save=training.checkpointer.is_due())
            bar.update(note=losses.describe())
            training.time_left.count_step(state, len(loader))
            if state.step % STEPS_PER_LINE == 0:
                epoch, mean_loss = state.epoch + state.batch / len(loader), losses.recent_mean()
                training.metrics.write("step", step=state.step, epoch=epoch, rate=rates.highest, loss=mean_loss)
            # After the last batch, the checkpoint is written when the epoch has been validated.
            if state.batch < len(loader) and (training.stop.agreed or losses.save_requested):
                losses.read_pending()
                training.checkpointer.save(state, schedule, training.metrics)
                losses.save_requested = False
                if training.stop.agreed:
                    return None
    losses.read_pending()
    speed = (state.totals["pictures"] - start_pictures) / (time.monotonic() - start_time)
    return EpochStats(rates.highest, speed, loader.seconds_waited)


def validate(training: Training, split: Split, stats: EpochStats) -> ErrorRates:
    """Measure the error rates on the validation pictures, from the centre of each.

    Raises:
        DivergenceError: The net puts out something that is not finite.
    """
    state, recipe, mean = training.state, training.recipe, training.statistics.mean
    with Progress(
        f"epoch {state.epoch + 1}, {split.name}", len(split), "pictures", shown=training.show_progress
    ) as bar:
        if training.activities:
            errors = sum_errors(training.activities.predict(split), training.team, state.step, bar)
        else:
            errors = measure_errors(training.net, split, mean, recipe, team=training.team, step=state.step, bar=bar)
    check_finite("log-probability", errors.log_prob, recipe, state, step=state.step, rate=stats.rate)
    return errors


def end_epoch(training: Training, split: Split, stats: EpochStats, errors: ErrorRates) -> bool:
    """Record the epoch that was trained and the errors on `split`, and let the schedule react to the error.

    Returns:
        Whether the net is the best so far.
    """
    state, schedule = training.state, training.schedule
    state.seconds, state.epoch, state.batch = time.monotonic() - training.start_time, state.epoch + 1, 0
    state.epoch_step = state.step
    schedule.observe(state.epoch, errors.top1_error)
    metrics = epoch_metrics(state, stats, split.name, errors)
    reason = schedule.end_reason(state.epoch, metrics["train_error"])
    state.finished = reason is not None
    training.metrics.write("epoch", **metrics)
    if reason is not None:
        training.metrics.write("end", epoch=state.epoch, step=state.step, reason=reason)
    if training.show_progress:
        print_epoch(metrics, len(training.store.classes), schedule.total_epochs(), reason)
    selects_best = schedule.may_select_best(split)
    is_best = selects_best and errors.is_better_than(state.error, state.log_prob)
    if is_best or not selects_best:
        state.error, state.log_prob = errors.top1_error, errors.log_prob
    state.totals = {}
    return is_best


def _begin_run(
    training: Training, start_from: str | Path | None, taken: Taken, hours: float | None, *, save: bool
) -> None:
    """Write the line "start" of metrics.jsonl; save the start values if `save`, or if layers were taken."""
    origin = {"from": str(start_from), "taken": taken.layers, "taken_classes": taken.classes} if taken.layers else {}
    origin |= {} if hours is None else {"hours": hours}
    training.metrics.write("start", **start_metrics(training.recipe, training.store, training.team), **origin)
    if taken.layers or save:  # saved at once, so that whoever resumes the run need not name the other one again
        training.checkpointer.save(training.state, training.schedule, training.metrics)


def _make_loader(training: Training, split: Split, image_size: int) -> Loader:
    """Return the loader of this process's shard of the training batches, with crops of `image_size` pixels."""
    team = training.team
    return Loader(
        split,
        training.statistics,
        training.recipe,
        image_size=image_size,
        workers=training.workers,
        device=team.device,
        shard=team.data_group.rank,
        num_shards=team.data_group.size,
    )

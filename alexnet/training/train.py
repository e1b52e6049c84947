"""The training loop (section 6)."""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alexnet.checked import require
from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.distributed.launch import init_team
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe, recipe_differences
from alexnet.training.checkpoint import (
    Checkpoint,
    TrainState,
    gather_tensors,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from alexnet.training.consistency import shared_settings
from alexnet.training.error_rates import measure_errors
from alexnet.training.finetune import take_weights
from alexnet.training.metrics import MetricsWriter, describe_start, epoch_metrics, print_epoch, progress_bar
from alexnet.training.precision import uses_bfloat16
from alexnet.training.schedule import LearningRates, Schedule, make_schedule
from alexnet.training.sgd import SGD, parameter_groups, set_learning_rates
from alexnet.training.step import Step
from alexnet.utils.console import note_once
from alexnet.utils.device import has_bfloat16
from alexnet.utils.files import exclusive_lock, write_atomic
from alexnet.utils.memory import keep_freed_memory
from alexnet.utils.processes import report_once

STEPS_PER_LINE = 50  # steps between "step" lines in metrics.jsonl


class DivergenceError(ValueError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended: at its end or at a signal, after how much, and how good the net kept is.

    Args:
        finished: Whether it came to its end.
        epoch, step: Epochs and steps done.
        error: The lowest top-1 error on "val"; where the store has "test" only, or the pictures of "val" are folded in,
            the last one.
        seconds: Time spent, over all calls.
        signal: Number of the signal that stopped it, if one did.
    """

    finished: bool
    epoch: int
    step: int
    error: float | None
    seconds: float
    signal: int | None = None


def train(
    store: str | Path | Store,
    run: str | Path,
    recipe: Recipe | None = None,
    *,
    start_from: str | Path | None = None,
    take: Sequence[str] = (),
    device: str | torch.device | None = None,
    parallel: str = "none",
    micro_batch: int | None = None,
    hang_seconds: float = 300,
    workers: int | None = None,
    checkpoint_minutes: float = 10,
    keep: int = 2,
    tensorboard: bool = False,
    progress: bool = True,
    graph: bool = True,
) -> Outcome:
    """Train a net on a prepared store, or go on where `run` stopped (section 6).

    On the CPU, with the same number of threads, a run that was stopped and resumed ends with bit for bit the weights
    of one that was not.

    Args:
        store: Folder that `prepare` made, its address in an object store, or that store opened.
        run: Folder for recipe.json, metrics.jsonl and checkpoints/; of several processes the first one's.
        recipe: What to train and how; None for the one `run` was begun with.
        start_from: Another run, from whose net a new run takes its start values (7: pre-training).
        take: Names of the layers to take from it; by default all that fit.
        device: Where; the first GPU or else the CPU by default, and with several processes a GPU each.
        parallel: How the processes that torchrun has started share the work (4.2): "data", "towers" or "hybrid", see
            `parallel.Team`. A run may go on under another scheme, with another number of processes.
        micro_batch: Pictures that a process takes through the net at a time, whose gradients it adds up; by default its
            whole part of a batch, or, where a run goes on with fewer processes, as many as it began with.
        hang_seconds: Time after which a process that does not come forward is given up, and all end.
        workers: Threads that make batches; by default one, which suffices a CPU, or one per core to feed a GPU.
        checkpoint_minutes: Time between checkpoints within an epoch; one is also written after each epoch.
        keep: Number of checkpoints kept, beside the best one by validation error, which a store with "val" has.
        tensorboard: Whether to write TensorBoard event files too, to `run`/tensorboard.
        progress: Whether to tell of the progress on standard error.
        graph: Whether a GPU replays the step as a CUDA graph, or makes it kernel by kernel; several processes do the
            latter.

    Returns:
        How it ended.

    Raises:
        ValueError: The recipe differs from the run's, or does not fit the store; another process trains in the run;
            the processes do not suit the scheme, or differ in what they are to train.
        DivergenceError: The loss is not finite.
        OSError: A file cannot be written; the last checkpoint stays.
        ReportedElsewhere: Another of several processes raises one of these.
    """
    run = Path(run)
    with init_team(parallel, device, hang_seconds) as team:
        workers = workers if workers is not None else team.num_threads() if team.device.type == "cuda" else 1
        with team.raise_together():
            require(keep >= 1, "keep", "at least 1, or there is nothing to go on from", keep)
            require(workers >= 0, "workers", "a number of threads from 0", workers)
            require(
                checkpoint_minutes >= 0, "checkpoint_minutes", "a time from 0 (after each step)", checkpoint_minutes
            )
            require(bool(start_from) or not take, "take", "given with the run to take from (start_from)", take)
            require(micro_batch is None or micro_batch >= 1, "micro_batch", "at least 1 picture", micro_batch)
            store = store if isinstance(store, Store) else Store(store)
            settled = resolve_recipe(run, recipe, store) if team.is_main else None
        recipe = agreed(team, recipe, settled, store, run, micro_batch)
        if progress and team.is_main and recipe.precision == "auto" and not has_bfloat16(team.device):
            kind = team.device.type
            note_once(
                f"training is slower here than it can be: in float32, since the {kind} has no bfloat16 arithmetic"
            )
        net, taken = begin(team, store, run, recipe, start_from, take)
        optimiser = SGD(
            parameter_groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum, decay=recipe.decay
        )
        kept = Kept(run, recipe, store, net, optimiser, team, keep)
        with opened(kept, tensorboard) as (at, metrics), stopped_by_signal() as stop:
            if not at.metrics_bytes:
                origin = {"from": str(start_from), "taken": taken} if taken else {}
                metrics.write("start", **describe_start(recipe, store, team), **origin)
                if taken:  # kept at once: whoever goes on need not name the other run again
                    kept.save(at, metrics)
            share = -(-recipe.batch_size // team.data_group.size)
            at.micro_batch = at.micro_batch or micro_batch or share
            few = min(micro_batch or at.micro_batch, share)
            step = Step(net, optimiser, recipe, graph=graph, team=team, micro_batch=few if few < share else None)
            try:
                return loop(kept, step, at, metrics, stop, workers, checkpoint_minutes, progress=progress)
            except DivergenceError as error:
                raise report_once(error) from error


def loop(
    kept: "Kept",
    step: Step,
    at: TrainState,
    metrics: MetricsWriter,
    stop: "Stop",
    workers: int,
    minutes: float,
    *,
    progress: bool,
) -> Outcome:
    """The loop itself: epochs of steps, each epoch followed by a validation and a checkpoint.

    Args:
        kept: What is trained.
        step: Makes a step of it.
        at: How far it is; moved on.
        metrics: Where it is written down.
        stop: Set when a signal asks for an end.
        workers, minutes, progress: As `workers`, `checkpoint_minutes` and `progress` of `train`.
    """
    recipe, store, team, optimiser = kept.recipe, kept.store, kept.team, kept.optimiser
    schedule, progress = make_schedule(recipe, at.plateau, at.folded), progress and team.is_main
    started = saved = time.monotonic()
    started -= at.seconds
    while not at.finished:
        # One epoch, from batch at.batch on. Whether colours are shifted is settled at its start.
        training, validation = schedule.splits_for_epoch(store)
        group = team.data_group
        loader = Loader(
            training,
            store.statistics,
            recipe,
            workers=workers,
            device=team.device,
            shard=group.rank,
            num_shards=group.size,
        )
        began, pictures = time.monotonic(), at.totals.get("pictures", 0)
        shift_colours = schedule.shifts_colours_at(at.epoch)
        batches = loader.batches(at.epoch, first_batch=at.batch, shift_colours=shift_colours)
        losses = DelayedLosses(at, recipe, team)
        kept.net.train()
        with contextlib.closing(batches), progress_bar(at, schedule.total_epochs(), len(loader), shown=progress) as bar:
            for batch in batches:
                team.watchdog.report_progress(at.step + 1, "training")
                now = schedule.rates_at(at.epoch, at.batch / len(loader))
                set_learning_rates(optimiser, now)
                loss, wrong = step(batch.images, batch.labels, batch.total)  # forward, back, update
                at.step, at.batch = at.step + 1, at.batch + 1
                due = team.is_main and time.monotonic() - saved > 60 * minutes
                losses.add(loss, wrong, batch.total, now, stop=stop.number is not None, save=due)
                bar.update()
                if at.step % STEPS_PER_LINE == 0:
                    at_epoch = at.epoch + at.batch / len(loader)
                    metrics.write("step", step=at.step, epoch=at_epoch, rate=now.highest, loss=losses.latest())
                if at.batch == len(loader):
                    break  # what follows is the end of the epoch, and saves
                if losses.stop or losses.save:
                    losses.settle()
                    at.seconds = time.monotonic() - started
                    kept.save(at, metrics, schedule)
                    losses.save, saved = False, time.monotonic()
                if losses.stop:
                    return Outcome(False, at.epoch, at.step, at.error, at.seconds, stop.number or signal.SIGTERM)
        losses.settle()
        speed = (at.totals["pictures"] - pictures) / (time.monotonic() - began)

        # Evaluate, tell, save.
        found = measure_errors(kept.net, validation, store.statistics.mean, recipe, team=team, step=at.step)
        if not math.isfinite(found.log_prob):
            raise DivergenceError(divergence("log-probability", found.log_prob, at.epoch, at.step, now, recipe))
        at.seconds, at.epoch, at.batch = time.monotonic() - started, at.epoch + 1, 0
        schedule.observe(at.epoch, found.top1_error)
        line = epoch_metrics(at, now, found, speed, loader.seconds_waited)
        at.finished = schedule.is_finished(at.epoch, line["train_error"])
        metrics.write("epoch", **line)
        if progress:
            print_epoch(line, schedule.total_epochs())
        chooses = schedule.may_select_best(validation)
        best = chooses and (at.error is None or found.top1_error < at.error)
        if best or not chooses:
            at.error = found.top1_error
        at.totals = {}
        kept.save(at, metrics, schedule, best=best)
        saved = time.monotonic()
        if losses.stop and not at.finished:
            return Outcome(False, at.epoch, at.step, at.error, at.seconds, stop.number or signal.SIGTERM)
    return Outcome(True, at.epoch, at.step, at.error, at.seconds)


def agreed(
    team: Team, recipe: Recipe | None, settled: Recipe | None, store: Store, run: Path, micro_batch: int | None
) -> Recipe:
    """The recipe that the leading process has settled on, once all processes have been found to want the same."""
    chosen: Recipe = team.broadcast(settled)
    begun = team.broadcast((run / "recipe.json").exists())
    precision = "bfloat16" if uses_bfloat16(team.device, chosen) else "float32"
    asked = {
        "parallel": team.scheme,
        "micro_batch": micro_batch,
        "the precision (--set precision=float32 settles it)": precision,
    }
    with team.raise_together():
        store.validation()
    team.check_same(lambda: shared_settings(recipe or chosen, store) | asked)
    with team.raise_together():
        team.form_groups(chosen.net, len(store.classes))
        if not begun and chosen.batch_size % team.data_group.size:  # a begun run goes on with however many are left
            raise ValueError(
                f"batch_size must be divisible by the {team.data_group.size} processes that share a batch; got "
                f"{chosen.batch_size}: change --nproc-per-node, or use --batch-size"
            )
    return chosen


def begin(
    team: Team, store: Store, run: Path, recipe: Recipe, start_from: str | Path | None, take: Sequence[str]
) -> tuple[AlexNet, tuple[str, ...]]:
    """This process's part of the net with its start values, and the names of the layers taken from another run."""
    keep_freed_memory()
    torch.manual_seed(recipe.seed)  # in all processes: they draw the same start values, and later the same masks
    net = AlexNet(len(store.classes), recipe.net)
    taken: tuple[str, ...] = ()
    with team.raise_together():
        if team.is_main and start_from and not begun_from(run, start_from):
            taken = take_weights(net, store.classes, start_from, take)
    taken = team.broadcast(taken)
    whole = net.state_dict() if taken and team.is_main else None
    team.shard_model(net)
    net.to_channels_last(team.device)
    if taken and team.world_size > 1:
        team.scatter(whole, dict(net.named_parameters()))
    return net, taken


def begun_from(run: Path, start_from: str | Path) -> bool:
    """Whether a run has been begun, with start values from that other run.

    Raises:
        ValueError: It has been begun otherwise.
    """
    if not list_checkpoints(run):
        return False
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        origin = json.loads(file.readline()).get("from")
    if origin != str(start_from):
        raise ValueError(
            f"run {run} was begun from {origin or 'start values that were drawn'}, not from {start_from}: go on "
            "without --from, or use another RUN folder"
        )
    return True


def divergence(name: str, value: float, epoch: int, step: int, now: LearningRates, recipe: Recipe) -> str:
    """The message for a loss that is no number: where, at which rate, and what to try."""
    return (
        f"{name} must stay finite; got {value} in epoch {epoch + 1}, step {step}, at learning rate "
        f"{now.highest:g}: {lower_rate(recipe)}"
    )


def lower_rate(recipe: Recipe) -> str:
    """What to try after a divergence."""
    return f"start a new run with a lower rate, such as --set learning_rate={recipe.learning_rate / 5:.1g}"


class DelayedLosses:
    """The losses and errors of an epoch; from a GPU each is read back one step late, so that it need not be waited for.

    With them travels what processes ask of each other: that all stop, or save, after the same step.

    Attributes:
        stop, save: Whether a process has asked for it, as far as has been read back.
    """

    def __init__(self, at: TrainState, recipe: Recipe, team: Team) -> None:
        self.at, self.recipe, self.team = at, recipe, team
        self.stop = self.save = False
        self.pending: tuple[Tensor, torch.cuda.Event | None, int, int, LearningRates] | None = None
        at.totals = at.totals or dict.fromkeys(("loss", "errors", "pictures", "recent_loss", "recent_steps"), 0.0)

    def add(self, loss: Tensor, wrong: Tensor, count: int, now: LearningRates, *, stop: bool, save: bool) -> None:
        """Take a step's mean loss () and its number of errors () among `count` pictures, this process's share of each.

        Args:
            loss, wrong, count: Of the step just made.
            now: The rates it was made at.
            stop, save: Whether this process asks for it.
        """
        counted = torch.stack([loss.double(), wrong.double()]) * self.team.adds_metrics
        # Filled in where they are: a copy would have to wait for all that the device still has to do.
        asked = [counted.new_full((1,), float(wish)) for wish in (stop, save)]
        values, copied = self.team.all_reduce(torch.cat([counted, *asked])), None
        if values.is_cuda:  # copied as soon as they are there; meanwhile the device goes on with the next step
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self.settle()
        self.pending = (values, copied, count, self.at.step, now)
        if copied is None:
            self.settle()

    def settle(self) -> None:
        """Read back what is pending.

        Raises:
            DivergenceError: The loss is not finite.
        """
        if self.pending is None:
            return
        values, copied, count, step, now = self.pending
        self.pending = None
        if copied is not None:
            copied.synchronize()
        loss, wrong, stop, save = values.tolist()
        if not math.isfinite(loss):
            raise DivergenceError(divergence("loss", loss, self.at.epoch, step, now, self.recipe))
        self.stop, self.save = self.stop or stop > 0, save > 0
        sums = {"loss": loss * count, "errors": wrong, "pictures": count, "recent_loss": loss, "recent_steps": 1}
        for name, value in sums.items():
            self.at.totals[name] += value

    def latest(self) -> float:
        """The mean of the losses since the last call, as far as they have been read back."""
        if not self.at.totals["recent_steps"]:
            self.settle()
        totals = self.at.totals
        mean = totals["recent_loss"] / totals["recent_steps"]
        totals["recent_loss"] = totals["recent_steps"] = 0.0
        return mean


@dataclass
class Stop:
    """The number of the signal that asked for an end, once one has."""

    number: int | None = None


@contextlib.contextmanager
def stopped_by_signal() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask for an end after the current step; a second Ctrl-C ends at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers; its caller decides there
        return

    def handle(number: int, _: object) -> None:
        stop.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def resolve_recipe(run: Path, recipe: Recipe | None, store: Store) -> Recipe:
    """The recipe of a run: the one given, or that in recipe.json, to which later trainings are held."""
    path = run / "recipe.json"
    begun = Recipe.from_json(path.read_text(encoding="utf-8")) if path.exists() else None
    if begun and recipe and recipe != begun:
        fields = dict.fromkeys(path.partition(".")[0] for path, _, _ in recipe_differences(begun, recipe))
        which = ", ".join(fields)
        raise ValueError(f"run {run} was begun with another recipe (differs in {which}): use another RUN folder")
    settled = begun or recipe
    if settled is None:
        raise ValueError(f"run {run} has no recipe.json yet: say which recipe with --recipe NAME")
    if store.size != settled.store_size:
        raise ValueError(
            f"store {store.path} must hold pictures of the recipe's store_size {settled.store_size}; got {store.size}: "
            f"prepare another with --size {settled.store_size}, or train a new run with --set store_size={store.size}"
        )
    if settled.folds_in_validation and "val" not in store.splits:
        raise ValueError(
            f'store {store.path} must have val pictures for schedule "fold"; it has {", ".join(store.splits)}: prepare '
            "another (CIFAR-10 with --val-batch 5), or use --set schedule=changes"
        )
    others = {p.name for p in run.iterdir()} - {"recipe.json.part"} if run.is_dir() else run.exists()
    if begun is None and others:
        raise ValueError(f"run {run} must be a new or empty folder, or a run; it holds other things: use another RUN")
    return settled


@dataclass(frozen=True)
class Kept:
    """What a checkpoint keeps, and where.

    Args:
        run: The folder.
        recipe, store, net, optimiser: What is trained.
        team: The processes that share it, and this one's part.
        keep: Number of checkpoints kept.
    """

    run: Path
    recipe: Recipe
    store: Store
    net: AlexNet
    optimiser: SGD
    team: Team
    keep: int

    def save(
        self, at: TrainState, metrics: MetricsWriter, schedule: Schedule | None = None, *, best: bool = False
    ) -> None:
        """Write a checkpoint to go on from, and remove all but the latest; the net as the best too, if it is.

        All processes must call it; the leading one writes.

        Raises:
            DivergenceError: A weight is not finite, which the next loss would show; the checkpoints before stay.
        """
        finite = all(bool(weight.isfinite().all()) for weight in self.net.parameters())
        if not self.team.all_agree(finite):
            raise DivergenceError(
                f"weights must stay finite; one is not after step {at.step}: {lower_rate(self.recipe)}"
            )
        self.team.watchdog.report_progress(at.step, "saving")
        state = gather_tensors(self.net, self.optimiser, self.team)
        with self.team.raise_together():
            if self.team.is_main:
                self.write(at, metrics, schedule or make_schedule(self.recipe), state, best)

    def write(
        self, at: TrainState, metrics: MetricsWriter, schedule: Schedule, state: dict[str, Tensor], best: bool
    ) -> None:
        """Write what `save` has brought together."""
        at.metrics_bytes, at.plateau, at.folded = metrics.length(), schedule.plateau.state_dict(), schedule.folded
        folder, store = self.run / "checkpoints", self.store
        about: dict[str, Any] = {
            "recipe": self.recipe,
            "classes": store.classes,
            "statistics": store.statistics,
            "state": at,
        }
        if best:
            net = {name: tensor for name, tensor in state.items() if name.startswith("net.")}
            save_checkpoint(folder / "best.safetensors", net, **about)
        save_checkpoint(folder / f"step-{at.step:09d}.safetensors", state, **about)
        for old in list_checkpoints(self.run)[: -self.keep]:
            old.unlink()


@contextlib.contextmanager
def opened(kept: Kept, tensorboard: bool) -> Iterator[tuple[TrainState, MetricsWriter]]:
    """How far a run is, its latest checkpoint loaded, and its metrics; nobody else may train in it meanwhile."""
    run, team = kept.run, kept.team
    with contextlib.ExitStack() as held:
        with team.raise_together():
            if team.is_main:
                held.enter_context(exclusive_lock(run))
                if not (run / "recipe.json").exists():
                    write_atomic(run / "recipe.json", f"{kept.recipe.to_json()}\n".encode())
        at = resume(kept)
        with team.raise_together():
            metrics = MetricsWriter(run if team.is_main else None, at.metrics_bytes, at.step, tensorboard=tensorboard)
        yield at, held.enter_context(metrics)


def resume(kept: Kept) -> TrainState:
    """Load the latest checkpoint of a run into net, optimiser and random state; a fresh start if there is none."""
    team, found = kept.team, None
    with team.raise_together():
        if team.is_main:
            found = latest(kept.run, kept.recipe, kept.store)
    at: TrainState | None = team.broadcast(found.state if found else None)
    if at is None:
        return TrainState()
    weights = dict(kept.net.named_parameters())
    team.scatter(found.with_prefix("net") if found else None, weights)
    velocities = {name: kept.optimiser.velocity(weight) for name, weight in weights.items()}
    team.scatter(found.with_prefix("velocity") if found else None, velocities)
    random = team.broadcast(found.with_prefix("random") if found else None)  # of all processes: they draw the same
    torch.set_rng_state(random["cpu"])
    if team.device.type == "cuda" and "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], team.device)
    return at


def latest(run: Path, recipe: Recipe, store: Store) -> Checkpoint | None:
    """The latest checkpoint of a run, of this recipe and store; None where there is none yet."""
    (run / "checkpoints").mkdir(exist_ok=True)
    for unfinished in (run / "checkpoints").glob(".*.writing"):  # of a process killed while it wrote
        unfinished.unlink()
    paths = list_checkpoints(run)
    if not paths:
        return None
    found = load_checkpoint(paths[-1])
    same = found.classes == store.classes and found.statistics.count == store.statistics.count
    if not same or not np.array_equal(found.statistics.mean, store.statistics.mean):
        raise ValueError(f"run {run} must go on with the store it was begun with; {store.path} holds other pictures")
    if found.recipe != recipe:
        raise ValueError(f"{paths[-1]} is of another recipe than {run / 'recipe.json'}: use another RUN folder")
    return found

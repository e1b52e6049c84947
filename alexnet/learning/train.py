"""The training loop (section 6)."""

import contextlib
import dataclasses
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
from alexnet.data.ahead import cores
from alexnet.data.loader import Loader
from alexnet.data.store import Split, Store, write_aside
from alexnet.data.writer import alone
from alexnet.kernels import note
from alexnet.learning import checkpoint
from alexnet.learning.checkpoint import Progress
from alexnet.learning.finetune import take_weights
from alexnet.learning.measure import choose_device, has_bfloat16, measure
from alexnet.learning.memory import keep_freed_memory
from alexnet.learning.metrics import Metrics, about, progress_bar, summary, tell
from alexnet.learning.schedule import Plateau, Rates, rates
from alexnet.learning.sgd import SGD, groups, set_rates
from alexnet.learning.step import Step
from alexnet.nets.alexnet import AlexNet
from alexnet.recipe import Recipe

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
        store: Folder that `prepare` made, or that store opened.
        run: Folder for recipe.json, metrics.jsonl and checkpoints/.
        recipe: What to train and how; None for the one `run` was begun with.
        start_from: Another run, from whose net a new run takes its start values (7: pre-training).
        take: Names of the layers to take from it; by default all that fit.
        device: Where; the first GPU or else the CPU by default.
        workers: Threads that make batches; by default one, which suffices a CPU, or one per core to feed a GPU.
        checkpoint_minutes: Time between checkpoints within an epoch; one is also written after each epoch.
        keep: Number of checkpoints kept, beside the best one by validation error, which a store with "val" has.
        tensorboard: Whether to write TensorBoard event files too, to `run`/tensorboard.
        progress: Whether to tell of the progress on standard error.
        graph: Whether a GPU replays the step as a CUDA graph, or makes it kernel by kernel.

    Returns:
        How it ended.

    Raises:
        ValueError: The recipe differs from the run's, or does not fit the store; another process trains in the run.
        DivergenceError: The loss is not finite.
        OSError: A file cannot be written; the last checkpoint stays.
    """
    run, device = Path(run), choose_device(device)
    store = store if isinstance(store, Store) else Store(store)
    require(keep >= 1, "keep", "at least 1, or there is nothing to go on from", keep)
    workers = workers if workers is not None else cores() if device.type == "cuda" else 1
    require(workers >= 0, "workers", "a number of threads from 0", workers)
    require(checkpoint_minutes >= 0, "checkpoint_minutes", "a time from 0 (after each step)", checkpoint_minutes)
    require(bool(start_from) or not take, "take", "given with the run to take from (start_from)", take)
    recipe = settle_recipe(run, recipe, store)
    if progress and recipe.precision == "auto" and not has_bfloat16(device):
        note(f"training is slower here than it can be: in float32, since the {device.type} has no bfloat16 arithmetic")
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    net = AlexNet(len(store.classes), recipe.net).on(device)
    taken = take_weights(net, store.classes, start_from, take) if start_from and not checkpoint.checkpoints(run) else ()
    optimiser = SGD(groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum, decay=recipe.decay)
    step = Step(net, optimiser, recipe, graph=graph)
    kept: dict[str, Any] = {"recipe": recipe, "classes": store.classes, "statistics": store.statistics, "net": net}

    with opened(run, recipe, store, net, optimiser, tensorboard) as (at, metrics), stopped_by_signal() as stop:
        plateau = (
            Plateau(**at.plateau)
            if at.plateau
            else Plateau(recipe.patience, 0 if recipe.schedule == "fold" else recipe.falls)
        )
        kept["progress"] = at
        if not at.metrics_bytes:
            origin = {"from": str(start_from), "taken": taken} if taken else {}
            metrics.write("start", **about(recipe, store, net, device), **origin)
            if taken:  # kept at once: whoever goes on need not name the other run again
                save(run, metrics, optimiser, plateau, keep, kept)
        started = saved = time.monotonic()
        started -= at.seconds
        while not at.finished:
            # One epoch, from batch at.batch on. Whether colours are shifted is settled at its start.
            training, validation = sets(store, recipe, at)
            loader = Loader(training, store.statistics, recipe, workers=workers, device=device)
            began, pictures, clock = time.monotonic(), at.totals.get("pictures", 0), at.clock(recipe)
            colour = rates(recipe, clock, plateau).colour_shift
            batches = loader.batches(at.epoch, start=at.batch, colour=colour)
            losses = LateLosses(at, recipe)
            net.train()
            with contextlib.closing(batches), progress_bar(at, recipe, len(loader), shown=progress) as bar:
                for batch in batches:
                    counts = recipe.schedule != "fold" or at.folded is not None
                    now = rates(recipe, clock + counts * at.batch / len(loader), plateau)
                    set_rates(optimiser, now)
                    loss, wrong = step(batch.images, batch.labels)  # forward, back, update
                    losses.add(loss, wrong, len(batch.labels), now)
                    at.step, at.batch = at.step + 1, at.batch + 1
                    bar.update()
                    if at.step % STEPS_PER_LINE == 0:
                        at_epoch = at.epoch + at.batch / len(loader)
                        rate = max(now.weights.values())
                        metrics.write("step", step=at.step, epoch=at_epoch, rate=rate, loss=losses.latest())
                    if at.batch == len(loader):
                        break  # what follows is the end of the epoch, and saves
                    if stop.number or time.monotonic() - saved > 60 * checkpoint_minutes:
                        losses.settle()
                        at.seconds = time.monotonic() - started
                        save(run, metrics, optimiser, plateau, keep, kept)
                        saved = time.monotonic()
                    if stop.number:
                        return Outcome(False, at.epoch, at.step, at.error, at.seconds, stop.number)
            losses.settle()
            speed = (at.totals["pictures"] - pictures) / (time.monotonic() - began)

            # Evaluate, tell, save.
            found = measure(net, validation, store.statistics.mean, recipe)
            if not math.isfinite(found.log_prob):
                raise DivergenceError(divergence("log-probability", found.log_prob, at, now, recipe))
            at.seconds, at.epoch, at.batch = time.monotonic() - started, at.epoch + 1, 0
            if recipe.schedule == "plateau" or (recipe.schedule == "fold" and at.folded is None):
                plateau.observe(found.top1_error)  # a test error where the store has no validation set
            if recipe.schedule == "fold" and at.folded is None and plateau.ended:
                at.folded = at.epoch
            line = summary(at, now, found, speed, loader.waited)
            at.finished = ended(at, recipe, plateau, line["train_error"])
            metrics.write("epoch", **line)
            if progress:
                tell(line, at.total(recipe))
            # Test pictures choose no net: where there is no validation set, or it will be trained on, the last stands.
            chooses = validation.name == "val" and recipe.schedule != "fold"
            best = chooses and (at.error is None or found.top1_error < at.error)
            if best or not chooses:
                at.error = found.top1_error
            at.totals = {}
            save(run, metrics, optimiser, plateau, keep, kept, best=best)
            saved = time.monotonic()
            if stop.number and not at.finished:
                return Outcome(False, at.epoch, at.step, at.error, at.seconds, stop.number)
    return Outcome(True, at.epoch, at.step, at.error, at.seconds)


def sets(store: Store, recipe: Recipe, at: Progress) -> tuple[Split, Split]:
    """The pictures to train on and those to measure on, in the epoch that comes."""
    if recipe.schedule != "fold" or at.folded is None:
        return store.split("train"), store.validation()
    return store.joined(), store.split("test" if "test" in store.splits else "val")


def ended(at: Progress, recipe: Recipe, plateau: Plateau, train_error: float) -> bool:
    """Whether the training ends with the epoch just done."""
    if recipe.until_train_error is not None and train_error <= recipe.until_train_error:
        return True
    return at.clock(recipe) >= recipe.epochs or (recipe.schedule == "plateau" and plateau.ended)


def divergence(name: str, value: float, at: Progress, now: Rates, recipe: Recipe) -> str:
    """The message for a loss that is no number: where, at which rate, and what to try."""
    return (
        f"{name} must stay finite; got {value} in epoch {at.epoch + 1}, step {at.step}, at learning rate "
        f"{max(now.weights.values()):g}: {lower_rate(recipe)}"
    )


def lower_rate(recipe: Recipe) -> str:
    """What to try after a divergence."""
    return f"start a new run with a lower rate, such as --set learning_rate={recipe.learning_rate / 5:.1g}"


class LateLosses:
    """The losses and errors of an epoch, each read back one step late so that the device need not be waited for."""

    def __init__(self, at: Progress, recipe: Recipe) -> None:
        self.at, self.recipe = at, recipe
        self.pending: tuple[Tensor, torch.cuda.Event | None, int, Rates] | None = None
        at.totals = at.totals or dict.fromkeys(("loss", "errors", "pictures", "recent_loss", "recent_steps"), 0.0)

    def add(self, loss: Tensor, wrong: Tensor, count: int, now: Rates) -> None:
        """Take a step's mean loss () and its number of errors () among `count` pictures."""
        values, copied = torch.stack([loss.double(), wrong.double()]), None
        if values.is_cuda:  # copied as soon as they are there; meanwhile the device goes on with the next step
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self.settle()
        self.pending = (values, copied, count, now)

    def settle(self) -> None:
        """Read back what is pending.

        Raises:
            DivergenceError: The loss is not finite.
        """
        if self.pending is None:
            return
        values, copied, count, now = self.pending
        self.pending = None
        if copied is not None:
            copied.synchronize()
        loss, wrong = values.tolist()
        if not math.isfinite(loss):
            raise DivergenceError(divergence("loss", loss, self.at, now, self.recipe))
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


def settle_recipe(run: Path, recipe: Recipe | None, store: Store) -> Recipe:
    """The recipe of a run: the one given, or that in recipe.json, to which later trainings are held."""
    path = run / "recipe.json"
    begun = Recipe.from_json(path.read_text(encoding="utf-8")) if path.exists() else None
    if begun and recipe and recipe != begun:
        old, new = dataclasses.asdict(begun), dataclasses.asdict(recipe)
        which = ", ".join(name for name in old if old[name] != new[name])
        raise ValueError(f"run {run} was begun with another recipe (differs in {which}): use another RUN folder")
    settled = begun or recipe
    if settled is None:
        raise ValueError(f"run {run} has no recipe.json yet: say which recipe with --recipe NAME")
    if store.size != settled.store_size:
        raise ValueError(
            f"store {store.path} must hold pictures of the recipe's store_size {settled.store_size}; got {store.size}: "
            f"prepare another with --size {settled.store_size}, or train a new run with --set store_size={store.size}"
        )
    if settled.schedule == "fold" and "val" not in store.splits:
        raise ValueError(
            f'store {store.path} must have val pictures for schedule "fold"; it has {", ".join(store.splits)}: prepare '
            "another (CIFAR-10 with --val-batch 5), or use --set schedule=changes"
        )
    others = {p.name for p in run.iterdir()} - {"recipe.json.part"} if run.is_dir() else run.exists()
    if begun is None and others:
        raise ValueError(f"run {run} must be a new or empty folder, or a run; it holds other things: use another RUN")
    return settled


@contextlib.contextmanager
def opened(
    run: Path, recipe: Recipe, store: Store, net: AlexNet, optimiser: SGD, tensorboard: bool
) -> Iterator[tuple[Progress, Metrics]]:
    """How far a run is, its latest checkpoint loaded, and its metrics; no other process may train in it meanwhile."""
    with alone(run):
        if not (run / "recipe.json").exists():
            write_aside(run / "recipe.json", f"{recipe.to_json()}\n".encode())
        at = resume(run, recipe, store, net, optimiser)
        with Metrics(run, at.metrics_bytes, at.step, tensorboard=tensorboard) as metrics:
            yield at, metrics


def resume(run: Path, recipe: Recipe, store: Store, net: AlexNet, optimiser: SGD) -> Progress:
    """Load the latest checkpoint of a run into net, optimiser and random state; a fresh start if there is none."""
    (run / "checkpoints").mkdir(exist_ok=True)
    for unfinished in (run / "checkpoints").glob(".*.writing"):  # of a process killed while it wrote
        unfinished.unlink()
    paths = checkpoint.checkpoints(run)
    if not paths:
        return Progress()
    found = checkpoint.load(paths[-1])
    same = found.classes == store.classes and found.statistics.count == store.statistics.count
    if not same or not np.array_equal(found.statistics.mean, store.statistics.mean):
        raise ValueError(f"run {run} must go on with the store it was begun with; {store.path} holds other pictures")
    if found.recipe != recipe:
        raise ValueError(f"{paths[-1]} is of another recipe than {run / 'recipe.json'}: use another RUN folder")
    net.load_state_dict(found.part("net"))
    velocities = found.part("velocity")
    for name, weight in net.named_parameters():
        optimiser.velocity(weight).copy_(velocities[name])
    torch.set_rng_state(found.tensors["random.cpu"])
    device = net.fc8.weight.device
    if device.type == "cuda" and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(found.tensors["random.cuda"], device)
    return found.progress


def save(
    run: Path,
    metrics: Metrics,
    optimiser: SGD,
    plateau: Plateau,
    keep: int,
    kept: dict[str, Any],
    *,
    best: bool = False,
) -> None:
    """Write a checkpoint to go on from, and remove all but the `keep` latest; the net as the best too, if it is.

    Raises:
        DivergenceError: A weight is not finite, which the next loss would show; the checkpoints before stay.
    """
    at: Progress = kept["progress"]
    if not all(bool(weight.isfinite().all()) for weight in kept["net"].parameters()):
        raise DivergenceError(
            f"weights must stay finite; one is not after step {at.step}: {lower_rate(kept['recipe'])}"
        )
    at.metrics_bytes, at.plateau = metrics.length(), plateau.state()
    if best:
        checkpoint.save(run / "checkpoints" / "best.safetensors", **kept)
    checkpoint.save(run / "checkpoints" / f"step-{at.step:09d}.safetensors", optimiser=optimiser, **kept)
    for old in checkpoint.checkpoints(run)[:-keep]:
        old.unlink()

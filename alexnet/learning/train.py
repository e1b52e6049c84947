"""The training loop (section 6)."""

import contextlib
import dataclasses
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from alexnet.data.loader import Loader
from alexnet.data.store import Store
from alexnet.learning import checkpoint
from alexnet.learning.checkpoint import Progress
from alexnet.learning.measure import Errors, autocast, autocast_wanted, default_device, measure
from alexnet.learning.memory import keep_freed_memory
from alexnet.learning.schedule import Plateau, Rates, rates
from alexnet.learning.sgd import SGD
from alexnet.nets.alexnet import AlexNet
from alexnet.recipe import Recipe

STEPS_PER_LINE = 50  # steps between "step" lines in metrics.jsonl


class DivergenceError(ValueError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Outcome:
    """How a training ended: at its end or at a signal, after how much, and how good the net was then."""

    finished: bool
    epoch: int
    step: int
    best_error: float | None
    seconds: float
    signal: int | None = None


def train(
    store: str | Path | Store,
    run: str | Path,
    recipe: Recipe | None = None,
    *,
    device: str | torch.device | None = None,
    workers: int = 1,
    checkpoint_minutes: float = 10,
    keep: int = 2,
    tensorboard: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train a net on a prepared store, or go on where `run` stopped (section 6).

    On the CPU, with the same number of threads, a run that was stopped and resumed ends with bit for bit the weights
    of one that was not.

    Args:
        store: Folder that `prepare` made, or that store opened.
        run: Folder for recipe.json, metrics.jsonl and checkpoints/.
        recipe: What to train and how; None for the one `run` was begun with.
        device: Where; the first GPU or else the CPU by default.
        workers: Threads that make batches.
        checkpoint_minutes: Time between checkpoints within an epoch; one is also written after each epoch.
        keep: Number of checkpoints kept, beside the best one by validation error, which a store with "val" has.
        tensorboard: Whether to write TensorBoard event files too, to `run`/tensorboard.
        progress: Whether to tell of the progress on standard error.

    Returns:
        How it ended.

    Raises:
        ValueError: The recipe differs from the run's, or does not fit the store.
        DivergenceError: The loss is not finite.
        OSError: A file cannot be written; the last checkpoint stays.
    """
    run, device = Path(run), torch.device(device or default_device())
    store = store if isinstance(store, Store) else Store(store)
    if keep < 1:
        raise ValueError(f"keep must be at least 1, or there is nothing to go on from; got {keep}")
    recipe = settle_recipe(run, recipe, store)
    training, validation = store.split("train"), store.validation()
    loader = Loader(training, store.statistics, recipe, workers=workers)
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    net = AlexNet(len(store.classes), recipe.net).on(device)
    optimiser = SGD(groups(net, recipe), rate=recipe.learning_rate, momentum=recipe.momentum, decay=recipe.decay)
    at = resume(run, recipe, store, net, optimiser)
    plateau = Plateau(**at.plateau) if at.plateau else Plateau(recipe.patience, recipe.falls)
    kept: dict[str, Any] = {"recipe": recipe, "classes": store.classes, "statistics": store.statistics}
    kept |= {"net": net, "progress": at}

    with Metrics(run, at.metrics_bytes, tensorboard=tensorboard) as metrics, stopped_by_signal() as stop:
        if at.step == 0:
            metrics.write("start", **about(recipe, store, net, device))
        started = saved = time.monotonic()
        started -= at.seconds
        while not at.finished:
            # One epoch, from batch at.batch on. Whether colours are shifted is settled at its start.
            began, pictures, waited = time.monotonic(), at.totals.get("pictures", 0), loader.waited
            colour = rates(recipe, at.epoch, plateau).colour_shift
            batches = loader.batches(at.epoch, start=at.batch, colour=colour)
            losses = LateLosses(at)
            net.train()
            with contextlib.closing(batches), progress_bar(at, recipe, len(loader), shown=progress) as bar:
                for batch in batches:
                    now = rates(recipe, at.epoch + at.batch / len(loader), plateau)
                    set_rates(optimiser, now)
                    images = batch.images.to(device, non_blocking=True)  # (N, 3, 224, 224), channels_last
                    labels = batch.labels.to(device, non_blocking=True)  # (N,)
                    with autocast(device, recipe):
                        logits = net(images)  # (N, classes)
                    loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                    optimiser.zero_grad()
                    loss.backward()
                    losses.add(loss.detach(), (logits.argmax(1) != labels).sum(), len(labels), now)
                    optimiser.step()
                    at.step, at.batch = at.step + 1, at.batch + 1
                    bar.update()
                    if at.step % STEPS_PER_LINE == 0:
                        metrics.write("step", step=at.step, rate=max(now.weights.values()), loss=losses.latest())
                    if at.batch == len(loader):
                        break  # what follows is the end of the epoch, and saves
                    if stop.number or time.monotonic() - saved > 60 * checkpoint_minutes:
                        losses.settle()
                        at.seconds = time.monotonic() - started
                        save(run, metrics, optimiser, plateau, keep, kept)
                        saved = time.monotonic()
                    if stop.number:
                        return Outcome(False, at.epoch, at.step, at.best_error, at.seconds, stop.number)
            losses.settle()
            speed = (at.totals["pictures"] - pictures) / (time.monotonic() - began)

            # Evaluate, tell, save.
            found = measure(net, validation, store.statistics.mean, recipe)
            if not math.isfinite(found.log_prob):
                raise DivergenceError(divergence("log-probability", found.log_prob, at, now))
            at.seconds, at.epoch, at.batch = time.monotonic() - started, at.epoch + 1, 0
            if recipe.schedule == "plateau":
                plateau.observe(found.top1_error)
            at.finished = at.epoch >= recipe.epochs or plateau.ended
            line = summary(at, now, found, speed, loader.waited - waited)
            metrics.write("epoch", **line)
            if progress:
                tell(line, recipe)
            at.totals, best = {}, False
            if at.best_error is None or found.top1_error < at.best_error:
                at.best_error = found.top1_error
                best = validation.name == "val"  # test pictures choose nothing: there the last net stands
            save(run, metrics, optimiser, plateau, keep, kept, best=best)
            saved = time.monotonic()
            if stop.number and not at.finished:
                return Outcome(False, at.epoch, at.step, at.best_error, at.seconds, stop.number)
    return Outcome(True, at.epoch, at.step, at.best_error, at.seconds)


def progress_bar(at: Progress, recipe: Recipe, batches: int, *, shown: bool) -> Any:
    """A bar for the rest of the epoch, on a terminal only; it is gone when the epoch's line is printed."""
    return tqdm(
        desc=f"epoch {at.epoch + 1}/{recipe.epochs}",
        total=batches,
        initial=at.batch,
        unit="batch",
        leave=False,
        disable=not (shown and sys.stderr.isatty()),
    )


def divergence(name: str, value: float, at: Progress, now: Rates) -> str:
    """The message for a loss that is no number: where, at which rate, and what to try."""
    rate = max(now.weights.values())
    return (
        f"{name} must stay finite; got {value} in epoch {at.epoch + 1}, step {at.step}, at learning rate {rate:g}: "
        f"start a new run with a lower one, such as --set learning_rate={rate / 5:.1g}"
    )


class LateLosses:
    """The losses and errors of an epoch, each read back one step late so that the device need not be waited for."""

    def __init__(self, at: Progress) -> None:
        self.at = at
        self.pending: tuple[Tensor, Tensor, int, Rates] | None = None
        at.totals = at.totals or dict.fromkeys(("loss", "errors", "pictures", "recent_loss", "recent_steps"), 0.0)

    def add(self, loss: Tensor, wrong: Tensor, count: int, now: Rates) -> None:
        """Take a step's mean loss () and its number of errors () among `count` pictures."""
        self.settle()
        self.pending = (loss, wrong, count, now)

    def settle(self) -> None:
        """Read back what is pending.

        Raises:
            DivergenceError: The loss is not finite.
        """
        if self.pending is None:
            return
        loss, wrong, count, now = float(self.pending[0]), int(self.pending[1]), self.pending[2], self.pending[3]
        self.pending = None
        if not math.isfinite(loss):
            raise DivergenceError(divergence("loss", loss, self.at, now))
        sums = {"loss": loss * count, "errors": wrong, "pictures": count, "recent_loss": loss, "recent_steps": 1}
        for name, value in sums.items():
            self.at.totals[name] += value

    def latest(self) -> float:
        """The mean of the losses since the last call."""
        self.settle()
        totals = self.at.totals
        mean = totals["recent_loss"] / totals["recent_steps"]
        totals["recent_loss"] = totals["recent_steps"] = 0.0
        return mean


class Metrics:
    """metrics.jsonl, a line per event, cut to what the checkpoint knows of; TensorBoard's files beside it if asked."""

    def __init__(self, run: Path, length: int, *, tensorboard: bool) -> None:
        self.path = run / "metrics.jsonl"
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError("--tensorboard needs a package: pip install 'alexnet[tensorboard]'") from error
            self.board = SummaryWriter(str(run / "tensorboard"))
        self.file: TextIO = self.path.open("a", encoding="utf-8")
        # Lines after the checkpoint are cut off; a file that has lost some stays as it is.
        self.file.truncate(min(length, self.length()))

    def write(self, event: str, **values: Any) -> None:
        """Add a line."""
        self.file.write(json.dumps({"event": event, **values}) + "\n")
        self.file.flush()
        for name, value in values.items() if self.board else ():
            if isinstance(value, (int, float)) and name != "step":
                self.board.add_scalar(f"{event}/{name}", value, values.get("step", 0))

    def length(self) -> int:
        """Bytes written."""
        return self.path.stat().st_size

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board:
            self.board.close()


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
    """The recipe of a run: written to recipe.json by the first training, held to by later ones."""
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
    if begun is None:
        if run.exists() and (not run.is_dir() or {p.name for p in run.iterdir()} - {"recipe.writing"}):
            raise ValueError(
                f"run {run} must be a new or empty folder, or a run; it holds other things: use another RUN"
            )
        run.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".writing")
        beside.write_text(settled.to_json() + "\n", encoding="utf-8")
        beside.replace(path)
    return settled


def groups(net: AlexNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for `SGD`: each layer's weights with its decay, each layer's biases with none (section 6)."""
    named = [(name, layer) for name, layer in net.layers().items()]
    weights = [
        {"params": [layer.weight], "layer": name, "kind": "weights", "decay": recipe.decays.get(name, recipe.decay)}
        for name, layer in named
    ]
    return weights + [{"params": [la.bias], "layer": name, "kind": "biases", "decay": 0.0} for name, la in named]


def set_rates(optimiser: SGD, now: Rates) -> None:
    """Give every group of `groups` its rate."""
    for group in optimiser.param_groups:
        group["rate"] = getattr(now, group["kind"])[group["layer"]]


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
    if torch.cuda.is_available() and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(found.tensors["random.cuda"])
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
            f"weights must stay finite; one is not at step {at.step}: start a new run with a lower rate"
        )
    at.metrics_bytes, at.plateau = metrics.length(), plateau.state()
    if best:
        checkpoint.save(run / "checkpoints" / "best.safetensors", **kept)
    checkpoint.save(run / "checkpoints" / f"step-{at.step:09d}.safetensors", optimiser=optimiser, **kept)
    for old in checkpoint.checkpoints(run)[:-keep]:
        old.unlink()


def about(recipe: Recipe, store: Store, net: AlexNet, device: torch.device) -> dict[str, Any]:
    """The facts of the first line of metrics.jsonl."""
    return {
        "store": str(store.path.resolve()),
        "classes": len(store.classes),
        "train_pictures": len(store.split("train")),
        "validation_pictures": len(store.validation()),
        "validation_split": store.validation().name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "bfloat16": autocast_wanted(device, recipe),
        "torch": torch.__version__,
        "seed": recipe.seed,
    }


def summary(at: Progress, now: Rates, found: Errors, speed: float, waited: float) -> dict[str, Any]:
    """What an epoch's line of metrics.jsonl says."""
    return {
        "epoch": at.epoch,
        "step": at.step,
        "rate": max(now.weights.values()),
        "train_loss": at.totals["loss"] / at.totals["pictures"],
        "train_error": at.totals["errors"] / at.totals["pictures"],
        "val_top1_error": found.top1_error,
        "val_top5_error": found.top5_error,
        "val_log_prob": found.log_prob,
        "pictures_per_second": speed,
        "waited_seconds": waited,
        "seconds": at.seconds,
    }


def tell(line: dict[str, Any], recipe: Recipe) -> None:
    """Print an epoch's progress line on standard error."""
    left = timedelta(seconds=round(line["seconds"] / line["epoch"] * (recipe.epochs - line["epoch"])))
    tqdm.write(
        f"epoch {line['epoch']:3d}/{recipe.epochs}  rate {line['rate']:.2g}  loss {line['train_loss']:.4f}  "
        f"train error {line['train_error']:.2%}  validation error {line['val_top1_error']:.2%} "
        f"(top-5 {line['val_top5_error']:.2%})  {line['pictures_per_second']:.0f} pictures/s  "
        f"{left} left",
        file=sys.stderr,
    )

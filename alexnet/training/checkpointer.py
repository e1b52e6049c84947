"""Saving a training to its run's folder, and resuming it from there."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alexnet.data.store.statistics import Statistics
from alexnet.data.store.store import Store
from alexnet.distributed.team import Team
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import (
    Checkpoint,
    TrainState,
    checkpoint_name,
    gather_tensors,
    load_checkpoint,
    save_checkpoint,
)
from alexnet.training.divergence import DivergenceError, advise_lower_rate, weights_not_finite
from alexnet.training.metrics import MetricsWriter, machine_metrics
from alexnet.training.schedule import Schedule
from alexnet.training.sgd import SGD
from alexnet.utils.checksums import checksum
from alexnet.utils.files import exclusive_lock, write_atomic


class Checkpointer:
    """Writes the checkpoints of a run, and loads the latest one.

    Args:
        run: The run's folder.
        recipe: The recipe.
        store: The store that is trained on.
        statistics: The statistics that the training uses: the store's, perhaps with another run's mean activity.
        net, optimiser: This process's shard of what is trained.
        team: The processes that train together.
        keep: How many checkpoints to keep, besides the best one.
        minutes: Time between two checkpoints within an epoch.
        keep_epoch: Whether to keep the checkpoint of the last epoch's end, too, to go back to after a divergence.
    """

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        store: Store,
        statistics: Statistics,
        net: AlexNet,
        optimiser: SGD,
        team: Team,
        *,
        keep: int,
        minutes: float,
        keep_epoch: bool = False,
    ) -> None:
        self.run, self.recipe, self.store, self.statistics, self.team = run, recipe, store, statistics, team
        self.net, self.optimiser = net, optimiser
        self._keep, self._minutes, self._last_save = keep, minutes, time.monotonic()
        self._keep_epoch = keep_epoch

    def is_due(self) -> bool:
        """Return whether it is time for a checkpoint; the main process decides."""
        return self.team.is_main and time.monotonic() - self._last_save > 60 * self._minutes

    def save(self, state: TrainState, schedule: Schedule, metrics: MetricsWriter, *, best: bool = False) -> None:
        """Write a checkpoint to resume from, and remove the oldest ones. All processes must call this.

        Args:
            state: The state of the training.
            schedule: The schedule, whose state is saved too.
            metrics: The metrics written so far; on resuming, later lines are removed.
            best: Whether to write the net as the best one, too.

        Raises:
            DivergenceError: A weight is not finite, which the next loss would show; the checkpoints before remain.
        """
        names = weights_not_finite(self.net)
        if not self.team.all_agree(not names):
            raise DivergenceError(
                f"weights must stay finite; {names[0] if names else 'one'} is not after step {state.step}",
                state.step,
                advise_lower_rate(self.recipe, state),
            )
        self.team.watchdog.report_progress(state.step, "saving")
        tensors = gather_tensors(self.net, self.optimiser, self.team)
        with self.team.raise_together():
            if self.team.is_main:
                state = dataclasses.replace(state, metrics_bytes=metrics.length(), **schedule.state_dict())
                self._write(tensors, state, best)
        self._last_save = time.monotonic()

    def _write(self, tensors: dict[str, Tensor], state: TrainState, best: bool) -> None:
        folder = self.run / "checkpoints"
        metrics = (self.run / "metrics.jsonl").read_bytes()[: state.metrics_bytes]
        checksums = {"recipe.json": checksum((self.run / "recipe.json").read_bytes())}
        checksums["metrics.jsonl"] = checksum(metrics)
        files = {checkpoint_name(state.step): tensors}
        if best:  # written first: if the process is killed in between, the epoch is repeated
            net = {name: tensor for name, tensor in tensors.items() if name.startswith("net.")}
            files = {"best.safetensors": net} | files
        for name, contents in files.items():
            save_checkpoint(
                folder / name,
                contents,
                recipe=self.recipe,
                classes=self.store.classes,
                statistics=self.statistics,
                state=state,
                class_ids=self.store.class_ids,
                files=checksums,
            )
        self._remove_oldest(state)

    def _remove_oldest(self, state: TrainState) -> None:
        for old in list_checkpoints(self.run)[: -self._keep]:
            if not (self._keep_epoch and old.name == checkpoint_name(state.epoch_step)):
                old.unlink()

    def resume(self) -> TrainState:
        """Load the latest checkpoint into net, optimiser and random state. All processes must call this.

        Returns:
            The state of the training: that of the checkpoint, or of a new training if there is none.

        Raises:
            ValueError: The checkpoint is damaged, or of another recipe or store.
        """
        team, checkpoint = self.team, None
        with team.raise_together():
            if team.is_main:
                checkpoint = _load_latest(self.run, self.recipe, self.store, self.statistics)
                # A kill between writing and removing leaves one too many. Where there are more, an earlier training was
                # to keep them.
                excess = len(list_checkpoints(self.run)) - self._keep
                if checkpoint and excess <= 1 + self._keep_epoch:
                    self._remove_oldest(checkpoint.state)
        state: TrainState | None = team.broadcast(checkpoint.state if checkpoint else None)
        if state is None:
            return TrainState()
        weights = dict(self.net.named_parameters())
        team.scatter(checkpoint.with_prefix("net") if checkpoint else None, weights)
        learning = {name: weight for name, weight in weights.items() if weight.requires_grad}
        velocities = {name: self.optimiser.velocity(weight) for name, weight in learning.items()}
        team.scatter(checkpoint.with_prefix("velocity") if checkpoint else None, velocities)
        # The same in all processes, since they draw the same dropout masks.
        random_state = team.broadcast(checkpoint.with_prefix("random") if checkpoint else None)
        torch.set_rng_state(random_state["cpu"])
        if team.device.type == "cuda" and "cuda" in random_state:
            torch.cuda.set_rng_state(random_state["cuda"], team.device)
        return state


def _load_latest(run: Path, recipe: Recipe, store: Store, current: Statistics) -> Checkpoint | None:
    """Load the latest checkpoint of a run, None if there is none, and check that it fits recipe and store."""
    (run / "checkpoints").mkdir(exist_ok=True)
    # Left by a process that was killed: by `save_checkpoint`, and by safetensors, which has temporary names of its own.
    for pattern in (".*.writing", ".tmp*"):
        for unfinished in (run / "checkpoints").glob(pattern):
            unfinished.unlink()
    paths = list_checkpoints(run)
    if not paths:
        return None
    checkpoint = load_checkpoint(paths[-1])
    saved = checkpoint.statistics
    if saved.count == 0:
        raise ValueError(
            f"run {run} must be one that `alexnet train` has begun; its net was imported: train a new run with "
            f"`start_from={run}`"
        )
    same = checkpoint.classes == store.classes and saved.count == current.count
    # The mean activity may be another run's; the covariance of the colours is the store's own.
    arrays = ((saved.mean, current.mean), (saved.covariance, current.covariance))
    if not same or not all(np.array_equal(*pair) for pair in arrays):
        raise ValueError(
            f"run {run} must be resumed with the store it was begun with; {store.path} holds other pictures"
        )
    if checkpoint.recipe != recipe:
        raise ValueError(f"{paths[-1]} is of another recipe than {run / 'recipe.json'}: use another RUN folder")
    return checkpoint


@contextlib.contextmanager
def open_run(checkpointer: Checkpointer, tensorboard: bool) -> Iterator[tuple[TrainState, MetricsWriter]]:
    """Lock a run's folder, and resume its training or begin a new one.

    Args:
        checkpointer: The run's checkpointer.
        tensorboard: Whether to write TensorBoard event files, too.

    Yields:
        The state of the training and the writer of its metrics.

    Raises:
        ValueError: Another process has locked the folder; or as `Checkpointer.resume`.
    """
    run, team = checkpointer.run, checkpointer.team
    with contextlib.ExitStack() as stack:
        with team.raise_together():
            if team.is_main:
                stack.enter_context(exclusive_lock(run))
                if not list_checkpoints(run):  # that of a start that failed is replaced
                    write_atomic(run / "recipe.json", f"{checkpointer.recipe.to_json()}\n".encode())
        state = checkpointer.resume()
        with team.raise_together():
            folder = run if team.is_main else None
            metrics = MetricsWriter(folder, state.metrics_bytes, state.step, tensorboard=tensorboard)
        stack.enter_context(metrics)
        if state.metrics_bytes and not state.finished:
            machine = machine_metrics(checkpointer.recipe, team)
            metrics.write("resume", epoch=state.epoch, step=state.step, **machine)
        yield state, metrics

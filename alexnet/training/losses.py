"""The losses and errors of the steps of an epoch, added up without waiting for the GPU."""

from typing import NamedTuple

import torch
from torch import Tensor

from alexnet.distributed.team import Team
from alexnet.recipe import Recipe
from alexnet.training.checkpoint import TrainState
from alexnet.training.divergence import check_finite
from alexnet.training.signals import StopRequest

_TOTALS = ("loss", "errors", "pictures", "recent_loss", "recent_steps")


class _Step(NamedTuple):
    """A step whose values have not been read yet.

    Args:
        values: (4,) float64 on the CPU: mean loss, errors, and how many processes request a stop and a checkpoint.
        copied: When the GPU has written the values; None if they are there.
        pictures: Pictures of the batch.
        step: Number of the step.
        rate: Learning rate of the step.
    """

    values: Tensor
    copied: torch.cuda.Event | None
    pictures: int
    step: int
    rate: float


class DelayedLosses:
    """Adds up the losses and errors of an epoch, over all processes.

    On a GPU the values of each step are read one step later: the loop need not wait, and the GPU always has work.

    Processes send requests to stop or to save along with them, so that all follow a request after the same step.

    Args:
        state: The state of the training; its totals are updated.
        recipe: The recipe.
        team: The processes.
        stop: This process's request to stop; `agreed` is set when any process's request has been read.

    Attributes:
        save_requested: Whether a process's request to save has been read; the caller resets it.
    """

    def __init__(self, state: TrainState, recipe: Recipe, team: Team, stop: StopRequest) -> None:
        self.state, self.recipe, self.team, self.stop = state, recipe, team, stop
        self.save_requested = False
        self._pending: _Step | None = None
        state.totals = state.totals or dict.fromkeys(_TOTALS, 0.0)

    def add(self, loss: Tensor, errors: Tensor, pictures: int, rate: float, *, save: bool) -> None:
        """Add a step.

        Args:
            loss: (), this process's share of the mean loss.
            errors: (), the number of errors among this process's pictures.
            pictures: Pictures of the whole batch.
            rate: Learning rate of the step.
            save: Whether this process requests a checkpoint.
        """
        metrics = torch.stack([loss.double(), errors.double()]) * self.team.adds_metrics
        # The requests are filled in on the device: a copy would wait for all work that is queued there.
        requests = [metrics.new_full((1,), float(flag)) for flag in (self.stop.signal is not None, save)]
        values, copied = self.team.all_reduce(torch.cat([metrics, *requests])), None
        if values.is_cuda:  # copied when they are ready; meanwhile the device runs the next step
            values = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self.read_pending()
        self._pending = _Step(values, copied, pictures, self.state.step, rate)
        if copied is None:
            self.read_pending()

    def read_pending(self) -> None:
        """Read the values of the last step, if they have not been read.

        Raises:
            DivergenceError: The loss is not finite.
        """
        if self._pending is None:
            return
        values, copied, pictures, step, rate = self._pending
        self._pending = None
        if copied is not None:
            copied.synchronize()
        loss, errors, stops, saves = values.tolist()
        check_finite("loss", loss, self.recipe, self.state, step=step, rate=rate)
        self.stop.agreed, self.save_requested = self.stop.agreed or stops > 0, saves > 0
        for name, value in zip(_TOTALS, (loss * pictures, errors, pictures, loss, 1), strict=True):
            self.state.totals[name] += value

    def describe(self) -> str:
        """Return the mean loss of the epoch so far in words; "" before a step has been read."""
        totals = self.state.totals
        return f"loss {totals['loss'] / totals['pictures']:.3f}" if totals["pictures"] else ""

    def recent_mean(self) -> float:
        """Return the mean loss of the steps since the last call, as far as they have been read."""
        totals = self.state.totals
        if not totals["recent_steps"]:
            self.read_pending()
        mean = totals["recent_loss"] / totals["recent_steps"]
        totals["recent_loss"] = totals["recent_steps"] = 0.0
        return mean

"""The metrics of a run as an answer: all epochs, and at most so many points for the steps."""

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet.results.run_history import RunHistory
from alexnet.web.schemas import CurvesResponse, EpochResponse, StepResponse

_MAX_POINTS = 400


def curves_response(run: Path, history: RunHistory) -> CurvesResponse:
    """Return the course of a training so far.

    Args:
        run: The folder of the run.
        history: Its metrics.
    """
    written = (run / "metrics.jsonl").stat().st_mtime
    return CurvesResponse(
        max_epochs=history.recipe.epochs,
        seconds_ago=max(0.0, time.time() - written),
        imported=bool(history.origin),
        classes=int(history.start.get("classes", 0)),
        epochs=[_epoch_response(history, line) for line in history.epochs],
        steps=_thin(history),
    )


def _epoch_response(history: RunHistory, line: dict[str, Any]) -> EpochResponse:
    return EpochResponse(
        epoch=line["epoch"],
        split=history.split_of(line),
        train_loss=_finite(line.get("train_loss")),
        train_error=_finite(line.get("train_error")),
        top1_error=_finite(line.get("val_top1_error")),
        top5_error=_finite(line.get("val_top5_error")),
        log_prob=_finite(line.get("val_log_prob")),
        seconds=_finite(line.get("seconds")),
    )


def _thin(history: RunHistory) -> list[StepResponse]:
    """Return the lines of the steps, means of neighbours if there are many."""
    size = max(1, math.ceil(len(history.steps) / _MAX_POINTS))
    groups = [history.steps[start : start + size] for start in range(0, len(history.steps), size)]
    return [
        StepResponse(
            epoch=history.epoch_of(group[-1]),
            loss=_mean([line.get("loss") for line in group]),
            rate=_finite(group[-1].get("rate")),
        )
        for group in groups
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in map(_finite, values) if value is not None]
    return statistics.fmean(finite) if finite else None


def _finite(value: float | None) -> float | None:
    """Return a number, or None in place of one that JSON does not have."""
    return float(value) if value is not None and math.isfinite(value) else None

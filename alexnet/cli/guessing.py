"""Say when a finished training is no better than guessing, and what to try."""

from pathlib import Path

import numpy as np

from alexnet.data.store.store import Store
from alexnet.results.run_history import RunHistory
from alexnet.training.error_rates import split_adjective
from alexnet.training.train import Outcome
from alexnet.utils.intervals import format_error_rate, wilson_interval


def describe_guessing(run: Path, store: Store, outcome: Outcome) -> str | None:
    """Return a line that says so if a net is no better than always naming the most frequent class; else None.

    Args:
        run: The run.
        store: What it was trained on.
        outcome: How the training ended.
    """
    labels = store.split(outcome.split).labels
    guess = 1 - float(np.bincount(labels).max()) / len(labels)
    if outcome.error is None or wilson_interval(outcome.error, outcome.images)[1] < guess:
        return None
    epoch = RunHistory.read(run).epochs[-1]
    train_error = epoch["train_error"]
    measured = format_error_rate(train_error, epoch.get("train_images", len(store.split("train"))))
    if train_error < guess / 2:
        reason = f"it knows its training pictures (error {measured}) but no others"
        remedy = f"try more pictures, or `alexnet train {store.path} NEW_RUN --from RUN` from a trained net"
    else:
        reason = f"it has not learned its training pictures either (error {measured})"
        remedy = "try more epochs, another learning rate, or start --from a trained net (docs/finetuning.md)"
    return (
        f"{run} is no better than guessing: always naming the most frequent class has an error of {100 * guess:.0f} % "
        f"on these {outcome.images:,} {split_adjective(outcome.split)} pictures; {reason}: {remedy}"
    )

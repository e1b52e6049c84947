"""The errors of a run's net that were measured already: by its report (RUN/results.json), or during the training."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.data.store.location import parse_location
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import Checkpoint
from alexnet.training.error_rates import ErrorRates
from alexnet.utils.checksums import BLANK_CHECKSUM, seal
from alexnet.utils.files import write_atomic


@dataclass(frozen=True)
class MeasuredErrors:
    """The errors of a net on the pictures of a split.

    Args:
        store: Name of the store.
        split: Name of the split.
        views: Views per picture.
        rates: The errors.
        chosen_on_split: Whether the epoch of the net was chosen by the error on these pictures.
    """

    store: str
    split: str
    views: int
    rates: ErrorRates
    chosen_on_split: bool


def save_results(run: Path, checkpoint: Checkpoint, results: Sequence[MeasuredErrors]) -> None:
    """Write RUN/results.json.

    Args:
        run: The run's folder.
        checkpoint: The net whose errors these are.
        results: The errors, for each number of views.
    """
    errors = [
        {"store": r.store, "split": r.split, "views": r.views, "chosen_on_split": r.chosen_on_split, **vars(r.rates)}
        for r in results
    ]
    content = {"step": checkpoint.state.step, "errors": errors, "checksum": BLANK_CHECKSUM}
    write_atomic(run / "results.json", seal(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"))


def load_measured_errors(run: Path, checkpoint: Checkpoint) -> list[MeasuredErrors]:
    """Return the errors of a net: those of the run's report, or else those measured after its epoch; none if neither.

    A report is left out if it was written for another step of the training.
    """
    return _errors_of_report(run, checkpoint) or _errors_of_epoch(run, checkpoint)


def _errors_of_report(run: Path, checkpoint: Checkpoint) -> list[MeasuredErrors]:
    path = run / "results.json"
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["step"] != checkpoint.state.step:
            return []
        return [
            MeasuredErrors(
                rates=ErrorRates(**{f.name: line[f.name] for f in dataclasses.fields(ErrorRates) if f.name in line}),
                **{name: line[name] for name in ("store", "split", "views", "chosen_on_split")},
            )
            for line in content["errors"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be a file of `alexnet report`; it cannot be read ({error}): run `alexnet report {run}` again"
        ) from error


def _errors_of_epoch(run: Path, checkpoint: Checkpoint) -> list[MeasuredErrors]:
    if checkpoint.state.batch or not (run / "metrics.jsonl").exists():
        return []  # stopped within an epoch, or a net of another program
    history = RunHistory.read(run)
    for line in history.epochs:
        if line["epoch"] == checkpoint.state.epoch:
            split = line.get("split", history.start["validation_split"])
            images = line.get("images", history.start["validation_pictures"])
            top1, top5, log_prob = (line[f"val_{name}"] for name in ("top1_error", "top5_error", "log_prob"))
            rates = ErrorRates(
                images, top1, top5, log_prob, line.get("val_macro_error"), line.get("val_macro_interval")
            )
            chosen = split == "val" and not checkpoint.recipe.folds_in_validation
            store = parse_location(history.start["store"]).name
            return [MeasuredErrors(store, split, 1, rates, chosen)]
    return []

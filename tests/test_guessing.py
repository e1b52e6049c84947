"""A training that ends no better than guessing says so, and what to try."""

import json
from pathlib import Path

import numpy as np
import pytest

from alexnet.cli.guessing import describe_guessing
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.training.train import Outcome


def outcome(error: float) -> Outcome:
    """Return a finished training with this error on the 20 validation pictures of the test's store."""
    return Outcome(True, 1, 5, error, 1.0, images=20)


@pytest.mark.parametrize(
    ("train_error", "expected"),
    [
        (0.65, "has not learned its training pictures either (error 65.0 % (55.3 to 73.6)): try"),
        (0.02, "it knows its training pictures (error 2.0 % (0.6 to 7.0)) but no others: try"),
    ],
)
def test_guessing_is_named_with_what_to_try(store: Path, tmp_path: Path, train_error: float, expected: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.json").write_text(Recipe().to_json())
    lines = [{"event": "start"}, {"event": "epoch", "epoch": 1, "train_error": train_error, "train_images": 100}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    opened = Store(store)
    guess = 1 - np.bincount(opened.split("val").labels).max() / 20
    line = describe_guessing(run, opened, outcome(guess))
    assert line is not None
    assert f"an error of {100 * guess:.0f} % on these 20 validation pictures" in line
    assert expected in line
    assert "--from" in line
    assert describe_guessing(run, opened, outcome(0.1)) is None

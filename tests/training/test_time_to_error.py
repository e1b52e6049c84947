"""`benchmarks/time_to_error.py` on small nets: its epochs and seconds are those of the runs' metrics."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import read_metrics

from alexnet.results.evaluate import evaluate

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "time_to_error.py"
SETTINGS = ("store_size=32", "net.image_size=32", "net.conv2=null", "net.fc6.units=16", "net.fc7.units=16", "epochs=3")
pytestmark = pytest.mark.usefixtures("one_thread")


def measure(store: Path, folder: Path, error: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the benchmark on two recipes made small; return its rows."""
    options = [option for setting in SETTINGS for option in ("--set", setting)]
    arguments = [str(store), str(folder), "--recipes", "tiny", "photos-before", "--error", str(error), *options]
    monkeypatch.syspath_prepend(SCRIPT.parent)  # for benchmarks/common
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--json", str(folder / "json")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows: dict[str, Any] = json.loads((folder / "json").read_text(encoding="utf-8"))["recipes"]
    return rows


def test_an_error_is_reached_after_the_first_epoch_that_has_it(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measure(store, tmp_path, 0.0, monkeypatch)
    assert capsys.readouterr().out.count("lowest") == len(rows) == 2
    errors = {}
    for name, row in rows.items():
        errors[name] = [line["val_top1_error"] for line in read_metrics(tmp_path / name, "epoch")]
        assert (row["epochs"], row["seconds"], row["all_epochs"]) == (None, None, 3)
        assert (row["one_view"], row["lowest"]) == (errors[name][-1], min(errors[name]))
        assert row["all_views"] == evaluate(tmp_path / name, store, views=10)["top1_error"]

    error = errors["tiny"][1]
    before = {path: path.read_text() for path in tmp_path.glob("*/metrics.jsonl")}
    row = measure(store, tmp_path, error, monkeypatch)["tiny"]
    assert before == {path: path.read_text() for path in before}  # nothing is trained again
    assert row["epochs"] == 1 + next(n for n, value in enumerate(errors["tiny"]) if value <= error)
    assert 0 < row["seconds"] <= row["all_seconds"]

"""docs/json.md has every key of the JSON that commands print and that runs contain, and no others."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagenet_files import write_meta
from PIL import Image
from source_code import ROOT

from alexnet.cli import main
from alexnet.data.store.store import Store
from alexnet.experiments.result import ExperimentResult, ResultRow
from alexnet.results.retrieval import build_index

TEXT = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")


def documented(title: str, table: int = 0) -> set[str]:
    """Return the keys in the first column of a table of a section."""
    section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = re.split(r"\| key \| means \|\n\| --- \| --- \|\n", section)[table + 1]
    first_cells = re.findall(r"^\| (`.*?) \| ", rows.split("\n\n")[0], re.MULTILINE)
    return {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


def keys(objects: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the keys of objects, all together."""
    return {key for each in objects for key in each}


@pytest.fixture
def picture(store: Path, tmp_path: Path) -> Path:
    """A file with a picture of the store."""
    Image.fromarray(Store(store).split("val").image(0)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_evaluate(uninterrupted: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = dict(zip(("n00000001", "n00000002", "n00000003"), Store(store).classes, strict=True))
    write_meta(tmp_path / "meta.mat", classes, 2010, costs=1 - np.eye(3))
    command = ["evaluate", str(uninterrupted), str(uninterrupted), str(store), "--json", "--views", "1"]
    names = ["--per-class", "-", "--predictions", "-", "--confusion", "-", "--cost-matrix", str(tmp_path / "meta.mat")]
    assert main([*command, *names, "--weights-on", "train"]) == 0
    result = json.loads(capsys.readouterr().out)
    title = "`alexnet evaluate --json`"
    assert set(result) == documented(title)
    assert keys(result["per_class"]) == documented(title, 1)
    assert keys(result["predictions"]) == documented(title, 2)
    assert keys(result["calibration_bins"]) == {"low", "high", "images", "confidence", "accuracy"}


def test_predict_and_similar(
    uninterrupted: Path, store: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    for path in uninterrupted.iterdir():
        (tmp_path / "run" / path.name).symlink_to(path)
    build_index(tmp_path / "run", store, bits=16, progress=False)
    results = {}
    for name in ("predict", "similar"):
        status = {"predict": 0, "similar": 2}[name]
        options = ["--json", *(["--explain", str(tmp_path / "why")] if name == "predict" else [])]
        assert main([name, str(tmp_path / "run"), str(picture), str(tmp_path / "none.png"), *options]) == status
        results[name] = json.loads(capsys.readouterr().out)
        assert keys(results[name]) == documented(f"`alexnet {name} --json`")
    assert keys(results["predict"][0]["predictions"]) == {"class", "probability"}
    assert keys(results["similar"][0]["similar"]) == documented("`alexnet similar --json`", 1)


def test_metrics(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    title = "`RUN/metrics.jsonl`"
    for table, event in ((0, "start"), (2, "step"), (3, "epoch"), (4, "end")):
        optional = {"from", "taken", "hours"} if event == "start" else set()
        assert keys(line for line in lines if line["event"] == event) == documented(title, table) - optional
    resumed = documented(title, 1)  # tests/training/test_resume.py compares them
    assert resumed - {"event", "epoch", "step"} == documented(title) & resumed - {"event"}


def test_results(uninterrupted: Path, store: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    assert main(["report", str(run), "--data", str(store)]) == 0
    contents = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert set(contents) == documented("`RUN/results.json`")
    assert keys(contents["errors"]) == documented("`RUN/results.json`", 1)


def test_findings(tmp_path: Path) -> None:
    ExperimentResult("T", "On x.", ("m",), [ResultRow("a", (1.0,), ((2.0,),), images=9)]).write(tmp_path)
    contents = json.loads((tmp_path / "finding.json").read_text(encoding="utf-8"))
    assert set(contents) == documented("`finding.json` of `alexnet reproduce`")
    assert keys(contents["rows"]) == documented("`finding.json` of `alexnet reproduce`", 1)

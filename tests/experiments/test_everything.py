"""`reproduce all`: which experiments the stores allow, the time, equal nets, and the page of results."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import write_store
from small_experiments import RECIPE, record_trainings

from alexnet.cli import main
from alexnet.data.store.store import Store
from alexnet.experiments import EXPERIMENTS, everything, reproduce
from alexnet.experiments.experiment import Experiment, OutOfTimeError
from alexnet.experiments.findings_page import mark_code, parse_finding
from alexnet.experiments.paper_datasets import CIFAR10, PaperDataset
from alexnet.training.signals import stop_at
from alexnet.utils.files import FolderInUseError, exclusive_lock

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_stores_decide_which_experiments_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stores").mkdir()
    write_store(tmp_path / "stores/small", size=64, train=6, val=3)
    write_store(tmp_path / "stores/large", size=64, train=12, val=3)
    write_store(tmp_path / "stores/odd", size=40, train=30, val=3)
    stores = everything.find_stores(tmp_path / "stores")
    assert [store.path.name for store in stores] == ["large", "odd", "small"]
    assert [store.path.name for store in everything.find_stores(tmp_path / "stores/odd")] == ["odd"]
    plan = {planned.name: planned for planned in everything.plan_experiments(stores)}
    assert list(plan) == [name for name in everything.ORDER if name not in ("figure1", "cifar-normalisation")]
    assert (plan["figure2"].store, plan["claims"].store) == (None, tmp_path / "stores/large")
    assert {planned.recipe.store_size for planned in plan.values() if planned.recipe} == {64}
    drawn = PaperDataset("drawn", 3, 30, "", size=40, val=3)
    monkeypatch.setattr(everything, "CIFAR10", drawn)
    plan = {planned.name: planned for planned in everything.plan_experiments(stores)}
    assert (plan["figure1"].store, plan["figure1"].recipe) == (tmp_path / "stores/odd", None)
    assert set(everything.ORDER) | {"ablations"} == set(EXPERIMENTS)  # whose nets are among those of the claims
    assert not CIFAR10.matches(stores[0])


def test_time_failures_and_results_are_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    write_store(tmp_path / "stores/large", size=64, train=12, val=3)
    calls = []

    def run(name: str, folder: Path, data: Path | None, **options: Any) -> None:
        calls.append(name)
        assert (options["deadline"] > time.monotonic(), options.get("epochs", 1)) == (True, 1)
        if name == "figure2":
            reproduce(name, folder, data)
        if name == "figure3":
            raise ValueError("the first\nreason")
        if name == "figure4":
            raise OutOfTimeError

    page = everything.reproduce_all(tmp_path / "out", tmp_path / "stores", minutes=5, epochs=1, run=run)
    assert calls == [name for name in everything.ORDER if name not in ("figure1", "cifar-normalisation")]
    text = page.read_text(encoding="utf-8")
    for state in (">finished<", ">failed: the first reason<", ">begun: the time is over", ">not possible: no store"):
        assert state in text
    assert "<td>290400</td>" in text
    assert 'src="data:image/png;base64,' in text
    calls.clear()
    everything.reproduce_all(tmp_path / "out", tmp_path / "stores", minutes=1e-9, epochs=1, run=run)
    assert calls == []
    assert ">not begun: the time was over<" in page.read_text(encoding="utf-8")


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--data", str(tmp_path / "empty")], "must have stores in it; there is none: make one with alexnet prepare"),
        (["--data", str(tmp_path / "empty"), "--minutes", "0"], "--minutes must be above 0; got 0\n"),
        (["--data", str(tmp_path / "empty"), "--recipe", "tiny"], "--recipe must be left out with all; got 'tiny'"),
        ([], "--data must be a store or a folder of stores, for all; got None"),
    ):
        assert main(["reproduce", "all", "--folder", str(tmp_path / "out"), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_deadline_stops_a_training_which_can_be_resumed(store: Path, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "x", Store(store), None, deadline=time.monotonic())
    with pytest.raises(OutOfTimeError):
        experiment.train("net", RECIPE, progress=False)
    trained = Experiment(tmp_path / "x", Store(store), None).train("net", RECIPE, progress=False)
    assert (trained / "checkpoints/best.safetensors").exists()


def test_the_signal_of_a_deadline_does_not_end_the_process_outside_a_training() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with stop_at(time.monotonic() + 0.01):
        time.sleep(0.05)
    with stop_at(None):
        pass
    assert signal.getsignal(signal.SIGTERM) == handler


def test_equal_nets_of_two_experiments_are_trained_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    reproduce("figure3", tmp_path, store, recipe=RECIPE, epochs=1, seeds=1)
    reproduce("table1", tmp_path, store, recipe=RECIPE, epochs=1, seeds=2)
    assert trained == ["net-0", "cnn-1"]
    reproduce(
        "table1",
        tmp_path,
        store,
        recipe=RECIPE,
        epochs=2,
        seeds=1,
    )
    assert trained == ["net-0", "cnn-1", "cnn-0"]


def test_a_net_that_another_experiment_has_begun_is_resumed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    reproduce("figure3", tmp_path / "first", store, recipe=RECIPE, epochs=1, seeds=1)
    begun = tmp_path / "second/claims/the-net-0"
    begun.mkdir(parents=True)
    for name in ("recipe.json", "metrics.jsonl"):
        first_line, *_ = (tmp_path / "first/figure3/net-0" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (begun / name).write_text(first_line, encoding="utf-8")
    shutil.copy(tmp_path / "first/figure3/net-0/recipe.json", begun)
    with exclusive_lock(begun), pytest.raises(FolderInUseError):  # another process trains it
        reproduce("figure3", tmp_path / "second", store, recipe=RECIPE, epochs=1, seeds=1)
    reproduce("figure3", tmp_path / "second", store, recipe=RECIPE, epochs=1, seeds=1)
    assert trained == ["net-0", "the-net-0"]
    assert not (tmp_path / "second/figure3/net-0").exists()


def test_a_finding_is_parsed_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    lines = ["# T", "", "    command", "", "Text.", "", "| a | b |", "| --- | --- |", "| 1 | `x` |", "", "- note", ""]
    title, blocks = parse_finding("\n".join([*lines, "![a](a.png)", "![b](none.png)"]), tmp_path)
    assert title == "T"
    assert [block.kind for block in blocks] == ["command", "text", "table", "note", "picture"]
    assert blocks[2].rows == (("a", "b"), ("1", "`x`"))
    assert mark_code("a<b `x<y` c") == "a&lt;b <code>x&lt;y</code> c"
    assert mark_code("one ` only") == "one ` only"
    assert blocks[4].source == "data:image/png;base64,cG5n"

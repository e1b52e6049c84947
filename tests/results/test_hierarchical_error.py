"""The hierarchical error of ILSVRC-2010, by a development kit's file in its true format."""

import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_net, write_store
from imagenet_files import write_meta

from alexnet.cli import main
from alexnet.data.store.class_ids import ClassIds
from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results.hierarchical_error import find_costs, hierarchical_error, read_costs
from alexnet.results.report import report
from alexnet.training.train import train
from alexnet.utils.console import note_once

pytestmark = pytest.mark.usefixtures("one_thread")

SYNSETS = {"n00000004": "blue stripes", "n00000003": "green square", "n00000001": "red disc", "n00000002": "oval, egg"}
COSTS = np.array([[0, 2, 5, 5], [2, 0, 5, 5], [5, 5, 0, 1], [5, 5, 1, 0]])  # heights of lowest common ancestors
WORDS = list(SYNSETS.values())


class Named:
    """What `read_costs` reads of a store."""

    def __init__(self, *classes: str, ids: ClassIds | None = None) -> None:
        self.classes, self.class_ids = classes, ids


def costs_file(path: Path, costs: np.ndarray | None = COSTS, year: int = 2010) -> Path:
    """Write the kit's meta.mat, whose costs are whole numbers of a byte, and return its path."""
    write_meta(path, SYNSETS, year, costs=None if costs is None else costs.astype(np.uint8))
    return path


def test_the_costs_are_those_of_the_classes_by_number_id_or_words(tmp_path: Path) -> None:
    path = costs_file(tmp_path / "meta.mat")
    for rows, store in (
        ([2, 0], Named("red disc", "blue stripes")),
        ([3, 1], Named("n00000002", "n00000003 green square")),
        ([3, 0], Named("a", "b", ids=ClassIds("ILSVRC2010", (4, 1)))),
        ([2, 0], Named("red disc", "blue stripes", ids=ClassIds("ILSVRC2012", (4, 1)))),  # another contest's numbers
    ):
        assert (read_costs(path, store) == COSTS[np.ix_(rows, rows)]).all()  # type: ignore[arg-type]


def test_the_kit_itself_is_read_too(tmp_path: Path) -> None:
    costs_file(tmp_path / "devkit-1.0" / "data" / "meta.mat")
    with tarfile.open(tmp_path / "kit.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "devkit-1.0", "devkit-1.0")
    for path in (tmp_path / "devkit-1.0", tmp_path / "kit.tar.gz"):
        assert (read_costs(path, Named(*WORDS)) == COSTS).all()  # type: ignore[arg-type]


def test_the_error_is_the_mean_of_the_lowest_cost_of_the_guesses() -> None:
    random = np.random.default_rng(0)
    costs = random.integers(0, 18, (7, 7)).astype(float)  # not symmetric: rows are guesses, columns are labels
    guesses, labels = np.array([random.permutation(7)[:5] for _ in range(40)]), random.integers(0, 7, 40)
    for count in (1, 5):
        lowest = [min(costs[guess, label] for guess in row[:count]) for row, label in zip(guesses, labels, strict=True)]
        error, interval = hierarchical_error(guesses[:, :count], labels, costs)
        assert error == pytest.approx(sum(lowest) / 40)
        half = 1.959964 * np.std(lowest, ddof=1) / np.sqrt(40)
        assert interval == pytest.approx((error - half, error + half))
    assert hierarchical_error(guesses[:1], labels[:1], costs)[1] is None


def test_a_file_without_the_costs_is_refused(tmp_path: Path) -> None:
    for costs, message in (
        (None, r"meta\.mat must have a cost_matrix; it has none: take the development kit of 2010"),
        (COSTS[:3], r"the cost_matrix must be of 4 x 4 finite numbers; got \(3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read_costs(costs_file(tmp_path / "meta.mat", costs), Named(*WORDS))  # type: ignore[arg-type]


def test_other_files_and_other_classes_are_refused(tmp_path: Path) -> None:
    path = costs_file(tmp_path / "meta.mat")
    with pytest.raises(ValueError, match=r"by its WordNet ID or its words; 'lion' is missing, and 1 more"):
        read_costs(path, Named("red disc", "lion", "tiger"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'b' is missing"):
        read_costs(path, Named("a", "b", ids=ClassIds("ILSVRC2010", (4, 5))))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        read_costs(tmp_path / "no.mat", Named(*WORDS))  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="must have the challenge's synsets; it cannot be read"):
        read_costs(path, Named(*WORDS))  # type: ignore[arg-type]
    (tmp_path / "text.mat").write_text("not a file of MATLAB")
    with pytest.raises(ValueError, match="cannot be read"):
        read_costs(tmp_path / "text.mat", Named(*WORDS))  # type: ignore[arg-type]


def test_the_command_measures_it_where_the_costs_are_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, run = write_store(tmp_path / "store", train=12, val=12), tmp_path / "run"
    train(store, run, replace(Recipe(net=small_net(), store_size=32, batch_size=6), epochs=1), progress=False)
    command = ["evaluate", str(run), str(store), "--views", "1", "--json"]
    assert main(command) == 0
    assert "top1_hierarchical_error" not in json.loads(capsys.readouterr().out)
    meta = costs_file(tmp_path / "elsewhere.mat")
    assert main([*command, "--cost-matrix", str(meta), "--predictions", "-"]) == 0
    named = json.loads(capsys.readouterr().out)
    guesses = [([p["class"] for p in row["predictions"]], row["class"]) for row in named["predictions"]]
    lowest = [COSTS[WORDS.index(names[0]), WORDS.index(label)] for names, label in guesses]
    assert named["top1_hierarchical_error"] == pytest.approx(np.mean(lowest))
    assert named["top5_hierarchical_error"] == 0  # five guesses name all three classes
    meta.rename(tmp_path / "meta.mat")  # beside the store
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1_hierarchical_error"] == named["top1_hierarchical_error"]
    assert main(["evaluate", str(run), str(store), "--views", "1"]) == 0
    low, high = named["top1_hierarchical_interval"]
    expected = f"top-1 hierarchical error {named['top1_hierarchical_error']:.3f} ({low:.3f} to {high:.3f}), top-5 "
    assert expected in capsys.readouterr().out
    page = report(run, store, progress=False).read_text(encoding="utf-8")
    match = re.search(r"<b>(.*)</b> top-1 hierarchical error\n", page)
    assert match
    assert 0 <= float(match[1]) <= COSTS.max()
    assert "<b>0.000</b> top-5 hierarchical error\n" in page
    meta = tmp_path / "meta.mat"
    meta.unlink()
    assert "hierarchical" not in report(run, store, progress=False).read_text(encoding="utf-8")


def test_a_file_beside_the_store_that_is_of_no_use_is_noted_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    store = Store(write_store(tmp_path / "store", train=6, val=3))
    costs_file(tmp_path / "store" / "meta.mat", None, 2012)
    assert find_costs(None, store) is None
    err = capsys.readouterr().err
    assert err.startswith("note: no hierarchical error: ")
    assert err.count("\n") == 1

"""The command `reproduce`: the experiments by name, the pictures they accept, the table they write."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_pictures, write_store
from small_experiments import RECIPE, record_trainings, write_class_folders

from alexnet.cli import main
from alexnet.data.sources.base import Source
from alexnet.data.sources.kinds import open_source
from alexnet.data.store.store import Store
from alexnet.experiments import EXPERIMENTS, ablations, describe_experiments, figure1, reproduce
from alexnet.experiments import experiment as experiment_module
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import CIFAR10, PaperDataset
from alexnet.experiments.result import ExperimentResult, ResultRow
from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named
from alexnet.training.divergence import DivergenceError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_reproduce_lists_the_experiments_and_refuses_bad_arguments(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS) == list(describe_experiments())
    folder = ["--folder", str(tmp_path)]
    for arguments, message in (
        (["figure9"], "got 'figure9': did you mean figure4? All names: figure1, "),
        (["figure1"], "--data must be given for figure1: a store prepared from CIFAR-10 (cifar-10-binary.tar.gz, "),
        (["ablations"], "ILSVRC2012_img_train.tar"),
        (["ablations", "--data", str(tmp_path / "none")], "no such store"),
        (["ablations", "--data", str(store), "--recipe", "none"], "--recipe must be one of"),
        (["ablations", "--data", str(store), "--epochs", "0"], "epochs must be a whole number of at least 1; got 0"),
        (["ablations", "--data", str(store)], "store_size 256; got 32"),
    ):
        assert main(["reproduce", *arguments, *folder]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_reproduce_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "figure2", "--folder", str(tmp_path), "--recipe", "cifar10-18pct"]) == 0
    out = capsys.readouterr().out
    assert "| conv3 | 4096 |" in out
    assert f"All in {tmp_path / 'figure2'}." in out


def test_a_table_has_the_spread_over_seeds_and_says_what_was_not_measured() -> None:
    rows = [ResultRow("a", (1.0, None), ((2.0, 5.0), (4.0, 5.0))), ResultRow("b", (None, None))]
    text = ExperimentResult("T", "On x.", ("m", "n"), rows, ["a note"], ["f.png"]).to_markdown()
    # The paper has no number of "n", and no row has settings: these columns are left out.
    assert "|  | m, paper | m, here | n, here | seeds |\n| --- | --- | --- | --- | --- |" in text
    assert "| a | 1.0 | 3.00 ± 1.41 | 5.00 ± 0.00 | 2 |" in text
    assert "| b | - | not measured | not measured | 0 |" in text
    assert "- a ± b: the mean and the standard deviation over the seeds.\n- a note" in text
    assert "![f](f.png)" in text


def test_the_error_of_a_single_net_has_its_interval(tmp_path: Path) -> None:
    rows = [ResultRow("a", (None, None), ((100 * 81 / 263, None),), images=263), ResultRow("b", (None, None))]
    result = ExperimentResult("T", "On x.", ("top-1 error (%)", "top-5 error (%)"), rows)
    text = result.to_markdown()
    assert "| a | 30.8 (25.5 to 36.6) | - | 1 |" in text  # as published: Newcombe (1998)
    assert "- a (b to c): the error of one net, and Wilson's 95 % interval for 263 test pictures." in text
    assert "±" not in text
    result.write(tmp_path)
    assert json.loads((tmp_path / "finding.json").read_text(encoding="utf-8"))["rows"][0]["images"] == 263


def test_the_keys_of_finding_json_stay_the_same(tmp_path: Path) -> None:
    ExperimentResult("T", "On x.", ("m",), [ResultRow("a", (1.0,), ((2.0,),), "seed=1")]).write(tmp_path)
    contents = json.loads((tmp_path / "finding.json").read_text(encoding="utf-8"))
    assert list(contents) == ["title", "data", "measures", "rows", "notes", "figures", "numbers", "command"]
    assert contents["rows"] == [{"name": "a", "paper": [1.0], "ours": [[2.0]], "how": "seed=1"}]


def test_a_store_is_the_paper_s_set_if_its_numbers_are(store: Path, tmp_path: Path) -> None:
    opened = Store(store)
    assert not CIFAR10.matches(opened)
    same = PaperDataset("drawn", 3, 48, "")
    assert same.matches(opened)
    assert Experiment(tmp_path, opened, same).describe_data() == "On drawn: 48 pictures of 3 classes."
    # Its 20 pictures in "val" are those of the set, or a batch of its 68 training pictures, or half of all.
    assert PaperDataset("with val", 3, 48, "", val=20).matches(opened)
    assert PaperDataset("with a batch", 3, 68, "", batch=20).matches(opened)
    assert not PaperDataset("with another batch", 3, 68, "", batch=10).matches(opened)
    assert not PaperDataset("halved", 3, None, "").matches(opened)
    nearly = PaperDataset("nearly", 3, 68, "", val=10)  # a "val" drawn from the training pictures is not the set's own
    assert not nearly.matches(opened)
    description = Experiment(tmp_path, opened, nearly).describe_data()
    assert description.startswith("On a stand-in for nearly, ")
    assert description.endswith("(The set itself has 68 to train on, 10 in val/.)")


def test_what_an_experiment_cannot_compare_is_refused(store: Path, tmp_path: Path) -> None:
    one_tower = replace(RECIPE, net=replace(RECIPE.net, towers=1))
    with pytest.raises(ValueError, match=r"net\.towers must be at least 2, to be compared; got 1"):
        reproduce("figure3", tmp_path, store, recipe=one_tower, epochs=1)
    without = replace(RECIPE, net=replace(RECIPE.net, normalise=None))
    with pytest.raises(ValueError, match=r"net\.normalise must be set, to be left out"):
        reproduce("cifar-normalisation", tmp_path, store, recipe=without, epochs=1)
    with pytest.raises(ValueError, match=r"store_size 64; got 32: prepare another with `size=64`, or name another"):
        reproduce("table1", tmp_path, store, recipe=replace(RECIPE, store_size=64), epochs=1)
    with pytest.raises(FileNotFoundError, match=r"`size=256`, `held_out=0`, `test=0\.5`"):
        reproduce("fall2009", tmp_path)


def test_a_larger_set_of_another_size_is_refused_before_anything_is_trained(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    larger = write_store(tmp_path / "larger", size=40, train=6, val=3)
    with pytest.raises(ValueError, match="must have pictures of the recipe's store_size 32; got 40"):
        reproduce("table2", tmp_path, store, pretraining_data=larger, recipe=RECIPE)
    assert trained == []


def test_a_schedule_is_shortened_in_proportion() -> None:
    recipe = recipe_named("cifar10-18pct").with_epochs(14)
    assert recipe.epochs == 14
    assert [change.epoch for change in recipe.changes] == pytest.approx([12, 13])
    assert recipe.with_epochs(140).changes[0].epoch == pytest.approx(120)
    assert replace(RECIPE, patience=6, epochs=90).with_epochs(15).patience == 1


def test_epochs_shorten_a_training_and_never_lengthen_it(store: Path, tmp_path: Path) -> None:
    experiment = Experiment(tmp_path / "ours", store=None, dataset=None, epochs=5)
    assert experiment.shorten(replace(RECIPE, epochs=9)) == replace(RECIPE, epochs=9).with_epochs(5)
    assert experiment.shorten(RECIPE) == RECIPE  # two epochs
    for name, length in (("table1", 2), ("figure1", 80), ("claims", 2), ("cifar-normalisation", 352)):
        with pytest.raises(ValueError, match=rf"^epochs must be at most {length}, as many as .*; got 500: leave"):
            reproduce(name, tmp_path / name, store, recipe=RECIPE, epochs=500)
        assert not (tmp_path / name).exists()


def test_arguments_are_checked_before_pictures_are_prepared(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "pictures" / label / f"{number}.jpg").write_bytes(b"no picture")
    for name in (
        "table1",
        "figure1",
        "claims",
        "cifar-normalisation",
        "ablations",
        "codes",
        "figure3",
        "figure4",
        "overfitting",
    ):
        with pytest.raises(ValueError, match=r"^epochs must be at most \d+, as many as .*; got 999: leave"):
            reproduce(name, tmp_path / "folder", tmp_path / "pictures", epochs=999)
    with pytest.raises(ValueError, match=r"only must name some of .*; got 'no-drop'"):
        reproduce("claims", tmp_path / "folder", tmp_path / "pictures", only=["no-drop"])
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_pictures_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_class_folders(tmp_path / "pictures", draw_pictures(30, 32)[0], classes=3)
    listed = []

    def counted(path: Path) -> Source:
        listed.append(path)
        return open_source(path)

    monkeypatch.setattr("alexnet.experiments.open_source", counted)
    monkeypatch.setattr("alexnet.data.prepare.on_demand.open_source", counted)
    result = reproduce("table1", tmp_path / "out", tmp_path / "pictures", recipe=RECIPE, epochs=1, seeds=1)
    assert result.rows[-1].measured
    assert len(listed) == 1


def test_a_shortened_schedule_keeps_the_rates_and_their_layers() -> None:
    recipe = replace(RECIPE, schedule="changes", changes=(Change(epoch=1, learning_rate=0.1, layers=("conv1",)),))
    assert recipe.with_epochs(4).changes == (Change(epoch=2, learning_rate=0.1, layers=("conv1",)),)


def test_a_net_that_diverges_does_not_end_the_experiment(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, train_net = Experiment.train, experiment_module.train

    def diverge_with_tanh(store: Store, run: Path, recipe: Recipe, **options: Any) -> Any:
        if recipe.net.activation == "tanh":
            raise DivergenceError("loss must stay finite")
        return train_net(store, run, recipe, **options)

    monkeypatch.setattr(ablations, "ABLATIONS", {name: ablations.ABLATIONS[name] for name in ("the net", "tanh (4.1)")})
    monkeypatch.setattr(experiment_module, "train", diverge_with_tanh)
    result = reproduce("ablations", tmp_path, store, recipe=RECIPE, epochs=1)
    assert [len(row.measured) for row in result.rows] == [1, 0]
    assert "tanh (4.1), seed 0: loss must stay finite" in result.notes
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("net ")]
    assert lines == [
        "net 1 of 2: the-net-0, seed 0",
        "net 2 of 2: tanh-0, seed 0",
        "net 2 of 2: tanh-0 has diverged: loss must stay finite",
    ]
    monkeypatch.undo()

    def diverge_at_a_high_rate(self: Experiment, name: str, recipe: Recipe, **options: object) -> Path:
        if recipe.learning_rate > 0.005:
            raise DivergenceError("loss must stay finite")
        return train(self, name, recipe, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(figure1, "RATES", (0.001, 0.01))
    monkeypatch.setattr(figure1, "ROUNDS", (("search", 1, None, 1),))
    monkeypatch.setattr(figure1, "EPOCHS", 1)
    monkeypatch.setattr(Experiment, "train", diverge_at_a_high_rate)
    result = reproduce("figure1", tmp_path, store, recipe=RECIPE)
    chosen = [note for note in result.notes if "learning rate" in note]
    assert [note.split(", of")[0] for note in chosen] == ["ReLU: learning rate 0.001", "tanh: learning rate 0.001"]

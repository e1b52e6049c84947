"""The experiments that end in a table: the ablations, CIFAR-10, Tables 1 and 2, Fall 2009."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write_store
from small_experiments import RECIPE, record_trainings

from alexnet.data.store.store import Store
from alexnet.experiments import ablations, cifar_normalisation, reproduce, table2
from alexnet.experiments.experiment import Experiment
from alexnet.experiments.paper_datasets import ILSVRC2012, PaperDataset
from alexnet.experiments.variants import THE_NET, VARIANTS, drop_duplicate_nets
from alexnet.models.alexnet import AlexNet
from alexnet.net_variants import one_gpu_net
from alexnet.recipe import Recipe, recipe_differences
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.results.report import report

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- Ablations ------------------------------------------------------------------------------------------------------


def test_every_variant_differs_and_fits_the_paper_s_net() -> None:
    for base in (recipe_named("alexnet-2012-run"), recipe_named("photos"), recipe_named("tiny")):
        recipes = {name: change(base) for name, change in VARIANTS.items()}
        assert recipes.pop(THE_NET) == base
        for name, recipe in recipes.items():
            if (base.colour_deviation == 0 and "colour" in name) or (base.net.start == "he" and name == "zero-biases"):
                continue
            assert recipe != base, name
            recipe.net.sides()  # it can be built
            settings = [f"{path}={json.dumps(value)}" for path, _, value in recipe_differences(base, recipe)]
            assert base.with_settings(settings) == recipe, name


def test_on_the_paper_s_pictures_three_variants_are_the_program_s_own_runs(store: Path, tmp_path: Path) -> None:
    base, opened = recipe_named("alexnet-2012-run"), Store(store)
    on_paper_data = Experiment(tmp_path, opened, PaperDataset("drawn", 3, 48, ""))
    recipes = ablations.list_recipes(on_paper_data, base)
    for name, own in ablations.NAMED_RECIPES.items():
        assert recipes[name] == recipe_named(own) != VARIANTS[ablations.ABLATIONS[name][0]](base)
        assert recipes[name].net == VARIANTS[ablations.ABLATIONS[name][0]](base).net
    stand_in = ablations.list_recipes(Experiment(tmp_path, opened, ILSVRC2012), base)
    assert stand_in == {name: VARIANTS[variant](base) for name, (variant, _) in ablations.ABLATIONS.items()}


def test_the_one_gpu_net_is_run_145_half() -> None:
    net = one_gpu_net(recipe_named("alexnet-2012-run").net)
    assert [conv.maps for conv in net.convs().values()] == [48, 128, 192, 192, 256]
    assert (net.towers, [full.units for full in net.hidden().values()]) == (1, [4096, 4096])


def test_without_a_layer_the_last_maps_are_as_large_as_before() -> None:
    net = recipe_named("alexnet-2012-paper").net
    last_sides = {name: list(change(Recipe()).net.sides().values())[-1][1] for name, change in VARIANTS.items()}
    assert net.sides()["conv5"] == (13, 6)
    assert {side for name, side in last_sides.items() if "overlap" not in name} == {6}
    assert last_sides["no-overlap"] == 7


def test_a_net_whose_layers_have_other_names_is_trained_once() -> None:
    names = ("without-conv3", "without-conv4")
    left, other = ({name: VARIANTS[name](recipe_named(base)) for name in names} for base in ("tiny", "photos"))
    outputs = []
    for recipe in left.values():
        torch.manual_seed(0)
        net = AlexNet(10, recipe.net).eval()
        outputs.append(net(torch.linspace(-128, 127, 3 * 56 * 56).reshape(1, 3, 56, 56)))
    assert torch.equal(*outputs)
    note = "without-conv4: with this recipe the same net as 'without-conv3', which is trained once."
    assert drop_duplicate_nets(left) == ({"without-conv3": left["without-conv3"]}, [note])
    # With the paper's biases, 0 in conv3 and 1 in conv4, two nets are left; so they are with a rate for conv5 alone.
    assert drop_duplicate_nets(other) == (other, [])
    with_rate = {name: replace(recipe, rate_factors={"conv5": 0.5}) for name, recipe in left.items()}
    assert drop_duplicate_nets(with_rate) == (with_rate, [])


@pytest.mark.parametrize("name", ["photos", "tiny", "tiny-imagenet", "alexnet-2012-run"])
@pytest.mark.parametrize("experiment", ["ablations", "cifar-normalisation"])
def test_no_two_rows_train_equal_nets(
    experiment: str, name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, str] = {}

    def train(self: Experiment, run: str, recipe: Recipe, **_: object) -> Path:
        assert run not in trained
        trained[run] = self.shorten(recipe).to_json()
        return tmp_path / run

    errors = {"top1_error": 0.5, "top5_error": 0.5, "images": 20}
    monkeypatch.setattr(Experiment, "train", train)
    monkeypatch.setattr(Experiment, "evaluate", lambda *_, **__: errors)
    reproduce(experiment, tmp_path / "out", store, recipe=recipe_named(name), seeds=2)
    assert len(trained) >= 4
    assert len(set(trained.values())) == len(trained)


def test_ablations_train_each_net_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = record_trainings(monkeypatch)
    variants = {name: ablations.ABLATIONS[name] for name in ("the net", "tanh (4.1)", "without conv3")}
    monkeypatch.setattr(ablations, "ABLATIONS", variants)
    result = reproduce("ablations", tmp_path, store, recipe=RECIPE, seeds=2, epochs=1)
    assert trained == [f"{name}-{seed}" for name in ("the-net", "tanh", "without-conv3") for seed in (0, 1)]
    assert reproduce("ablations", tmp_path, store, recipe=RECIPE, seeds=2, epochs=1) == result
    assert len(trained) == 6
    assert [row.settings for row in result.rows][:2] == ["", 'net.activation="tanh"']
    assert [len(row.measured) for row in result.rows] == [2, 2, 2]
    assert "a stand-in for ILSVRC-2012" in result.data
    text = (tmp_path / "ablations" / "finding.md").read_text(encoding="utf-8")
    assert "| the net | 40.66 | " in text
    assert result.command.startswith(f"alexnet reproduce ablations --data {store} --epochs 1 --seeds 2")
    assert f"    {result.command}" in text
    recipe = json.loads((tmp_path / "ablations" / "tanh-1" / "recipe.json").read_text(encoding="utf-8"))
    assert (recipe["net"]["activation"], recipe["seed"], recipe["epochs"]) == ("tanh", 1, 1)


# ---- Normalisation on CIFAR-10 --------------------------------------------------------------------------------------


def test_cifar_normalisation_compares_nets_with_equal_schedules(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    fixed = cifar_normalisation.with_fixed_schedule(recipe_named("cifar10-11pct"))
    assert (fixed.epochs, [change.epoch for change in fixed.changes]) == (520, [500, 510])
    result = reproduce("cifar-normalisation", tmp_path, store, epochs=1)
    assert trained == ["with-normalisation-0", "the-net-without-normalisation-0", "the-same-net-without-it-0"]
    assert [row.paper for row in result.rows] == [(11.0,), (13.0,), (None,)]
    without = Recipe.from_json((tmp_path / "cifar-normalisation" / trained[2] / "recipe.json").read_text())
    assert without == replace(fixed, net=replace(fixed.net, normalise=None)).with_epochs(1)


def test_the_test_pictures_are_evaluated_if_the_validation_pictures_are_folded_in(tmp_path: Path) -> None:
    drawn = write_store(tmp_path / "store", train=20, val=10, test=10)
    fold = replace(RECIPE, schedule="fold", patience=1, epochs=1)
    result = reproduce("cifar-normalisation", tmp_path, drawn, recipe=fold)
    run = tmp_path / "cifar-normalisation" / "with-normalisation-0"
    for row, name in zip(result.rows, ("with-normalisation-0", "the-same-net-without-it-0"), strict=True):
        on_test = evaluate(tmp_path / "cifar-normalisation" / name, drawn, split="test", views=10)
        assert row.measured == ((100 * on_test["top1_error"],),)
    assert evaluate(run, drawn)["split"] == "test"
    text = report(run, drawn, progress=False).read_text(encoding="utf-8")
    assert "chosen by the error on these same pictures" not in text


# ---- Tables ---------------------------------------------------------------------------------------------------------


def test_table1_evaluates_the_test_pictures_with_ten_views_and_one(tmp_path: Path) -> None:
    drawn = write_store(tmp_path / "store", train=20, val=6, test=10)
    result = reproduce("table1", tmp_path, drawn, recipe=RECIPE, epochs=1)
    assert [row.paper for row in result.rows] == [(47.1, 28.2), (45.7, 25.7), (37.5, 17.0), (39.0, 18.3)]
    for row, views in zip(result.rows[2:], (10, 1), strict=True):
        errors = evaluate(tmp_path / "table1/cnn-0", drawn, views=views, split="test")
        assert row.measured == ((100 * errors["top1_error"], None),)  # five guesses are meaningless for three classes
        assert row.format_measured(1) == "-"
        low, high = errors["top1_interval"]
        assert row.format_measured(0) == f"{100 * errors['top1_error']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    assert result.notes[-1] == (
        "No top-5 error here: five guesses name more than half of 3 classes; a store of at least 10 has one."
    )


def test_table2_averages_and_pre_trains(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = record_trainings(monkeypatch)
    alone = reproduce("table2", tmp_path / "alone", store, recipe=RECIPE, epochs=1, seeds=2)
    assert [(row.name, len(row.measured)) for row in alone.rows] == [
        ("1 CNN", 2),
        ("2 CNNs", 1),
        ("1 CNN*", 0),
        ("7 CNNs*", 0),
    ]
    runs = [tmp_path / f"alone/table2/cnn-{seed}" for seed in (0, 1)]
    assert alone.rows[1].measured[0][0] == 100 * evaluate(runs, store, views=10)["top1_error"]
    trained.clear()
    monkeypatch.setattr(table2, "PRETRAINED_NETS", 1)
    more = [store, store]
    result = reproduce("table2", tmp_path, store, pretraining_data=more, recipe=RECIPE, epochs=1, seeds=1)
    assert trained == ["cnn-0", "pretrained-5", "pretrained-again-5", "finetuned-5", "finetuned-first-5"]
    assert [(row.name, len(row.measured)) for row in result.rows][2:] == [
        ("1 CNN*", 1), ("2 CNNs*", 1), ("1 CNN*, the first set alone", 1),
    ]  # fmt: skip
    assert f"--data {store} --more {store} --more {store} --epochs 1" in result.command
    again = json.loads((tmp_path / "table2/pretrained-again-5/metrics.jsonl").read_text().splitlines()[0])
    assert (again["from"], again["taken"][-1]) == (str(tmp_path / "table2/pretrained-5"), "conv6")
    second = Recipe.load(tmp_path / "table2/pretrained-again-5/recipe.json")
    assert second.rate_factors == dict.fromkeys(second.net.convs(), 0.1)
    start = json.loads((tmp_path / "table2/finetuned-5/metrics.jsonl").read_text().splitlines()[0])
    assert start["taken"] == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"]


def test_fall2009_has_conv6(store: Path, tmp_path: Path) -> None:
    result = reproduce("fall2009", tmp_path, store, recipe=RECIPE, epochs=1)
    assert [row.paper for row in result.rows] == [(78.1, 60.9), (67.4, 40.9)]
    assert result.notes[0] == "48 pictures to train on, 20 to test on."
    recipe = Recipe.from_json((tmp_path / "fall2009/conv6-0/recipe.json").read_text(encoding="utf-8"))
    assert recipe.net.conv6 is not None
    chained = reproduce("fall2009", tmp_path / "more", store, pretraining_data=store, recipe=RECIPE, epochs=1)
    assert chained.notes[1].startswith(f"The convolutions start from a net trained on {store}")
    start = json.loads((tmp_path / "more/fall2009/conv6-0/metrics.jsonl").read_text().splitlines()[0])
    assert start["taken"] == ["conv1", "conv2", "conv3", "conv4", "conv5"]

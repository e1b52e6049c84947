"""The experiments on a small stand-in: what they train, that finished parts are not trained again, what they say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pictures, small_net, write_store
from PIL import Image

from alexnet.cli import main
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.subset import StoreSubset
from alexnet.data.store.store import Store
from alexnet.experiments import (
    EXPERIMENTS,
    ablations,
    cifar_normalisation,
    describe_experiments,
    figure1,
    figure2,
    figure3,
    figure4,
    pretraining,
    reproduce,
)
from alexnet.experiments.lab import (
    CIFAR10,
    Experiment,
    ExperimentResult,
    PaperDataset,
    ResultRow,
    shorten_schedule,
)
from alexnet.recipe import Change, Recipe, recipe_differences
from alexnet.recipes import RECIPES, one_gpu_net, recipe_named
from alexnet.results import binary_codes
from alexnet.results.evaluate import evaluate
from alexnet.results.report import report
from alexnet.results.run_history import RunHistory
from alexnet.training.divergence import DivergenceError
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that were trained by a step or more, in order."""
    names: list[str] = []

    def counted(store: Store, run: Path, recipe: Recipe, **options: object) -> object:
        before = sorted((run / "checkpoints").glob("*"))
        outcome = train(store, run, recipe, **(options | {"progress": False}))  # type: ignore[arg-type]
        if sorted((run / "checkpoints").glob("*")) != before:
            names.append(run.name)
        return outcome

    monkeypatch.setattr("alexnet.experiments.lab.train", counted)
    return names


def test_every_variant_differs_and_fits_the_paper_s_net() -> None:
    for base in (recipe_named("alexnet-2012-run"), recipe_named("photos"), recipe_named("tiny")):
        made = {name: change(base) for name, (change, _) in ablations.VARIANTS.items()}
        assert made.pop("the net") == base
        for name, recipe in made.items():
            if base.colour_deviation == 0 and "colour" in name:
                continue
            assert recipe != base, name
            recipe.net.sides()  # it can be built
            again = base.with_settings(
                [f"{path}={json.dumps(value)}" for path, _, value in recipe_differences(base, recipe)]
            )
            assert again == recipe, name


def test_the_one_gpu_net_is_run_145_half() -> None:
    net = one_gpu_net(recipe_named("alexnet-2012-run").net)
    assert [c.maps for c in net.convs().values()] == [48, 128, 192, 192, 256]
    assert (net.towers, [f.units for f in net.hidden().values()]) == (1, [4096, 4096])


def test_without_a_layer_what_follows_is_as_large_as_before() -> None:
    net = recipe_named("alexnet-2012-paper").net
    ends = {
        name: list(change(Recipe()).net.sides().values())[-1][1] for name, (change, _) in ablations.VARIANTS.items()
    }
    assert net.sides()["conv5"] == (13, 6)
    assert {side for name, side in ends.items() if "overlap" not in name} == {6}
    assert ends["pooling without overlap (147; 4.4)"] == 7


def test_a_schedule_is_shortened_in_proportion() -> None:
    recipe = shorten_schedule(recipe_named("cifar10-18pct"), 14)
    assert recipe.epochs == 14
    assert [change.epoch for change in recipe.changes] == pytest.approx([12, 13])
    assert shorten_schedule(recipe, 140).changes[0].epoch == pytest.approx(120)
    assert shorten_schedule(replace(RECIPE, patience=6, epochs=90), 15).patience == 1


def test_ablations_train_each_net_once(store: Path, tmp_path: Path, trainings: list[str]) -> None:
    few = {name: ablations.VARIANTS[name] for name in ("the net", "tanh (4.1)", "without conv3")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablations, "VARIANTS", few)
        found = reproduce("ablations", tmp_path, store, recipe=RECIPE, seeds=2, epochs=1)
        assert trainings == [f"{name}-{n}" for name in ("the-net", "tanh", "without-conv3") for n in (0, 1)]
        assert reproduce("ablations", tmp_path, store, recipe=RECIPE, seeds=2, epochs=1) == found
    assert len(trainings) == 6
    assert [row.how for row in found.rows][:2] == ["", 'net.activation="tanh"']
    assert [len(row.ours) for row in found.rows] == [2, 2, 2]
    assert "a stand-in for ILSVRC-2012" in found.data
    text = (tmp_path / "ablations" / "finding.md").read_text(encoding="utf-8")
    assert "| the net | 40.66 | " in text
    assert found.command.startswith(f"alexnet reproduce ablations --data {store} --epochs 1 --seeds 2")
    assert f"    {found.command}" in text
    recipe = json.loads((tmp_path / "ablations" / "tanh-1" / "recipe.json").read_text(encoding="utf-8"))
    assert (recipe["net"]["activation"], recipe["seed"], recipe["epochs"]) == ("tanh", 1, 1)


def test_cifar_normalisation_compares_at_equal_schedules(store: Path, tmp_path: Path, trainings: list[str]) -> None:
    full = recipe_named("cifar10-11pct")
    fixed = cifar_normalisation.with_fixed_schedule(full)
    assert (fixed.epochs, [c.epoch for c in fixed.changes]) == (520, [500, 510])
    found = reproduce("cifar-normalisation", tmp_path, store, epochs=1)
    assert trainings == ["with-normalisation-0", "the-net-without-normalisation-0", "the-same-net-without-it-0"]
    assert [row.paper for row in found.rows] == [(11.0,), (13.0,), (None,)]
    plain = Recipe.from_json((tmp_path / "cifar-normalisation" / trainings[2] / "recipe.json").read_text())
    assert plain == shorten_schedule(replace(fixed, net=replace(fixed.net, normalise=None)), 1)


def test_the_test_pictures_are_measured_where_others_are_folded_in(tmp_path: Path) -> None:
    drawn = write_store(tmp_path / "store", train=20, val=10, test=10)
    fold = replace(RECIPE, schedule="fold", patience=1, epochs=1)
    found = reproduce("cifar-normalisation", tmp_path, drawn, recipe=fold)
    run = tmp_path / "cifar-normalisation" / "with-normalisation-0"
    for row, name in zip(found.rows, ("with-normalisation-0", "the-same-net-without-it-0"), strict=True):
        on_test = evaluate(tmp_path / "cifar-normalisation" / name, drawn, split="test", views=10)
        assert row.ours == ((100 * on_test["top1_error"],),)
    assert evaluate(run, drawn)["split"] == "test"
    text = report(run, drawn, progress=False).read_text(encoding="utf-8")
    assert "chosen by the error on these same pictures" not in text


def test_a_net_that_diverges_does_not_end_the_experiment(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "VARIANTS", {name: ablations.VARIANTS[name] for name in ("the net", "tanh (4.1)")})

    def diverging(self: Experiment, name: str, recipe: Recipe, **options: object) -> Path:
        if recipe.net.activation == "tanh":
            raise DivergenceError("loss must stay finite")
        return original(self, name, recipe, **options)  # type: ignore[arg-type]

    original = Experiment.trained
    monkeypatch.setattr(Experiment, "trained", diverging)
    found = reproduce("ablations", tmp_path, store, recipe=RECIPE, epochs=1)
    assert [len(row.ours) for row in found.rows] == [1, 0]
    assert "tanh (4.1), seed 0: loss must stay finite" in found.notes
    monkeypatch.setattr(figure1, "RATES", (0.001, 0.01))
    monkeypatch.setattr(figure1, "ROUNDS", (("search", 1, None, 1),))
    monkeypatch.setattr(figure1, "EPOCHS", 1)

    def too_fast(self: Experiment, name: str, recipe: Recipe, **options: object) -> Path:
        if recipe.learning_rate > 0.005:
            raise DivergenceError("loss must stay finite")
        return original(self, name, recipe, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Experiment, "trained", too_fast)
    found = reproduce("figure1", tmp_path, store, recipe=RECIPE)
    chosen = [note for note in found.notes if "learning rate" in note]
    assert [note.split(", of")[0] for note in chosen] == ["ReLU: learning rate 0.001", "tanh: learning rate 0.001"]


def test_a_larger_set_of_another_size_is_told_before_anything_is_trained(
    store: Path, tmp_path: Path, trainings: list[str]
) -> None:
    larger = write_store(tmp_path / "larger", size=40, train=6, val=3)
    with pytest.raises(ValueError, match="must hold pictures of the recipe's store_size 32; got 40"):
        reproduce("table2", tmp_path, store, more=larger, recipe=RECIPE)
    assert trainings == []


def test_figure1_searches_rates_and_compares_epochs(
    store: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure1, "RATES", (0.0001, 0.001, 0.01))
    monkeypatch.setattr(figure1, "ROUNDS", (("search", 1, None, 2), ("final", 2, 0.25, 1)))
    found = reproduce("figure1", tmp_path, store, recipe=RECIPE, epochs=12)
    assert trainings[:3] == ["search-relu-0.0001", "search-relu-0.001", "search-relu-0.01"]
    assert (trainings[5], trainings[-1]) == ("relu-0", "tanh-0")
    errors = {n: RunHistory.read(tmp_path / "figure1" / n).epochs[-1]["train_error"] for n in trainings[:5]}
    finals = [name.replace("final", "search") for name in trainings[3:5]]
    (out,) = set(trainings[:3]) - set(finals)
    assert max(errors[name] for name in finals) <= errors[out]
    best = found.notes[0].removeprefix("ReLU: learning rate ").split(", of")[0]
    assert errors[f"final-relu-{best}"] == min(errors[name] for name in trainings[3:5])
    curves = found.numbers["training_error"]
    for activation in ("relu", "tanh"):
        recipe = Recipe.from_json((tmp_path / f"figure1/{activation}-0/recipe.json").read_text(encoding="utf-8"))
        assert (recipe.net.activation, recipe.decay, recipe.net.normalise) == (activation, 0, None)
        # It ends with the first epoch at or under 25 %.
        (errors,) = curves[activation]
        assert all(error > 0.25 for error in errors[:-1])
        assert errors[-1] <= 0.25 or len(errors) == 12
    assert (tmp_path / "figure1/figure1.png").stat().st_size > 10_000


def test_epochs_to_the_target_lie_on_the_line_between_epochs() -> None:
    assert figure1.epochs_to_target([0.6, 0.3, 0.2]) == pytest.approx(2.5)
    assert figure1.epochs_to_target([0.25]) == pytest.approx(1)
    assert figure1.epochs_to_target([0.6, 0.3]) is None


def test_table1_measures_the_test_pictures_with_ten_views_and_one(tmp_path: Path) -> None:
    drawn = write_store(tmp_path / "store", train=20, val=6, test=10)
    found = reproduce("table1", tmp_path, drawn, recipe=RECIPE, epochs=1)
    assert [row.paper for row in found.rows] == [(47.1, 28.2), (45.7, 25.7), (37.5, 17.0), (39.0, 18.3)]
    for row, views in zip(found.rows[2:], (10, 1), strict=True):
        direct = evaluate(tmp_path / "table1/cnn-0", drawn, views=views, split="test")
        assert row.ours == ((100 * direct["top1_error"], None),)  # of three classes five guesses say nothing
        assert row.spread(1) == "-"
    assert found.notes[-1] == (
        "No top-5 error here: five guesses name more than half of 3 classes; a store of at least 10 has one."
    )


def test_table2_averages_and_pre_trains(store: Path, tmp_path: Path, trainings: list[str]) -> None:
    alone = reproduce("table2", tmp_path / "alone", store, recipe=RECIPE, epochs=1, seeds=2)
    assert [(row.name, len(row.ours)) for row in alone.rows] == [
        ("1 CNN", 2),
        ("2 CNNs", 1),
        ("1 CNN*", 0),
        ("7 CNNs*", 0),
    ]
    runs = [tmp_path / f"alone/table2/cnn-{seed}" for seed in (0, 1)]
    assert alone.rows[1].ours[0][0] == 100 * evaluate(runs, store, views=10)["top1_error"]
    trainings.clear()
    found = reproduce("table2", tmp_path, store, more=store, recipe=RECIPE, epochs=1, seeds=1)
    assert trainings == ["cnn-0", "pretrained-5", "finetuned-5", "pretrained-6", "finetuned-6"]
    assert [(row.name, len(row.ours)) for row in found.rows][2:] == [("1 CNN*", 2), ("3 CNNs*", 1)]
    start = json.loads((tmp_path / "table2/finetuned-5/metrics.jsonl").read_text().splitlines()[0])
    assert start["taken"] == ["conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"]


def test_fall2009_has_conv6(store: Path, tmp_path: Path) -> None:
    found = reproduce("fall2009", tmp_path, store, recipe=RECIPE, epochs=1)
    assert [row.paper for row in found.rows] == [(78.1, 60.9), (67.4, 40.9)]
    assert found.notes[0] == "48 pictures to train on, 20 to test on."
    recipe = Recipe.from_json((tmp_path / "fall2009/conv6-0/recipe.json").read_text(encoding="utf-8"))
    assert recipe.net.conv6 is not None


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ten classes, eleven pictures each to train on and three to test on."""
    folder = tmp_path_factory.mktemp("many")
    pictures = draw_pictures(140, 32)[0]
    for number, picture in enumerate(pictures):
        path = folder / "pictures" / f"class {number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    prepare(folder / "pictures", folder / "store", size=32, train_per_class=11, progress=False)
    return folder / "store"


def test_a_subset_is_a_store_of_its_own(many: Path, tmp_path: Path) -> None:
    of = Store(many)
    train, test = of.split("train"), of.split("test")
    classes = ("class 7", "class 2")
    places = pretraining.places_of(train, (7, 2), 5, seed=1)
    assert set(places) < set(pretraining.places_of(train, (7, 2), 10, seed=1))
    tested = pretraining.places_of(test, (7, 2), None, seed=0)
    assert np.isin(test.labels, (7, 2)).nonzero()[0].tolist() == tested.tolist()
    source = StoreSubset(of, classes, {"train": (train, places), "test": (test, tested)})
    prepare(source, tmp_path / "small", progress=False)
    small = Store(tmp_path / "small")
    assert (small.classes, small.size, small.splits) == (classes, 32, ("train", "test"))
    assert np.bincount(small.split("train").labels).tolist() == [5, 5]
    for index, place in enumerate(places):
        assert np.array_equal(small.split("train").image(index), train.image(int(place)))
        assert small.split("train").picture_name(index) == train.picture_name(int(place))
        assert classes[small.split("train").labels[index]] == of.classes[train.labels[place]]
    chosen = np.stack([train.image(int(place)) for place in places])
    assert np.allclose(small.statistics.mean, chosen.mean(0).transpose(2, 0, 1), atol=1e-4)
    other = StoreSubset(of, classes, {"train": (train, places[:-1]), "test": (test, tested)})
    with pytest.raises(ValueError, match="prepared with a source of other files"):
        prepare(other, tmp_path / "small", progress=False)


def test_pretraining_against_from_scratch_at_equal_steps(many: Path, tmp_path: Path, trainings: list[str]) -> None:
    found = reproduce("pretraining", tmp_path, many, recipe=RECIPE, epochs=1, seeds=2)
    of_seed = [f"{way}-{few}-0" for few in ("5", "10", "all") for way in ("pre-trained", "from-scratch")]
    assert trainings == ["pretrained-0", *of_seed, *(name[:-1] + "1" for name in ("pretrained-0", *of_seed))]
    assert reproduce("pretraining", tmp_path, many, recipe=RECIPE, epochs=1, seeds=2) == found
    assert len(trainings) == 14
    folder = tmp_path / "pretraining"
    assert [(row.name, len(row.ours)) for row in found.rows[:2]] == [
        ("pre-trained, 5 pictures a class", 2),
        ("from scratch, 5 pictures a class", 2),
    ]
    assert "a stand-in for Caltech-101" in found.data
    assert (folder / "pretraining.png").stat().st_size > 10_000

    old, new = (Store(folder / "stores" / name) for name in ("old-0", "new-0-5"))
    assert (len(old.classes), len(new.classes)) == (8, 2)
    assert sorted((*old.classes, *new.classes)) == list(Store(many).classes)
    assert [len(one.split("test")) for one in (old, new)] == [24, 6]
    lines = (folder / "pre-trained-5-0/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    start = json.loads(lines[0])
    assert start["from"] == str(folder / "pretrained-0")
    assert start["taken"] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    steps = {}
    for name in of_seed:
        lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps[name] = json.loads(lines[-1])["epoch"] * len(
            Store(folder / "stores" / f"new-0-{name.split('-')[2]}").split("train")
        )
    assert set(steps.values()) == {20, 22}  # pictures shown: one epoch of 22, or two of 10, or one of 20
    direct = evaluate(folder / "from-scratch-all-1", folder / "stores/new-1-all", views=10)
    assert found.rows[-1].ours[1] == (100 * direct["top1_error"],)


def test_pretraining_says_what_a_store_or_recipe_lacks(
    store: Path, many: Path, tmp_path: Path, trainings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for data, recipe, said in (
        (store, RECIPE, "must be of at least 10 classes; got 3"),
        (many, replace(RECIPE, store_size=40), "must hold pictures of the recipe's store_size 40; got 32"),
        (many, replace(RECIPE, schedule="plateau"), "must be one that follows no error.*; got 'plateau'"),
    ):
        with pytest.raises(ValueError, match=said):
            reproduce("pretraining", tmp_path, data, recipe=recipe)
    monkeypatch.setattr(pretraining, "FEW", (5, 12))
    with pytest.raises(ValueError, match="at least 12 pictures of each class in 'train'; of 'class 0' it has 11"):
        reproduce("pretraining", tmp_path, many, recipe=RECIPE)
    assert trainings == []


def test_figure2_has_the_paper_s_numbers_of_neurons(tmp_path: Path) -> None:
    found = reproduce("figure2", tmp_path)
    assert {row.name: row.ours[0][0] for row in found.rows} == figure2.PAPER
    assert all(row.paper[0] == row.ours[0][0] for row in found.rows)
    for name in RECIPES:
        assert figure2.draw(figure2.drawn_layers(recipe_named(name).net)).axes


def test_colour_shares_and_the_permutation_test() -> None:
    random = np.random.default_rng(0)
    grey = np.repeat(random.normal(size=(10, 1, 5, 5)), 3, axis=1)
    coloured = random.normal(size=(10, 3, 5, 5))
    coloured -= coloured.mean(1, keepdims=True)
    assert figure3.colour_shares(grey) == pytest.approx(np.zeros(10), abs=1e-12)
    assert figure3.colour_shares(coloured) == pytest.approx(np.ones(10))
    assert figure3.colour_shares(grey + coloured)[0] == pytest.approx(
        (coloured[0] ** 2).sum() / ((grey[0] ** 2).sum() + (coloured[0] ** 2).sum())
    )
    apart = np.r_[np.zeros(10), np.ones(10)]
    assert figure3.permutation_p_value(apart, 1.0) < 0.001
    assert figure3.permutation_p_value(np.tile([0.0, 1.0], 10), 0.0) == 1.0


def test_figure3_numbers_the_towers_by_colour(store: Path, tmp_path: Path) -> None:
    found = reproduce("figure3", tmp_path, store, recipe=RECIPE, seeds=2, epochs=1)
    for row in found.rows:
        less, more, chance = row.ours[0]
        assert 0 <= less <= more <= 100
        assert 0 < chance <= 100
    assert found.figures == ["figure3-0.png", "figure3-1.png"]


def test_figure4_measures_three_ways_of_searching(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_codes, "STEPS", 20)
    monkeypatch.setattr(figure4, "BITS", (16, 32))
    found = reproduce("figure4", tmp_path, store, recipe=RECIPE, epochs=1)
    assert [row.name for row in found.rows] == [
        "raw pixels",
        "activities",
        "codes of 16 bits, then activities",
        "codes of 32 bits, then activities",
    ]
    assert [row.ours[0][1] for row in found.rows] == [32 * 32 * 3, 4 * 16, 2, 4]
    split, among = Store(store).validation(), Store(store).split("train")
    everything = np.stack([among.image(i).reshape(-1).astype(float) for i in range(len(among))])
    hits = []
    for place in range(len(split)):
        distance = np.linalg.norm(everything - split.image(place).reshape(-1).astype(float), axis=1)
        hits.append((among.labels[distance.argsort(kind="stable")[:6]] == split.labels[place]).mean())
    assert found.rows[0].ours[0][0] == pytest.approx(100 * np.mean(hits))
    for name in found.figures:
        assert (tmp_path / "figure4" / name).stat().st_size > 10_000


def test_a_table_says_what_was_not_measured_and_the_spread() -> None:
    rows = [ResultRow("a", (1.0, None), ((2.0, 5.0), (4.0, 5.0))), ResultRow("b", (None, None))]
    text = ExperimentResult("T", "On x.", ("m", "n"), rows, ["a note"], ["f.png"]).markdown()
    assert "| a | 1.0 | 3.00 ± 1.41 | - | 5.00 ± 0.00 | 2 |  |" in text
    assert "| b | - | not measured | - | not measured | 0 |  |" in text
    assert "- a note" in text
    assert "![f](f.png)" in text


def test_a_store_is_the_paper_s_set_by_its_numbers(store: Path, tmp_path: Path) -> None:
    opened = Store(store)
    assert not CIFAR10.matches(opened)
    same = PaperDataset("drawn", 3, 48, "")
    assert same.matches(opened)
    assert Experiment(tmp_path, opened, same).data() == "On drawn: 48 pictures of 3 classes."
    # Its 20 pictures in "val" are those of the set, or a batch of its 68 training pictures, or half of the whole.
    assert PaperDataset("with val", 3, 48, "", val=20).matches(opened)
    assert PaperDataset("with a batch", 3, 68, "", batch=20).matches(opened)
    assert not PaperDataset("with another batch", 3, 68, "", batch=10).matches(opened)
    assert not PaperDataset("halved", 3, None, "").matches(opened)
    nearly = PaperDataset("nearly", 3, 68, "", val=10)  # a "val" drawn from the training pictures is not the set's own
    assert not nearly.matches(opened)
    said = Experiment(tmp_path, opened, nearly).data()
    assert said.startswith("On a stand-in for nearly, ")
    assert said.endswith("(The set itself has 68 to train on, 10 in val/.)")


def test_what_an_experiment_cannot_compare_is_refused(store: Path, tmp_path: Path) -> None:
    one_tower = replace(RECIPE, net=replace(RECIPE.net, towers=1))
    with pytest.raises(ValueError, match=r"net\.towers must be at least 2, to be compared; got 1"):
        reproduce("figure3", tmp_path, store, recipe=one_tower, epochs=1)
    plain = replace(RECIPE, net=replace(RECIPE.net, normalise=None))
    with pytest.raises(ValueError, match=r"net\.normalise must be set, to be left out"):
        reproduce("cifar-normalisation", tmp_path, store, recipe=plain, epochs=1)
    with pytest.raises(ValueError, match=r"store_size 64; got 32: prepare another with --size 64, or name another"):
        reproduce("table1", tmp_path, store, recipe=replace(RECIPE, store_size=64), epochs=1)
    with pytest.raises(FileNotFoundError, match=r"--held-out 0\.5"):
        reproduce("fall2009", tmp_path)


def test_the_rates_of_a_layer_stay_in_place_when_shortened() -> None:
    recipe = replace(RECIPE, schedule="changes", changes=(Change(epoch=1, learning_rate=0.1, layers=("conv1",)),))
    assert shorten_schedule(recipe, 4).changes == (Change(epoch=2, learning_rate=0.1, layers=("conv1",)),)


def test_reproduce_lists_and_refuses(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(EXPERIMENTS) == list(describe_experiments())
    folder = ["--folder", str(tmp_path)]
    for arguments, said in (
        (["figure9"], "experiment must be one of figure1, "),
        (["figure1"], "figure1 needs a store (--data) prepared from CIFAR-10 (cifar-10-binary.tar.gz, "),
        (["ablations"], "ILSVRC2012_img_train.tar"),
        (["ablations", "--data", str(tmp_path / "none")], "no such store"),
        (["ablations", "--data", str(store), "--recipe", "none"], "--recipe must be one of"),
        (["ablations", "--data", str(store), "--epochs", "0"], "epochs must be a whole number of at least 1; got 0"),
        (["ablations", "--data", str(store)], "store_size 256; got 32"),
    ):
        assert main(["reproduce", *arguments, *folder]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_reproduce_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "figure2", "--folder", str(tmp_path), "--recipe", "cifar10-18pct"]) == 0
    out = capsys.readouterr().out
    assert "| conv3 | - | 4096 |" in out
    assert f"All in {tmp_path / 'figure2'}." in out

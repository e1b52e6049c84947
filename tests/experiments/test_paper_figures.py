"""The experiments that draw Figures 1 to 4 of the paper."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_experiments import RECIPE, record_trainings

from alexnet.data.store.store import Store
from alexnet.experiments import codes, figure1, figure2, figure3, figure4, reproduce
from alexnet.recipe import Recipe
from alexnet.recipes import RECIPES, recipe_named
from alexnet.results import binary_codes
from alexnet.results.examples import balanced_sample
from alexnet.results.figure_files import recipe_digest
from alexnet.results.run_history import RunHistory

pytestmark = pytest.mark.usefixtures("one_thread")


def test_figure1_searches_rates_and_compares_epochs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    monkeypatch.setattr(figure1, "RATES", (0.0001, 0.001, 0.01))
    monkeypatch.setattr(figure1, "ROUNDS", (("search", 1, None, 2), ("final", 2, 0.25, 1)))
    result = reproduce("figure1", tmp_path, store, recipe=RECIPE, epochs=12)
    assert trained[:3] == ["search-relu-0.0001", "search-relu-0.001", "search-relu-0.01"]
    assert (trained[5], trained[-1]) == ("relu-0", "tanh-0")
    errors = {name: RunHistory.read(tmp_path / "figure1" / name).epochs[-1]["train_error"] for name in trained[:5]}
    finals = [name.replace("final", "search") for name in trained[3:5]]
    (dropped,) = set(trained[:3]) - set(finals)
    assert max(errors[name] for name in finals) <= errors[dropped]
    best = result.notes[0].removeprefix("ReLU: learning rate ").split(", of")[0]
    assert errors[f"final-relu-{best}"] == min(errors[name] for name in trained[3:5])
    curves = result.numbers["training_error"]
    for activation in ("relu", "tanh"):
        recipe = Recipe.from_json((tmp_path / f"figure1/{activation}-0/recipe.json").read_text(encoding="utf-8"))
        assert (recipe.net.activation, recipe.decay, recipe.net.normalise) == (activation, 0, None)
        # It ends with the first epoch at or under 25 %.
        (errors,) = curves[activation]
        assert all(error > 0.25 for error in errors[:-1])
        assert errors[-1] <= 0.25 or len(errors) == 12
    assert (tmp_path / "figure1/figure1.png").stat().st_size > 10_000


def test_epochs_to_the_target_are_interpolated_between_epochs() -> None:
    assert figure1.epochs_to_target([0.6, 0.3, 0.2]) == pytest.approx(2.5)
    assert figure1.epochs_to_target([0.25]) == pytest.approx(1)
    assert figure1.epochs_to_target([0.6, 0.3]) is None


def test_figure2_has_the_paper_s_numbers_of_neurons(tmp_path: Path) -> None:
    result = reproduce("figure2", tmp_path)
    assert {row.name: row.measured[0][0] for row in result.rows} == figure2.PAPER_NEURONS
    assert all(row.paper[0] == row.measured[0][0] for row in result.rows)
    for name in RECIPES:
        recipe = recipe_named(name)
        assert figure2.draw(figure2.drawn_layers(recipe.net, figure2.count_classes(recipe))).axes


@pytest.mark.parametrize(
    ("name", "classes"), [("cifar10-18pct", 10), ("alexnet-2012-finetune", 1000), ("tiny", None), ("photos", None)]
)
def test_figure2_has_the_classes_of_the_recipe_s_pictures(name: str, classes: int | None) -> None:
    recipe = recipe_named(name)
    assert figure2.count_classes(recipe) == classes
    layers = figure2.drawn_layers(recipe.net, classes)
    assert layers[-1].neurons == classes
    assert str(classes or "classes") in [text.get_text() for text in figure2.draw(layers).axes[0].texts]


def test_figure2_writes_nothing_between_the_layers() -> None:
    """The lines between layers begin and end at their boxes: a text there would be crossed."""
    layers = figure2.drawn_layers(recipe_named("tiny").net, 10)
    (axes,) = figure2.draw(layers).axes
    for text in axes.texts:
        assert text.get_horizontalalignment() == "center"
        assert min(abs(text.get_position()[0] - 2.6 * number) for number in range(len(layers))) < 0.5


def test_an_experiment_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "figure2").mkdir()
    (tmp_path / "figure2" / "figure2.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"must be a new or empty folder, .*; it holds figure2\.png: name"):
        reproduce("figure2", tmp_path)
    assert (tmp_path / "figure2" / "figure2.png").read_bytes() == b"mine"


@pytest.mark.parametrize("unfinished", ["finding.json", "figure2.png"])
def test_an_experiment_that_was_killed_while_it_wrote_is_run_again(unfinished: str, tmp_path: Path) -> None:
    reproduce("figure2", tmp_path)
    folder = tmp_path / "figure2"
    (folder / unfinished).rename(folder / f"{unfinished}.part")
    if unfinished == "finding.json":  # the first file
        (folder / "figure2.png").unlink()
        (folder / "finding.md").unlink()
    reproduce("figure2", tmp_path)
    assert {"finding.json", "finding.md", "figure2.png"} <= {path.name for path in folder.iterdir()}


def test_figure1_shows_a_single_epoch() -> None:
    lines = figure1.draw({"relu": [[0.5]], "tanh": [[0.6]]}).axes[0].get_lines()
    assert [line.get_marker() for line in lines[:2]] == ["o", "o"]


@pytest.mark.parametrize(
    ("recipe", "captions"),
    [
        (
            "alexnet-2012-paper",
            {"conv1": "11x11, stride 4\nnormalised\nmax pooling 3/2", "conv2": "5x5\nnormalised\nmax pooling 3/2"},
        ),
        (
            "alexnet-2012-run",
            {
                "conv1": "11x11, stride 4\nnormalised\nmax pooling 3/2",
                "conv2": "5x5\nnormalised\nnormalised in maps\nmax pooling 3/2",
            },
        ),
        ("cifar10-11pct", {"conv1": "5x5\nmax pooling 3/2\nnormalised", "conv2": "5x5\nnormalised\nmax pooling 3/2"}),
    ],
)
def test_figure2_names_normalisation_and_pooling_in_the_net_s_order(recipe: str, captions: dict[str, str]) -> None:
    layers = {layer.name: layer.caption for layer in figure2.drawn_layers(recipe_named(recipe).net, 10)}
    assert {name: layers[name] for name in captions} == captions


def test_colour_shares_and_the_permutation_test() -> None:
    random = np.random.default_rng(0)
    grey = np.repeat(random.normal(size=(10, 1, 5, 5)), 3, axis=1)
    coloured = random.normal(size=(10, 3, 5, 5))
    coloured -= coloured.mean(1, keepdims=True)

    def share(weights: np.ndarray) -> float:
        return float(figure3.colour_share(figure3.colour_energies(weights)))

    assert share(grey) == pytest.approx(0, abs=1e-12)
    assert share(coloured) == pytest.approx(1)
    assert share(random.normal(size=(2000, 3, 5, 5))) == pytest.approx(2 / 3, abs=0.01)
    # Kernels count by their energy.
    energy = [(weights**2).sum() for weights in (grey, coloured)]
    assert share(np.concatenate([grey, coloured])) == pytest.approx(energy[1] / sum(energy))
    assert share(np.concatenate([grey, 1e-3 * coloured])) < 1e-5
    apart, mixed = np.r_[grey, coloured], np.stack([grey, coloured], axis=1).reshape(20, 3, 5, 5)
    assert figure3.permutation_p_value(figure3.null_distribution(figure3.colour_energies(apart)), 1.0) < 0.001
    difference = share(mixed[10:]) - share(mixed[:10])
    permuted = figure3.null_distribution(figure3.colour_energies(mixed))
    assert figure3.permutation_p_value(permuted, difference) > 0.3
    assert figure3.permutation_p_value(permuted, 0.0) == 1.0


def test_several_runs_tell_more_together_than_each_alone() -> None:
    random = np.random.default_rng(0)
    energies = np.stack([random.uniform(0.3, 0.6, size=16), np.ones(16)], axis=1)
    energies[8:, 0] += 0.05
    permuted = [figure3.null_distribution(energies, seed) for seed in range(4)]
    difference = float(figure3.colour_share(energies[8:]) - figure3.colour_share(energies[:8]))
    alone = figure3.permutation_p_value(permuted[0], difference)
    together = figure3.permutation_p_value(np.sum(permuted, axis=0), 4 * difference)
    # By the normal distribution: of |N(0, 1)| the mean is 0.798, the deviation 0.603.
    z_score = difference / permuted[0].std() * 0.603
    expected = 0.5 * math.erfc((z_score - 0.798) / (0.603 / 2) / math.sqrt(2))
    assert alone == pytest.approx(math.erfc(z_score / math.sqrt(2)), rel=0.2)
    assert together == pytest.approx(expected, rel=0.4)
    assert together < alone


def test_figure3_numbers_the_towers_by_colour(store: Path, tmp_path: Path) -> None:
    result = reproduce("figure3", tmp_path, store, recipe=RECIPE, seeds=2, epochs=1)
    for row in result.rows:
        less, more, chance = row.measured[0]
        assert 0 <= less <= more <= 100
        assert 0 < chance <= 100
    differing = sum(row.measured[0][2] < 5 for row in result.rows)
    assert result.notes[1].startswith(f"In {differing} of 2 runs the towers differ by more than chance")
    assert "Over all runs, the sum of their differences against sums for random divisions: p = " in result.notes[1]
    assert result.figures == ["figure3-0.png", "figure3-1.png"]
    assert any(note.startswith("As different by chance: of 10,000 random divisions") for note in result.notes)
    with Image.open(tmp_path / "figure3" / "figure3-0.png") as image:
        assert image.info["Digest"] == recipe_digest(RECIPE)


def test_figure4_measures_three_ways_of_searching(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_codes, "STEPS", 20)
    monkeypatch.setattr(figure4, "BITS", (16, 32))
    result = reproduce("figure4", tmp_path, store, recipe=RECIPE, epochs=1)
    assert [row.name for row in result.rows] == [
        "raw pixels",
        "activities",
        "codes of 16 bits, then activities",
        "codes of 32 bits, then activities",
    ]
    assert [row.measured[0][1] for row in result.rows] == [32 * 32 * 3, 4 * 16, 2, 4]
    test, train = Store(store).validation(), Store(store).split("train")
    vectors = np.stack([train.image(index).reshape(-1).astype(float) for index in range(len(train))])
    precisions = []
    for query in range(len(test)):
        distances = np.linalg.norm(vectors - test.image(query).reshape(-1).astype(float), axis=1)
        nearest = distances.argsort(kind="stable")[:6]
        precisions.append((train.labels[nearest] == test.labels[query]).mean())
    assert result.rows[0].measured[0][0] == pytest.approx(100 * np.mean(precisions))
    for name in result.figures:
        assert (tmp_path / "figure4" / name).stat().st_size > 10_000


def nearest_share(distances: np.ndarray, labels: np.ndarray, train_labels: np.ndarray, count: int = 10) -> float:
    """Return how many percent of the nearest pictures have the query's label, for distances (queries, pictures)."""
    nearest = distances.argsort(axis=1, kind="stable")[:, :count]
    return 100 * float((train_labels[nearest] == labels[:, None]).mean())


def test_codes_are_compared_with_the_vectors_that_they_are_of(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    monkeypatch.setattr(binary_codes, "STEPS", 20)
    monkeypatch.setattr(codes, "BITS", (16, 32))
    result = reproduce("codes", tmp_path, store, recipe=RECIPE, epochs=1, seeds=2)
    names = ["activities", "codes of activities, 16 bits", "codes of activities, 32 bits"]
    names += [name.replace("activities", "raw pixels") for name in names]
    assert [row.name for row in result.rows] == names
    assert [row.format_measured(1) for row in result.rows] == ["64", "2", "4", "3072", "2", "4"]
    assert [len(row.measured) for row in result.rows] == [2, 2, 2, 1, 2, 2]
    test, train = Store(store).validation(), Store(store).split("train")
    queries = balanced_sample(test.labels, len(test), 0)
    vectors, query_vectors = (
        np.stack([split.image(int(index)).reshape(-1).astype(float) for index in indices])
        for split, indices in ((train, np.arange(len(train))), (test, queries))
    )
    distances = np.linalg.norm(query_vectors[:, None] - vectors, axis=2)
    expected = nearest_share(distances, test.labels[queries], train.labels)
    assert result.rows[3].measured[0][0] == pytest.approx(expected)
    assert not (tmp_path / "codes/pixels.npy").exists()

    monkeypatch.setattr(codes, "train_autoencoder", None)  # the codes are there
    assert reproduce("codes", tmp_path, store, recipe=RECIPE, epochs=1, seeds=2).rows == result.rows
    assert trained == ["net-0", "net-1"]


def test_pixels_of_large_pictures_are_means_of_squares() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (130, 130, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture[:130, :130]).reduce(2)).reshape(-1).astype(int)
    assert abs(codes.small_picture(picture) - expected).max() <= 1  # halves may be rounded to either side
    assert np.array_equal(codes.small_picture(picture[:40, :40]), picture[:40, :40].reshape(-1))

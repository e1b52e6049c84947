"""The experiment `overfitting`: its classes and epochs, its nets, its table and figure."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import draw_pictures
from small_experiments import RECIPE, record_trainings, write_class_folders

from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.store import Store
from alexnet.experiments import overfitting, reproduce
from alexnet.experiments.claims_table import ClaimsResult
from alexnet.models.alexnet import AlexNet
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def large_store(tmp_path: Path) -> Path:
    """A store of ten classes, each with nine pictures to train on and two to validate on."""
    pictures = draw_pictures(110, 32)[0]
    write_class_folders(tmp_path / "pictures/train", pictures[:90], classes=10)
    write_class_folders(tmp_path / "pictures/val", pictures[90:], classes=10)
    prepare(tmp_path / "pictures", tmp_path / "large", size=32, progress=False)
    return tmp_path / "large"


def test_the_classes_leave_fifty_weights_for_each_picture(large_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(large_store)
    weights = sum(parameter.numel() for parameter in AlexNet(4, RECIPE.net).parameters())
    monkeypatch.setattr(overfitting, "WEIGHTS_PER_PICTURE", weights / (4 * 9))
    assert overfitting.choose_classes(store, RECIPE.net) == [store.classes[label] for label in (0, 2, 5, 7)]
    monkeypatch.setattr(overfitting, "WEIGHTS_PER_PICTURE", 0)
    assert overfitting.choose_classes(store, RECIPE.net) == list(store.classes)
    monkeypatch.setattr(overfitting, "WEIGHTS_PER_PICTURE", weights)
    assert overfitting.choose_classes(store, RECIPE.net) == [store.classes[label] for label in (0, 5)]


def test_the_paper_has_fifty_weights_for_each_picture_and_ninety_epochs() -> None:
    paper = recipe_named("alexnet-2012-paper")
    weights = sum(parameter.numel() for parameter in AlexNet(1000, paper.net).parameters())
    assert round(weights, -7) / 1.2e6 == overfitting.WEIGHTS_PER_PICTURE == 50  # "60 million"
    assert paper.epochs == overfitting.EPOCHS == 90


def test_each_net_is_trained_on_the_chosen_classes_and_judged(
    large_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    monkeypatch.setattr(overfitting, "choose_classes", lambda store, _net: store.classes[::3])

    def run() -> ClaimsResult:
        recipe, only = replace(RECIPE, epochs=90), ["no-dropout", "no-crops"]
        result = reproduce("overfitting", tmp_path / "out", large_store, recipe=recipe, epochs=2, seeds=1, only=only)
        assert isinstance(result, ClaimsResult)
        return result

    folder = tmp_path / "out/overfitting"
    (folder / "stores/4-classes").mkdir(parents=True)  # as after a kill while they are prepared
    result = run()
    assert trained == ["the-net-0", "no-dropout-0", "no-crops-0"]
    subset = Store(folder / "stores/4-classes")
    assert subset.classes == Store(large_store).classes[::3]
    assert (len(subset.split("train")), len(subset.split("val"))) == (36, 8)
    assert [row.claim.measure for row in result.claims] == ["overfitting", "error", "epochs", "overfitting", "error"]
    errors = {
        split: evaluate(folder / "no-dropout-0", subset.path, views=1, split=split)["top1_error"]
        for split in ("train", "val")
    }
    assert result.claims[0].changed == pytest.approx((100 * (errors["val"] - errors["train"]),))
    assert result.notes[0].startswith("2 epochs on 4 of 10 classes of large: ")
    assert (folder / "overfitting.png").stat().st_size > 10_000
    assert run() == result
    assert len(trained) == 3


def test_the_figure_shows_both_errors_of_each_net() -> None:
    runs = [{"training": 0.2, "centre": 0.4}, {"training": 0.3, "centre": 0.4}]
    axes = overfitting.draw({"the-net": runs, "no-decay": [], "no-dropout": runs[:1]}).axes[0]
    points = [tuple(float(value[0]) for value in line.get_data()) for line in axes.lines if line.get_marker() == "o"]
    assert points == [(0.25, 0), (0.4, 0), (0.2, 1), (0.4, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["the net", "no dropout"]


def test_names_and_epochs_are_checked_before_anything_is_prepared(large_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only must name some of the-net, no-overlap, .*; got 'tanh'"):
        reproduce("overfitting", tmp_path / "out", large_store, recipe=RECIPE, only=["tanh"])
    with pytest.raises(ValueError, match="epochs must be at most 90, as many as this experiment has"):
        reproduce("overfitting", tmp_path / "out", large_store, recipe=RECIPE, epochs=91)
    assert not (tmp_path / "out").exists()

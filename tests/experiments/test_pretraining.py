"""The experiment on pre-training: its smaller stores, what it trains, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_pictures
from small_experiments import RECIPE, record_trainings, write_class_folders

from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.subset import StoreSubset
from alexnet.data.store.store import Store
from alexnet.experiments import pretraining, reproduce
from alexnet.results.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ten_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ten classes, with eleven training pictures and three test pictures each."""
    folder = tmp_path_factory.mktemp("ten-classes")
    write_class_folders(folder / "pictures", draw_pictures(140, 32)[0], classes=10)
    prepare(folder / "pictures", folder / "store", size=32, train_per_class=11, progress=False)
    return folder / "store"


def test_a_subset_becomes_a_store_with_its_own_statistics(ten_classes: Path, tmp_path: Path) -> None:
    store = Store(ten_classes)
    train, test = store.split("train"), store.split("test")
    classes = ("class 7", "class 2")
    train_indices = pretraining.draw_pictures_of(train, (7, 2), 5, seed=1)
    assert set(train_indices) < set(pretraining.draw_pictures_of(train, (7, 2), 10, seed=1))
    test_indices = pretraining.draw_pictures_of(test, (7, 2), None, seed=0)
    assert np.isin(test.labels, (7, 2)).nonzero()[0].tolist() == test_indices.tolist()
    source = StoreSubset(store, classes, {"train": (train, train_indices), "test": (test, test_indices)})
    prepare(source, tmp_path / "small", progress=False)
    small = Store(tmp_path / "small")
    assert (small.classes, small.size, small.splits) == (classes, 32, ("train", "test"))
    assert np.bincount(small.split("train").labels).tolist() == [5, 5]
    for position, index in enumerate(train_indices):
        assert np.array_equal(small.split("train").image(position), train.image(int(index)))
        assert small.split("train").picture_name(position) == train.picture_name(int(index))
        assert classes[small.split("train").labels[position]] == store.classes[train.labels[index]]
    chosen = np.stack([train.image(int(index)) for index in train_indices])
    assert np.allclose(small.statistics.mean, chosen.mean(0).transpose(2, 0, 1), atol=1e-4)
    other = StoreSubset(store, classes, {"train": (train, train_indices[:-1]), "test": (test, test_indices)})
    with pytest.raises(ValueError, match="prepared with a source of other files"):
        prepare(other, tmp_path / "small", progress=False)


def test_pretraining_and_from_scratch_take_equally_many_steps(
    ten_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    result = reproduce("pretraining", tmp_path, ten_classes, recipe=RECIPE, epochs=1, seeds=2)
    names = [f"{method}-{count}-0" for count in ("5", "10", "all") for method in ("pre-trained", "from-scratch")]
    assert trained == ["pretrained-0", *names, *(name[:-1] + "1" for name in ("pretrained-0", *names))]
    assert reproduce("pretraining", tmp_path, ten_classes, recipe=RECIPE, epochs=1, seeds=2) == result
    assert len(trained) == 14
    folder = tmp_path / "pretraining"
    assert [(row.name, len(row.measured)) for row in result.rows[:2]] == [
        ("pre-trained, 5 pictures a class", 2),
        ("from scratch, 5 pictures a class", 2),
    ]
    assert "a stand-in for Caltech-101" in result.data
    assert (folder / "pretraining.png").stat().st_size > 10_000

    old, new = (Store(folder / "stores" / name) for name in ("old-0", "new-0-5"))
    assert (len(old.classes), len(new.classes)) == (8, 2)
    assert sorted((*old.classes, *new.classes)) == list(Store(ten_classes).classes)
    assert [len(store.split("test")) for store in (old, new)] == [24, 2]
    lines = (folder / "pre-trained-5-0/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    start = json.loads(lines[0])
    assert start["from"] == str(folder / "pretrained-0")
    assert start["taken"] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"]
    pictures_shown = set()
    for name in names:
        lines = (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        store = Store(folder / "stores" / f"new-0-{name.split('-')[2]}")
        pictures_shown.add(json.loads(lines[-1])["epoch"] * len(store.split("train")))
    assert pictures_shown == {20, 22}  # one epoch of 22, or two of 10, or one of 20
    for number, name in ((1, "from-scratch-5-1"), (-1, "from-scratch-all-1")):
        errors = evaluate(folder / name, folder / "stores/new-1-all", views=10)
        assert result.rows[number].measured[1] == (100 * errors["top1_error"],)
        assert errors["images"] == result.rows[number].images == 6


def test_pretraining_names_what_a_store_or_recipe_lacks(
    store: Path, ten_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = record_trainings(monkeypatch)
    for data, recipe, message in (
        (store, RECIPE, "must be of at least 10 classes; got 3"),
        (ten_classes, replace(RECIPE, store_size=40), "must have pictures of the recipe's store_size 40; got 32"),
        (ten_classes, replace(RECIPE, schedule="plateau"), "must be one that follows no error.*; got 'plateau'"),
    ):
        with pytest.raises(ValueError, match=message):
            reproduce("pretraining", tmp_path, data, recipe=recipe)
    monkeypatch.setattr(pretraining, "FEW", (5, 12))
    with pytest.raises(ValueError, match="at least 12 pictures of each class in 'train'; of 'class 0' it has 11"):
        reproduce("pretraining", tmp_path, ten_classes, recipe=RECIPE)
    assert trained == []

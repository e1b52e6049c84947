"""The errors of section 3, averages of views and nets, and the classifier, against plain computations."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, write_store
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet.data.store.store import Store
from alexnet.recipe import Recipe
from alexnet.results.classifier import Classifier
from alexnet.results.evaluate import evaluate
from alexnet.training.checkpoint import Checkpoint, load_best
from alexnet.training.error_rates import error_rates
from alexnet.training.inference import predict_pictures
from alexnet.training.train import train
from alexnet.utils.console import note_once


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, store: Path) -> list[Path]:
    """Two short trainings that differ in their seed; in float32 on every machine, as `views_by_hand` computes."""
    from conftest import small_net

    folder = tmp_path_factory.mktemp("runs")
    recipe = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2, precision="float32")
    for seed in (0, 1):
        train(store, folder / str(seed), replace(recipe, seed=seed), progress=False)
    return [folder / "0", folder / "1"]


def views_by_hand(found: Checkpoint, picture: np.ndarray) -> np.ndarray:
    """The mean of the softmax outputs over the ten views of section 5.1, in plain NumPy and torch."""
    net, crop, size = found.net(), found.recipe.net.image_size, picture.shape[0]
    start = (size - crop) // 2
    mean = found.statistics.mean[:, start : start + crop, start : start + crop]
    outputs = []
    for top, left in [(0, 0), (0, size - crop), (size - crop, 0), (size - crop, size - crop), (start, start)]:
        patch = picture[top : top + crop, left : left + crop].transpose(2, 0, 1).astype(np.float32)
        for view in (patch, patch[:, :, ::-1]):
            with torch.no_grad():
                outputs.append(net(torch.from_numpy(view - mean)[None]).softmax(1)[0].numpy())
    return np.mean(outputs, axis=0)


def test_ten_views_are_the_mean_of_ten_softmax_outputs(runs: list[Path], store: Path) -> None:
    found, split = load_best(runs[0]), Store(store).split("val")
    pictures = [split.image(i) for i in range(5)]
    ours = predict_pictures(found.net(), pictures, found.statistics.mean, found.recipe, 10).numpy()
    np.testing.assert_allclose(ours, [views_by_hand(found, picture) for picture in pictures], atol=1e-6)


def test_several_runs_are_averaged(runs: list[Path], store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note_once.cache_clear()
    split = Store(store).split("val")
    found = [load_best(run) for run in runs]
    each = [[views_by_hand(f, split.image(i)) for i in range(len(split))] for f in found]
    mean = np.mean(each, axis=0)
    result = evaluate(runs, store, views=10)
    assert result["images"] == 20
    assert result["views"] == 10
    assert result["top1_error"] == pytest.approx(np.mean(mean.argmax(1) != split.labels))
    assert result["top5_error"] == 0  # three classes
    assert capsys.readouterr().err == (
        "note: five guesses name all 3 classes: go by the top-1 error, not the top-5 error\n"
    )
    right = mean[np.arange(20), split.labels]
    assert result["log_prob"] == pytest.approx(-np.log(right).mean(), rel=1e-5)


def test_one_view_is_what_training_measured(runs: list[Path], store: Path) -> None:
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    lowest = min(line["val_top1_error"] for line in lines if line["event"] == "epoch")
    assert evaluate(runs[0], store)["top1_error"] == lowest


@given(st.integers(2, 12).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=8)), st.data())
def test_errors_are_those_of_a_sort(orders: list[list[int]], data: st.DataObject) -> None:
    classes = len(orders[0])
    labels = [data.draw(st.integers(0, classes - 1)) for _ in orders]
    predicted = np.zeros((len(orders), classes), np.float32)
    for row, order in zip(predicted, orders, strict=True):
        row[list(order)] = np.linspace(1, 0.1, classes) / np.linspace(1, 0.1, classes).sum()
    result = error_rates(torch.from_numpy(predicted), torch.tensor(labels))
    places = [list(order).index(label) for order, label in zip(orders, labels, strict=True)]
    assert result.top1_error == pytest.approx(np.mean([place > 0 for place in places]))
    assert result.top5_error == pytest.approx(np.mean([place > 4 for place in places]))


def test_a_net_that_says_the_same_of_every_class_is_right_by_chance_only() -> None:
    result = error_rates(torch.full((100, 10), 0.1), torch.arange(100) % 10)
    assert result.top1_error == pytest.approx(0.9)
    assert result.top5_error == pytest.approx(0.5)


def test_nan_counts_as_wrong() -> None:
    assert error_rates(torch.full((4, 10), torch.nan), torch.tensor([0, 1, 2, 3])).top1_error == 1


def test_the_classifier_names_what_evaluation_counts(runs: list[Path], store: Path) -> None:
    split, classifier = Store(store).split("val"), Classifier.load(runs[0])
    files = []
    for i in range(len(split)):
        file = io.BytesIO()
        Image.fromarray(split.image(i)).save(file, "PNG")
        files.append(file.getvalue())
    named = classifier.predict_many(files, views=1)
    assert all(sum(p for _, p in entry) == pytest.approx(1, abs=1e-5) for entry in named)
    assert all(entry == sorted(entry, key=lambda pair: -pair[1]) for entry in named)
    wrong = np.mean([entry[0][0] != CLASSES[label] for entry, label in zip(named, split.labels, strict=True)])
    assert wrong == evaluate(runs[0], store)["top1_error"]
    assert classifier.predict(files[0], top=1, views=1) == named[0][:1]
    assert classifier.predict_many([]) == []


def test_what_does_not_fit_is_refused(runs: list[Path], store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views must be 1"):
        evaluate(runs[0], store, views=5)
    with pytest.raises(FileNotFoundError, match="no checkpoint in it"):
        evaluate(tmp_path, store)
    with pytest.raises(ValueError, match="no split 'test'"):
        evaluate(runs[0], store, split="test")
    larger = write_store(tmp_path / "larger", size=40, train=6, val=3)
    with pytest.raises(ValueError, match="pictures of side 32"):
        evaluate(runs[0], larger)
    with pytest.raises(ValueError, match="runs must name at least one run"):
        evaluate([], store)
    (tmp_path / "page.jpg").write_text("a text file")
    with pytest.raises(ValueError, match=r"page\.jpg: not a readable picture"):
        Classifier.load(runs[0]).predict(tmp_path / "page.jpg")
    with pytest.raises(ValueError, match="top must be at least 1"):
        Classifier.load(runs[0]).predict(b"", top=0)

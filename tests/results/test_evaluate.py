"""Averages over views and nets, the errors of section 3 and the classifier, against plain computations."""

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
    """Two short trainings with different seeds; in float32 on every machine, as `mean_over_ten_views` computes."""
    from conftest import small_net

    folder = tmp_path_factory.mktemp("runs")
    recipe = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=2, precision="float32")
    for seed in (0, 1):
        train(store, folder / str(seed), replace(recipe, seed=seed), progress=False)
    return [folder / "0", folder / "1"]


def mean_over_ten_views(checkpoint: Checkpoint, picture: np.ndarray) -> np.ndarray:
    """Compute the mean of the softmax outputs over the ten views of section 5.1, in plain NumPy and torch."""
    net, crop, size = checkpoint.net(), checkpoint.recipe.net.image_size, picture.shape[0]
    start = (size - crop) // 2
    mean = checkpoint.statistics.mean[:, start : start + crop, start : start + crop]
    outputs = []
    for top, left in [(0, 0), (0, size - crop), (size - crop, 0), (size - crop, size - crop), (start, start)]:
        patch = picture[top : top + crop, left : left + crop].transpose(2, 0, 1).astype(np.float32)
        for view in (patch, patch[:, :, ::-1]):
            with torch.no_grad():
                outputs.append(net(torch.from_numpy(view - mean)[None]).softmax(1)[0].numpy())
    return np.mean(outputs, axis=0)


def test_ten_views_are_the_mean_of_ten_softmax_outputs(runs: list[Path], store: Path) -> None:
    checkpoint, split = load_best(runs[0]), Store(store).split("val")
    pictures = [split.image(i) for i in range(5)]
    predicted = predict_pictures(checkpoint.net(), pictures, checkpoint.statistics.mean, checkpoint.recipe, 10)
    expected = [mean_over_ten_views(checkpoint, picture) for picture in pictures]
    np.testing.assert_allclose(predicted.numpy(), expected, atol=1e-6)


def test_the_predictions_of_several_runs_are_averaged(
    runs: list[Path], store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note_once.cache_clear()
    split = Store(store).split("val")
    checkpoints = [load_best(run) for run in runs]
    by_net = [[mean_over_ten_views(net, split.image(i)) for i in range(len(split))] for net in checkpoints]
    mean = np.mean(by_net, axis=0)
    result = evaluate(runs, store, views=10)
    assert result["images"] == 20
    assert result["views"] == 10
    assert result["top1_error"] == pytest.approx(np.mean(mean.argmax(1) != split.labels))
    assert result["top5_error"] == 0  # three classes
    assert capsys.readouterr().err == (
        "note: five guesses name all 3 classes: go by the top-1 error, not the top-5 error\n"
    )
    correct = mean[np.arange(20), split.labels]
    assert result["log_prob"] == pytest.approx(-np.log(correct).mean(), rel=1e-5)


def test_the_error_with_one_view_is_that_measured_in_training(runs: list[Path], store: Path) -> None:
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    lowest = min(line["val_top1_error"] for line in lines if line["event"] == "epoch")
    assert evaluate(runs[0], store, views=1)["top1_error"] == lowest


@given(st.integers(2, 12).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=8)), st.data())
def test_errors_are_those_of_sorted_predictions(orders: list[list[int]], data: st.DataObject) -> None:
    classes = len(orders[0])
    labels = [data.draw(st.integers(0, classes - 1)) for _ in orders]
    predicted = np.zeros((len(orders), classes), np.float32)
    for row, order in zip(predicted, orders, strict=True):
        row[list(order)] = np.linspace(1, 0.1, classes) / np.linspace(1, 0.1, classes).sum()
    result = error_rates(torch.from_numpy(predicted), torch.tensor(labels))
    ranks = [list(order).index(label) for order, label in zip(orders, labels, strict=True)]
    assert result.top1_error == pytest.approx(np.mean([rank > 0 for rank in ranks]))
    assert result.top5_error == pytest.approx(np.mean([rank > 4 for rank in ranks]))


def test_equal_probabilities_are_correct_by_chance_only() -> None:
    result = error_rates(torch.full((100, 10), 0.1), torch.arange(100) % 10)
    assert result.top1_error == pytest.approx(0.9)
    assert result.top5_error == pytest.approx(0.5)


def test_nan_counts_as_wrong() -> None:
    assert error_rates(torch.full((4, 10), torch.nan), torch.tensor([0, 1, 2, 3])).top1_error == 1


def test_the_classifier_s_classes_are_those_that_evaluation_counts(runs: list[Path], store: Path) -> None:
    split, classifier = Store(store).split("val"), Classifier.load(runs[0])
    files = []
    for i in range(len(split)):
        file = io.BytesIO()
        Image.fromarray(split.image(i)).save(file, "PNG")
        files.append(file.getvalue())
    guesses = classifier.predict_many(files, views=1)
    assert all(sum(p for _, p in entry) == pytest.approx(1, abs=1e-5) for entry in guesses)
    assert all(entry == sorted(entry, key=lambda pair: -pair[1]) for entry in guesses)
    wrong = np.mean([entry[0][0] != CLASSES[label] for entry, label in zip(guesses, split.labels, strict=True)])
    assert wrong == evaluate(runs[0], store, views=1)["top1_error"]
    assert classifier.predict(files[0], top=1, views=1) == guesses[0][:1]
    assert classifier.predict_many([]) == []


def test_arguments_that_do_not_fit_are_refused(runs: list[Path], store: Path, tmp_path: Path) -> None:
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

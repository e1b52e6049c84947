"""The experiment `dropout`: the means over thinned nets, its measures, its table."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import small_net
from small_experiments import RECIPE

from alexnet.architecture import Full
from alexnet.experiments import dropout, reproduce
from alexnet.models.alexnet import AlexNet
from alexnet.results.evaluate import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")
_TEST, _ONE, _ARITHMETIC, _GEOMETRIC = dropout.ROWS


def test_with_one_dropout_the_geometric_mean_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "THINNED", 4000)
    torch.manual_seed(0)
    net = AlexNet(3, replace(small_net(), fc6=Full(units=24), fc7=Full(units=24, dropout=0.5))).eval()
    net.fc8.weight.data.mul_(100)  # thinned nets that differ
    features = torch.randn(5, *net.convs(torch.zeros(1, 3, 24, 24)).shape[1:]).abs()
    predictions = dropout.predict_thinned(net, features, torch.Generator().manual_seed(1))
    mean = predictions[_GEOMETRIC]
    labels = torch.zeros(5, dtype=torch.int64)
    divergence = {row: dropout.measure(values, mean, labels)[3] for row, values in predictions.items()}
    assert all(values.exp().sum(1).allclose(torch.ones(5)) for values in predictions.values())
    assert divergence[_GEOMETRIC] == 0
    assert divergence[_TEST] < 0.002 * divergence[_ONE]  # what 4000 samples leave
    assert divergence[_ARITHMETIC] > 10 * divergence[_TEST]
    assert not net.training
    assert not any(module.training for module in net.dropouts())
    assert torch.equal(net.forward_head(features).log_softmax(1), predictions[_TEST])


def test_the_means_are_those_of_their_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout, "THINNED", 2)
    outputs = [torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]]), torch.tensor([[0.2, 0.8]])]
    logits = iter([output.log() for output in outputs])
    net = AlexNet(2, small_net()).eval()
    monkeypatch.setattr(net, "forward_head", lambda _features: next(logits))
    predictions = dropout.predict_thinned(net, torch.zeros(1), torch.Generator())
    assert predictions[_TEST].exp().tolist() == [pytest.approx([0.5, 0.5])]
    assert predictions[_ONE].exp().tolist() == [pytest.approx([0.9, 0.1])]
    assert predictions[_ARITHMETIC].exp().tolist() == [pytest.approx([0.55, 0.45])]
    first, second = (0.9 * 0.2) ** 0.5, (0.1 * 0.8) ** 0.5
    assert predictions[_GEOMETRIC].exp().tolist() == [
        pytest.approx([first / (first + second), second / (first + second)])
    ]


def test_predictions_are_measured_against_the_labels_and_the_mean() -> None:
    predicted, mean = torch.tensor([[0.6, 0.4], [0.3, 0.7]]), torch.tensor([[0.4, 0.6], [0.3, 0.7]])
    top1, top5, other, divergence = dropout.measure(predicted.log(), mean.log(), torch.tensor([0, 0]))
    assert (top1, top5, other) == (0.5, 0, 0.5)
    assert divergence == pytest.approx((0.4 * torch.tensor(0.4 / 0.6).log() + 0.6 * torch.tensor(0.6 / 0.4).log()) / 2)


def test_a_net_is_compared_with_its_thinned_nets(store: Path, tmp_path: Path) -> None:
    result = reproduce("dropout", tmp_path, store, recipe=RECIPE, epochs=1, seeds=2)
    rows = {row.name: row.measured for row in result.rows}
    errors = [evaluate(tmp_path / f"dropout/net-{seed}", store, views=1)["top1_error"] for seed in (0, 1)]
    assert [values[0] for values in rows[_TEST]] == pytest.approx([100 * error for error in errors])
    assert [values[1] for values in rows[_TEST]] == [None, None]  # five guesses name all three classes
    assert [values[2:] for values in rows[_GEOMETRIC]] == [(0, 0), (0, 0)]
    assert all(values[3] > 0 for values in rows[_ONE])
    assert reproduce("dropout", tmp_path, store, recipe=RECIPE, epochs=1, seeds=2) == result


def test_a_net_without_dropout_is_refused(store: Path, tmp_path: Path) -> None:
    net = replace(RECIPE.net, fc6=Full(units=8), fc7=Full(units=8))
    with pytest.raises(ValueError, match=r"the recipe's net must have dropout.*; it has none: name another `recipe`"):
        reproduce("dropout", tmp_path / "out", store, recipe=replace(RECIPE, net=net))
    assert not (tmp_path / "out").exists()

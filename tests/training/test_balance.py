"""Classes of different sizes: balanced sampling, weights in the loss, and the error averaged over the classes."""

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, draw_pictures, small_net, small_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from alexnet.data.loading.loader import Loader
from alexnet.data.loading.sampler import balanced_draws, epoch_order
from alexnet.data.prepare.prepare import prepare
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.results.evaluate import evaluate
from alexnet.training.class_weights import class_weights
from alexnet.training.error_rates import error_rates
from alexnet.training.sgd import SGD
from alexnet.training.step import Step
from alexnet.training.train import train
from alexnet.utils.intervals import mean_rate_interval

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = (24, 8, 4)  # training pictures of each class


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with COUNTS training pictures of the three classes, and 6, 2 and 1 validation pictures."""
    folder = tmp_path_factory.mktemp("uneven")
    pictures, labels = draw_pictures(3 * 40, 32)
    for label, name in enumerate(CLASSES):
        mine = pictures[labels == label]
        for split, start, count in (("train", 0, COUNTS[label]), ("val", 30, COUNTS[label] // 4)):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for number in range(start, start + count):
                Image.fromarray(mine[number]).save(folder / "pictures" / split / name / f"{number}.png")
    prepare(folder / "pictures", folder / "store", size=32, progress=False)
    return folder / "store"


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 3), st.integers(0, 3))
def test_classes_are_drawn_equally_often(labels: list[int], seed: int, epoch: int) -> None:
    array = np.array(labels)
    draws = balanced_draws(array, seed=seed, epoch=epoch)
    assert len(draws) == len(labels)
    assert len(set(draws.tolist())) == len(draws)  # each has random numbers of its own
    drawn = Counter(array[draws % len(array)].tolist())
    assert set(drawn) == set(labels)
    assert max(drawn.values()) - min(drawn.values()) <= 1
    for label, number in drawn.items():  # each picture of a class as often as any other, or once more
        times = Counter((draws % len(array))[array[draws % len(array)] == label].tolist())
        each = [times[index] for index in np.flatnonzero(array == label).tolist()]
        assert sum(each) == number
        assert max(each) - min(each) <= 1
        for index, count in times.items():
            assert sorted((draws // len(array))[draws % len(array) == index].tolist()) == list(range(count))


def test_the_draws_differ_between_epochs_and_seeds_but_not_between_calls() -> None:
    labels = np.repeat([0, 1, 2], [200, 20, 10])
    draws = {(seed, epoch): balanced_draws(labels, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({array.tobytes() for array in draws.values()}) == 4
    assert np.array_equal(draws[0, 1], balanced_draws(labels, seed=0, epoch=1))
    of_large_class = [set(array[array < 200].tolist()) for array in draws.values()]
    assert len(set.union(*of_large_class)) > 150  # other pictures of a large class in each epoch
    assert not np.array_equal(np.argsort(draws[0, 0]), np.argsort(epoch_order(230, seed=0, epoch=0)))


def test_a_picture_that_is_drawn_twice_is_augmented_in_two_ways(uneven: Path) -> None:
    store, recipe = Store(uneven), replace(small_recipe(), balance="sampling", batch_size=36)
    (batch,) = Loader(store.split("train"), store.statistics, recipe).batches(0)
    assert np.bincount(batch.labels).tolist() == [12, 12, 12]
    assert np.array_equal(store.split("train").labels[batch.indices], batch.labels)
    repeated = [index for index, count in Counter(batch.indices.tolist()).items() if count == 3]
    assert len(repeated) == 4  # the four of the smallest class
    for index in repeated:
        images = [image.numpy().tobytes() for image in batch.images[batch.indices == index]]
        assert len(set(images)) == 3
    plain = replace(recipe, balance="none")
    (other,) = Loader(store.split("train"), store.statistics, plain).batches(0)
    first = int(other.indices[other.labels == 2][0])  # the first draw of a picture is the one without balancing
    ours = {image.numpy().tobytes() for image in batch.images[batch.indices == first]}
    assert other.images[other.indices == first][0].numpy().tobytes() in ours


def test_a_device_gets_the_same_draws(uneven: Path) -> None:
    store, recipe = Store(uneven), replace(small_recipe(), balance="sampling", batch_size=16)
    loaders = [Loader(store.split("train"), store.statistics, recipe, workers=n) for n in (0, 2)]
    loaders[1].augments_on_device = True
    for ours, theirs in zip(*(loader.batches(1) for loader in loaders), strict=True):
        assert np.array_equal(ours.indices, theirs.indices)
        assert torch.equal(ours.labels, theirs.labels)
        assert torch.allclose(ours.images, theirs.images, atol=1e-4)


def test_class_weights_are_those_of_scikit_learn(uneven: Path) -> None:
    store = Store(uneven)
    assert class_weights(Recipe(), store) is None
    weights = class_weights(replace(small_recipe(), balance="weights"), store)
    assert weights is not None
    assert weights.tolist() == pytest.approx([36 / (3 * count) for count in COUNTS])  # n_samples / (n_classes * count)
    assert (weights * torch.tensor(COUNTS)).sum() / 36 == pytest.approx(1)


@pytest.mark.parametrize("micro_batch", [6, 4])
def test_the_loss_is_the_mean_of_the_weighted_losses(micro_batch: int) -> None:
    torch.manual_seed(0)
    net_recipe = replace(small_net(), fc6=None, fc7=None)  # no dropout
    net = AlexNet(3, net_recipe)
    images, labels = torch.randn(6, 3, 24, 24), torch.tensor([0, 0, 2, 1, 0, 2])
    weights = torch.tensor([0.5, 1.0, 3.0])
    recipe = Recipe(net=net_recipe, store_size=32, batch_size=6, label_smoothing=0.1, precision="float32")
    losses = F.cross_entropy(net(images), labels, reduction="none", label_smoothing=0.1)
    expected = (losses * weights[labels]).mean()
    expected.backward()
    gradients = [weight.grad.clone() for weight in net.parameters() if weight.grad is not None]
    optimiser = SGD(net.parameters(), rate=0.0, momentum=0.9, decay=0.0)
    step = Step(net, optimiser, recipe, class_weights=weights, micro_batch=micro_batch)
    loss, _ = step(images, labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for weight, gradient in zip(net.parameters(), gradients, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_macro_error_is_the_mean_over_the_classes() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    predicted = torch.tensor([0, 0, 0, 1, 0, 0, 1, 0, 0, 3])
    rates = error_rates(F.one_hot(predicted, 4).float(), labels)  # no picture of class 2
    assert rates.top1_error == pytest.approx(3 / 10)
    assert rates.macro_error == pytest.approx((1 / 6 + 2 / 3 + 0) / 3)
    assert rates.macro_interval == mean_rate_interval(rates.macro_error, [6, 3, 1])


@pytest.mark.parametrize("balance", ["sampling", "weights"])
def test_a_balanced_training_is_resumed_to_the_bit(uneven: Path, tmp_path: Path, after_step: Any, balance: Any) -> None:
    recipe = replace(small_recipe(), balance=balance, epochs=2)
    train(uneven, tmp_path / "whole", recipe, progress=False)
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 2 else None)
    assert train(uneven, tmp_path / "resumed", recipe, progress=False).signal
    after_step(lambda _: None)
    assert train(uneven, tmp_path / "resumed", recipe, progress=False).finished
    files = [next((tmp_path / name / "checkpoints").glob("step-*8.safetensors")) for name in ("whole", "resumed")]
    assert files[0].stat().st_size == files[1].stat().st_size
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines()[-2] for name in ("whole", "resumed")]
    first, second = ({k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines)
    assert first == second
    result = evaluate(tmp_path / "whole", uneven, views=1)
    assert result["macro_error"] == first["val_macro_error"]
    assert result["macro_interval"] == first["val_macro_interval"]
    assert result["chosen_on_split"]
    assert not evaluate(tmp_path / "whole", uneven, split="train")["chosen_on_split"]


def test_a_recipe_of_an_earlier_version_has_no_balance() -> None:
    fields = json.loads(Recipe().to_json())
    del fields["balance"]
    assert Recipe.from_json(json.dumps(fields)) == Recipe()
    with pytest.raises(ValueError, match="balance must be one of 'none', 'sampling', 'weights'; got 'both'"):
        Recipe().with_settings(["balance=both"])

"""Frozen layers: they keep their weights, have no velocity, and their activities are computed once."""

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_net, small_recipe
from runs import assert_same_run, load_last, read_metrics

from alexnet.cli.chosen_recipe import join_all_but, parse_frozen
from alexnet.data.loading.loader import Loader
from alexnet.data.store.local import LocalSplit
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.models.front import split_net
from alexnet.recipe import Change, Recipe
from alexnet.training.activity_file import ActivityFile
from alexnet.training.schedule import make_schedule
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread", "frequent_metrics")
LAYERS = small_net().layers()
CONVS = LAYERS[:5]
# Six epochs of five steps, each augmentation twice: from the fourth epoch on all activities are there.
RECIPE = replace(small_recipe(), frozen=CONVS, augmentations=3, epochs=6, precision="float32")
ROW_BYTES = 4 * 8  # conv5 has 8 maps of side 1
TRAIN, VAL = 48, 20  # pictures of the store


@pytest.fixture(scope="module")
def cached(store: Path, one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """A finished run of RECIPE that has kept all activities."""
    run = tmp_path_factory.mktemp("runs") / "cached"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet.training.train.STEPS_PER_LINE", 2)
        train(store, run, RECIPE, progress=False)
    return run


def assert_same_losses(run: Path, expected: Path, tolerance: float) -> None:
    """Check that two runs have the same losses and errors in all steps and epochs, to a relative tolerance."""
    for event in ("step", "epoch"):
        for line, other in zip(read_metrics(run, event), read_metrics(expected, event), strict=True):
            values, others = ({k: v for k, v in fields.items() if isinstance(v, float)} for fields in (line, other))
            assert values == pytest.approx(others, rel=tolerance)


@pytest.fixture
def pictures_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of the pictures that have been read from the store, in order."""
    read: list[int] = []
    images = LocalSplit.images

    def record(self: LocalSplit, indices: Iterable[int]) -> Iterator[np.ndarray]:
        indices = list(indices)
        read.extend(indices)
        return images(self, indices)

    monkeypatch.setattr(LocalSplit, "images", record)
    return read


def test_frozen_layers_end_as_with_rate_0_and_have_no_velocity(store: Path, tmp_path: Path) -> None:
    frozen = ("conv1", "conv2", "fc7")  # not only the first layers
    recipe = replace(small_recipe(), epochs=1)
    train(store, tmp_path / "frozen", replace(recipe, frozen=frozen), progress=False)
    no_rate = (Change(epoch=0, learning_rate=0.0, layers=frozen),)
    train(store, tmp_path / "no-rate", replace(recipe, changes=no_rate), progress=False)
    actual, expected = load_last(tmp_path / "frozen").tensors, load_last(tmp_path / "no-rate").tensors
    assert expected.keys() - actual.keys() == {
        name for name in expected if name.startswith("velocity.") and name.split(".")[-3] in frozen
    }
    assert all(torch.equal(tensor, expected[name]) for name, tensor in actual.items())
    assert read_metrics(tmp_path / "frozen", "epoch") == read_metrics(tmp_path / "no-rate", "epoch")


def test_no_gradient_is_computed_for_frozen_layers_nor_before_the_first_that_learns() -> None:
    net = AlexNet(3, small_net())
    net.freeze(("conv1", "conv3", "fc6"))
    net(torch.randn(2, 3, 24, 24)).sum().backward()
    for name, layer in net.layers().items():
        assert (layer.weight.grad is None) == (layer.bias.grad is None) == (name in ("conv1", "conv3", "fc6"))  # type: ignore[union-attr]
    net.freeze(CONVS)
    maps = net.convs(torch.randn(2, 3, 24, 24))
    assert not maps.requires_grad


@pytest.mark.parametrize("count", range(len(LAYERS)))
def test_a_net_is_its_head_after_its_front_and_dropout_between_frozen_layers_is_off(count: int) -> None:
    torch.manual_seed(0)
    net, x = AlexNet(3, replace(small_net(), conv_dropout=0.3)), 20 * torch.randn(4, 3, 24, 24)
    front, head = split_net(net, LAYERS[:count])
    net.eval()
    assert torch.equal(head(front(x)), net(x))
    expected = front(x)
    net.train().freeze(LAYERS[:count])
    assert torch.equal(front(x), expected)
    for dropout in net.dropouts():
        dropout.key = torch.tensor([3])
    assert torch.equal(head(expected), net(x))
    outputs = [head(expected) for dropout.key in (torch.tensor([4]), torch.tensor([5]))]
    assert not torch.equal(*outputs), "dropout before a layer that learns stays on"


def test_an_augmentation_returns_after_so_many_epochs_in_another_order(store: Path) -> None:
    opened = Store(store)
    loader = Loader(opened.split("train"), opened.statistics, replace(RECIPE, augmentations=3), workers=0)
    epochs = [list(loader.batches(epoch)) for epoch in (1, 2, 4)]
    orders = [np.concatenate([batch.indices for batch in batches]) for batches in epochs]
    images = [
        torch.cat([batch.images for batch in batches])[order.argsort()]
        for batches, order in zip(epochs, orders, strict=True)
    ]
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert not np.array_equal(orders[0], orders[2])


def test_activities_are_computed_once_and_the_losses_are_those_without_the_cache(
    store: Path, cached: Path, tmp_path: Path, pictures_read: list[int]
) -> None:
    train(store, tmp_path / "run", RECIPE, progress=False)
    assert len(pictures_read) == 3 * TRAIN + VAL
    assert_same_run(tmp_path / "run", cached)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints", "metrics.jsonl", "recipe.json"}
    pictures_read.clear()
    train(store, tmp_path / "plain", RECIPE, cache_gb=0, progress=False)
    assert len(pictures_read) == 6 * (TRAIN + VAL)
    assert_same_losses(tmp_path / "plain", cached, 1e-6)


@pytest.mark.parametrize(  # an epoch has five steps
    ("step", "rows"),
    [(3, None), (8, None), (14, None), (17, None), (8, VAL + TRAIN + 17), (17, VAL + TRAIN + 17), (8, 9)],
)
def test_a_run_that_keeps_activities_resumes_to_the_same_bits(
    step: int, rows: int | None, store: Path, cached: Path, tmp_path: Path, after_step: Any
) -> None:
    cache_gb = 8 if rows is None else (rows + 0.5) * ROW_BYTES / 1e9
    if rows is not None:  # the activities that are not kept are computed in other batches, so with other rounding
        train(store, cached := tmp_path / "uninterrupted", RECIPE, cache_gb=cache_gb, progress=False)
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == step else None)
    assert not train(store, tmp_path / "run", RECIPE, cache_gb=cache_gb, progress=False).finished
    assert train(store, tmp_path / "run", RECIPE, cache_gb=cache_gb, progress=False).finished
    assert_same_run(tmp_path / "run", cached)


def test_only_the_activities_that_do_not_fit_are_computed_anew(
    store: Path, tmp_path: Path, pictures_read: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = VAL + TRAIN + 17  # the pictures of the first augmentation, and 17 of the second
    train(store, tmp_path / "run", RECIPE, cache_gb=(rows + 0.5) * ROW_BYTES / 1e9)
    assert len(pictures_read) == 3 * TRAIN + VAL + (TRAIN - 17) + TRAIN
    assert "of 3 augmentations of 48 pictures, and of 20 validation pictures; only 2.7 kB of" in capsys.readouterr().err


def test_when_the_colour_shift_ends_the_activities_are_computed_again(store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, changes=(Change(epoch=4, colour_shift=False),), colour_deviation=1.0)
    train(store, tmp_path / "run", recipe, progress=False)
    train(store, tmp_path / "plain", recipe, cache_gb=0, progress=False)
    assert_same_losses(tmp_path / "plain", tmp_path / "run", 1e-5)


@pytest.mark.parametrize("frozen", [("conv1",), LAYERS[:-1]])
def test_any_front_can_be_kept(frozen: tuple[str, ...], store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, frozen=frozen, augmentations=1, epochs=2)
    for run, gigabytes in (("run", 1), ("plain", 0)):
        train(store, tmp_path / run, recipe, cache_gb=gigabytes, progress=False)
    assert_same_losses(tmp_path / "plain", tmp_path / "run", 1e-5)


def test_in_bfloat16_activities_are_kept_in_bfloat16(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types: list[torch.dtype] = []
    init = ActivityFile.__init__

    def record(self: ActivityFile, folder: Path, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        types.append(dtype)
        init(self, folder, rows, shape, dtype)

    monkeypatch.setattr(ActivityFile, "__init__", record)
    recipe = replace(RECIPE, precision="bfloat16", augmentations=1, epochs=2)
    for run, gigabytes in (("run", 1), ("plain", 0)):
        train(store, tmp_path / run, recipe, cache_gb=gigabytes, progress=False)
    assert types == [torch.bfloat16]
    assert_same_losses(tmp_path / "plain", tmp_path / "run", 1e-2)


def test_a_frozen_front_without_a_number_of_augmentations_keeps_nothing_and_says_how(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path / "run", replace(RECIPE, augmentations=None, epochs=1))
    assert "frozen layers conv1 to conv5; augmentations=10 in the recipe gives" in capsys.readouterr().err


def test_a_disk_without_room_for_the_activities_is_named(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(OSError, match=r"run: the disk is full; free some space"):
        train(store, tmp_path / "run", RECIPE, progress=False)
    with pytest.raises(ValueError, match="cache_gb must be a number of gigabytes from 0"):
        train(store, tmp_path / "run", RECIPE, cache_gb=-1, progress=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_on_kept_activities_with_a_graph(store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=2, augmentations=1)
    for run, gigabytes in (("run", 1), ("plain", 0)):
        train(store, tmp_path / run, recipe, cache_gb=gigabytes, device="cuda", progress=False)
    assert_same_losses(tmp_path / "plain", tmp_path / "run", 1e-3)


def test_rate_factors_multiply_the_rates_of_weights_and_biases() -> None:
    changes = (Change(epoch=1, learning_rate=0.5),)
    recipe = Recipe(
        net=small_net(), store_size=32, schedule="changes", changes=changes, bias_rate=0.02, frozen=("conv1",),
        rate_factors={"conv1": 3.0, "conv2": 0.1},
    )  # fmt: skip
    before, after = (make_schedule(recipe).rates_at(epoch) for epoch in (0, 1))
    assert before.weights.keys() == before.biases.keys() == {*LAYERS} - {"conv1"}
    assert (before.weights["conv2"], before.biases["conv2"]) == pytest.approx((0.001, 0.002))
    assert (before.weights["fc8"], before.biases["fc8"]) == (0.01, 0.02)
    assert (after.weights["conv2"], after.biases["conv2"]) == pytest.approx((0.05, 0.002))


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("conv1", ("conv1",)),
        ("conv2,conv1", ("conv1", "conv2")),
        ("conv1,...,conv5", CONVS),
        ("conv1,...,conv3,fc7", (*CONVS[:3], "fc7")),
        ("all-but fc8", LAYERS[:-1]),
        ("all-but fc6,...,fc8", CONVS),
    ],
)
def test_freeze_names_layers(text: str, layers: tuple[str, ...]) -> None:
    assert parse_frozen(text, LAYERS) == layers


@pytest.mark.parametrize(
    "text", ["conv9", "conv1,,conv2", "all-but", "all-but conv9", "conv1,...", "...,conv2", "conv1,...,...,conv3"]
)
def test_what_freeze_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^--freeze must .*; got '"):
        parse_frozen(text, LAYERS)


@pytest.mark.parametrize(
    "typed", [["--freeze", "all-but", "fc8"], ["--freeze", "all-but fc8"], ["--freeze=all-but", "fc8"]]
)
def test_all_but_may_be_typed_as_words_of_their_own(typed: list[str], parse: Callable[..., Any]) -> None:
    assert parse(["train", *typed, "STORE", "RUN"]).freeze == "all-but fc8"
    assert parse(["train", "STORE", "RUN", *typed]).freeze == "all-but fc8"
    assert join_all_but(["predict", "all-but", "fc8"]) == ["predict", "all-but", "fc8"]


@pytest.fixture
def parse() -> Callable[[list[str]], Any]:
    """A function that parses a command line as `alexnet` does."""
    from alexnet.cli.main import build_parser

    return lambda arguments: build_parser().parse_args(join_all_but(arguments))

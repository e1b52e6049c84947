"""Start values from another run: which layers are taken, what is refused, and how the run is resumed."""

import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, small_net, write_store
from runs import assert_same_run, load_last, read_metrics

from alexnet.architecture import Conv
from alexnet.cli.main import main
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Change, Recipe
from alexnet.recipes import RECIPES
from alexnet.training.checkpoint import load_best, load_checkpoint
from alexnet.training.error_rates import measure_errors
from alexnet.training.finetune import Taken, take_weights
from alexnet.training.signals import StopRequest
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=1)


@pytest.fixture(scope="module")
def first(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    train(store, run, RECIPE, progress=False)
    return run


def weights(net: AlexNet) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in net.layers().items()}


def test_every_layer_that_fits_is_taken(first: Path) -> None:
    trained, classes = weights(load_best(first).net()), load_best(first).classes
    same = AlexNet(3, RECIPE.net)
    assert take_weights(same, classes, first) == Taken(tuple(trained), classes=3)
    assert all(torch.equal(w, trained[name]) for name, w in weights(same).items())

    other = AlexNet(3, RECIPE.net)  # as many classes, but other ones: the output layer is not taken
    start = weights(other)["fc8"]
    assert take_weights(other, ("a", "b", "c"), first) == Taken(tuple(name for name in trained if name != "fc8"))
    assert torch.equal(other.fc8.weight, start)


def test_classes_of_the_same_name_are_taken_and_the_others_keep_their_start_values(first: Path) -> None:
    trained = load_best(first).net()
    classes = ("a class", "red disc", "another class", "blue stripes")
    net = AlexNet(4, RECIPE.net)
    start = {name: parameter.detach().clone() for name, parameter in net.fc8.named_parameters()}
    taken = take_weights(net, classes, first)
    assert taken == Taken(RECIPE.net.layers(), classes=2)
    assert taken.describe("runs/first", 4) == (
        "start values from runs/first: conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8 (2 of 4 classes)"
    )
    rows = {1: CLASSES.index("red disc"), 3: CLASSES.index("blue stripes")}
    for name, parameter in net.fc8.named_parameters():
        values = getattr(trained.fc8, name)
        for row in range(4):
            assert torch.equal(parameter[row], values[rows[row]] if row in rows else start[name][row])
    assert take_weights(AlexNet(4, RECIPE.net), classes, first, ["fc8"]) == Taken(("fc8",), classes=2)


def test_what_was_taken_is_printed_and_written(
    first: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path / "run", RECIPE, start_from=first, take=["conv1", "fc8"])
    assert f"start values from {first}: conv1, fc8 (3 of 3 classes)\n" in capsys.readouterr().err
    (start,) = read_metrics(tmp_path / "run", "start")
    assert (start["taken"], start["taken_classes"]) == (["conv1", "fc8"], 3)


def test_the_mean_activity_of_the_first_run_is_subtracted_and_kept(
    first: Path, tmp_path: Path, after_step: Any
) -> None:
    other = write_store(tmp_path / "store", seed=5, train=24, val=6)
    recipe = replace(RECIPE, mean="start", epochs=2)
    train(other, tmp_path / "uninterrupted", recipe, start_from=first, progress=False)
    last, opened = load_last(tmp_path / "uninterrupted"), Store(other)
    mean = load_best(first).statistics.mean
    assert np.array_equal(last.statistics.mean, mean)
    assert not np.array_equal(opened.statistics.mean, mean)
    assert np.array_equal(last.statistics.covariance, opened.statistics.covariance)
    measured = measure_errors(last.net(), opened.validation(), mean, recipe)
    assert measured.log_prob == pytest.approx(read_metrics(tmp_path / "uninterrupted", "epoch")[-1]["val_log_prob"])

    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 4 else None)
    assert not train(other, tmp_path / "run", recipe, start_from=first, progress=False).finished
    assert train(other, tmp_path / "run", progress=False).finished  # the first run is not needed any more
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_a_mean_that_cannot_be_used_is_refused(first: Path, store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, mean="start")
    with pytest.raises(ValueError, match='a recipe with mean "start" must be given a run to start from; got none'):
        train(store, tmp_path / "run", recipe, progress=False)
    larger = write_store(tmp_path / "store", size=40, train=6, val=3)
    with pytest.raises(
        ValueError, match=r"must have pictures of side 40, .*; it has 32: prepare the store with `size=32`"
    ):
        train(larger, tmp_path / "run", replace(recipe, store_size=40), start_from=first, progress=False)
    assert not (tmp_path / "run").exists()


def test_the_rate_of_what_is_taken_is_recorded_by_layer(
    first: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "small", lambda: RECIPE)
        options = ["--from", str(first), "--recipe", "small", "--freeze", "conv1,...,conv4", "--taken-rate", "0.1"]
        assert main(["train", str(store), str(tmp_path / "run"), *options]) == 0
        other = write_store(tmp_path / "store", train=20, val=6, classes=("red disc", "a class", "another"))
        assert "frozen at random" not in capsys.readouterr().err
        assert main(["train", str(other), str(tmp_path / "other"), *options, "--take", "conv4,conv5,fc8"]) == 0
        assert (
            "\nfrozen at random start values, as they are not taken: conv1, conv2, conv3\n" in capsys.readouterr().err
        )
        assert main(["train", str(other), str(tmp_path / "none"), *options, "--take", "conv4,fc8"]) == 2
    recipe, other_recipe = (load_last(tmp_path / run).recipe for run in ("run", "other"))
    assert recipe.frozen == ("conv1", "conv2", "conv3", "conv4")
    assert recipe.rate_factors == dict.fromkeys(("conv5", "fc6", "fc7", "fc8"), 0.1)
    assert other_recipe.rate_factors == {"conv5": 0.1}, "classes that are new learn at the full rate"
    (line,) = capsys.readouterr().err.splitlines()
    assert "--taken-rate must have a layer to act on that is taken whole and learns; of conv4, fc8 none does" in line
    assert not (tmp_path / "none").exists()


def test_a_layer_that_the_first_net_lacks_is_not_taken(first: Path) -> None:
    net = replace(RECIPE.net, conv6=Conv(maps=8, all_towers=True))
    taken = take_weights(AlexNet(3, net), ("a", "b", "c"), first).layers
    assert "conv6" not in taken
    assert "conv5" in taken


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (["conv1", "fc8"], "'fc8'.*no class is in both"),
        (["conv6"], "'conv6'.*the new net has no such layer"),
        (["fc6"], r"'fc6'.*its weights have shape \(\d+, \d+\) in the run and \(\d+, \d+\) in the new net"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(first: Path, layers: list[str], reason: str) -> None:
    assert RECIPE.net.fc6
    net = AlexNet(3, replace(RECIPE.net, fc6=replace(RECIPE.net.fc6, units=5)))
    before = weights(net)
    with pytest.raises(ValueError, match=reason):
        take_weights(net, ("a", "b", "c"), first, layers)
    assert all(torch.equal(w, before[name]) for name, w in weights(net).items())


def test_a_half_finished_run_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "alexnet.training.train.stop_on_signal", lambda: contextlib.nullcontext(StopRequest(signal.SIGINT))
        )
        assert not train(store, tmp_path / "half", RECIPE, progress=False).finished
    with pytest.raises(ValueError, match="must be finished to take weights from it; it has done 0 epochs: resume it"):
        take_weights(AlexNet(3, RECIPE.net), ("a", "b", "c"), tmp_path / "half")


def test_a_wrong_layer_leaves_no_run_behind(first: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such layer"):
        train(store, tmp_path / "run", RECIPE, start_from=first, take=["conv9"], progress=False)
    assert not (tmp_path / "run").exists()


def test_nets_without_a_common_layer_are_refused(first: Path) -> None:
    assert RECIPE.net.conv1
    net = replace(RECIPE.net, conv1=replace(RECIPE.net.conv1, maps=6), conv2=None, conv3=None, conv4=None, conv5=None)
    with pytest.raises(ValueError, match="must have a layer of the same name and shape"):
        take_weights(AlexNet(2, replace(net, fc7=None, fc6=None)), ("a", "b"), first)


def test_frozen_layers_keep_the_weights_taken_and_the_run_resumes_without_the_first(
    first: Path, tmp_path: Path
) -> None:
    store = write_store(tmp_path / "store", train=20, val=6)
    frozen = (Change(epoch=0, learning_rate=0.0, layers=("conv1", "conv2")),)
    recipe = replace(RECIPE, schedule="changes", changes=frozen, epochs=2)
    train(store, tmp_path / "run", recipe, start_from=first, take=["conv1", "conv2"], progress=False)
    ends = weights(load_checkpoint(list_checkpoints(tmp_path / "run")[-1]).net())
    trained = weights(load_best(first).net())
    for name, end in ends.items():
        assert torch.equal(end, trained[name]) == (name in ("conv1", "conv2")), name
    start = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (start["from"], start["taken"]) == (str(first), ["conv1", "conv2"])

    # If it is stopped before its first step ends, it keeps what it took, though the first run is not named again.
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alexnet.training.step.Step.__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(store, stopped, recipe, start_from=first, take=["conv1", "conv2"], progress=False)
    with pytest.raises(ValueError, match=r"was begun from .*first.*, not from nowhere: leave `start_from` out"):
        train(store, stopped, recipe, start_from="nowhere", progress=False)
    train(store, stopped, recipe, start_from=first, progress=False)
    again = weights(load_checkpoint(list_checkpoints(stopped)[-1]).net())
    assert all(torch.equal(again[name], end) for name, end in ends.items())
    lines = (stopped / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines].count("start") == 1


def test_take_needs_a_run(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="take must be given with the run to take from"):
        train(store, tmp_path / "run", RECIPE, take=["conv1"], progress=False)
    with pytest.raises(FileNotFoundError, match="must hold a trained net"):
        train(store, tmp_path / "other", RECIPE, start_from=tmp_path, progress=False)


def test_a_mistaken_start_leaves_no_run_behind(first: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="conv9"):
        train(store, tmp_path / "run", RECIPE, start_from=first, take=["conv9"], progress=False)
    assert not (tmp_path / "run" / "recipe.json").exists()

"""Start values from another run: which layers are taken, what is refused, and how the run is resumed."""

import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import small_net, write_store

from alexnet.architecture import Conv
from alexnet.models.alexnet import AlexNet
from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Change, Recipe
from alexnet.training.checkpoint import load_best, load_checkpoint
from alexnet.training.finetune import take_weights
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
    assert take_weights(same, classes, first) == tuple(trained)
    assert all(torch.equal(w, trained[name]) for name, w in weights(same).items())

    other = AlexNet(3, RECIPE.net)  # as many classes, but other ones: the output layer is not taken
    start = weights(other)["fc8"]
    assert take_weights(other, ("a", "b", "c"), first) == tuple(name for name in trained if name != "fc8")
    assert torch.equal(other.fc8.weight, start)


def test_a_layer_that_the_first_net_lacks_is_not_taken(first: Path) -> None:
    net = replace(RECIPE.net, conv6=Conv(maps=8, all_towers=True))
    taken = take_weights(AlexNet(3, net), ("a", "b", "c"), first)
    assert "conv6" not in taken
    assert "conv5" in taken


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (["conv1", "fc8"], "'fc8'.*its classes are others"),
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
    with pytest.raises(ValueError, match=r"was begun from .*first.*, not from nowhere: go on without --from"):
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

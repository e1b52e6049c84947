"""The training: the paper's rule on the loader's batches, golden losses, and what ends it.

The golden losses (assets/golden_losses.json) are rewritten, where a change to them is meant, by
    REWRITE_GOLDEN=1 .venv/bin/python -m pytest tests/training/test_train.py -k golden
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_recipe, write_store
from runs import assert_same_run, load_last, plateau_recipe, read_metrics
from torch.nn import functional as F

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named
from alexnet.training.checkpoint import load_best
from alexnet.training.error_rates import measure_errors
from alexnet.training.schedule import make_schedule
from alexnet.training.sgd import parameter_groups
from alexnet.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread", "frequent_metrics")
RECIPE = small_recipe()
GOLDEN = Path(__file__).parents[1] / "assets" / "golden_losses.json"


def test_the_loop_is_the_paper_s_rule_on_the_loader_s_batches(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    net = replace(recipe.net, fc6=replace(recipe.net.fc6, dropout=0.0), fc7=replace(recipe.net.fc7, dropout=0.0))  # type: ignore[type-var]
    changes = (Change(epoch=1.4, learning_rate=0.001), Change(epoch=1.4, learning_rate=0.002, layers=("fc8",)))
    recipe = replace(recipe, net=net, schedule="changes", changes=changes, bias_rate=0.02, epochs=2)
    recipe = replace(recipe, decays={"conv1": 0.1}, precision="float32")
    train(store, tmp_path / "run", recipe, progress=False)
    checkpoint = load_last(tmp_path / "run")

    opened = Store(store)
    loader = Loader(opened.split("train"), opened.statistics, recipe, workers=0)
    torch.manual_seed(recipe.seed)
    plain = AlexNet(3, recipe.net)
    velocity = {name: np.zeros(p.shape, np.float64) for name, p in plain.named_parameters()}
    losses = []
    for epoch in range(2):
        for number, batch in enumerate(loader.batches(epoch)):
            loss = F.cross_entropy(plain(batch.images), batch.labels)
            losses.append((loss.item(), len(batch.labels)))
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            fallen = epoch + number / 5 >= 1.4
            for (name, w), g in zip(plain.named_parameters(), gradients, strict=True):
                rate = 0.01 if not fallen else 0.002 if name.startswith("fc8") else 0.001
                decay = 0.1 if "conv1" in name else 0.0005
                rate, decay = (0.02, 0.0) if name.endswith("bias") else (rate, decay)
                v = 0.9 * velocity[name] - decay * rate * w.detach().double().numpy() - rate * g.double().numpy()
                velocity[name] = v
                w.data = (w.detach().double() + torch.from_numpy(v)).float()
    for name, w in plain.named_parameters():
        torch.testing.assert_close(checkpoint.with_prefix("net")[name], w.detach(), rtol=1e-4, atol=1e-6)
    logged = [line["train_loss"] for line in read_metrics(tmp_path / "run", "epoch")]
    means = [sum(loss * count for loss, count in losses[e : e + 5]) / 48 for e in (0, 5)]
    assert logged == pytest.approx(means, rel=1e-5)


def test_layers_have_their_own_decay_and_biases_have_none() -> None:
    recipe = recipe_named("cifar10-18pct")
    net = AlexNet(10, recipe.net)
    named = {id(p): name for name, p in net.named_parameters()}
    decays = {named[id(p)]: group["decay"] for group in parameter_groups(net, recipe) for p in group["params"]}
    weights = {"convs.conv1.0.weight": 0.004, "convs.conv2.0.weight": 0.004, "convs.conv3.0.weight": 0.004}
    biases = {name: 0.0 for name in named.values() if name.endswith("bias")}
    assert decays == weights | {"fc8.weight": 1.0} | biases


def test_a_frozen_layer_stays_and_the_others_learn(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, changes=(Change(epoch=0, learning_rate=0, layers=("conv1",)),), epochs=1)
    train(store, tmp_path / "run", recipe, progress=False)
    weights = load_last(tmp_path / "run").with_prefix("net")
    torch.manual_seed(recipe.seed)
    for name, start in AlexNet(3, recipe.net).state_dict().items():
        assert torch.equal(weights[name], start) is ("conv1" in name), name


# Rounding differs between CPUs in the last bits, and training amplifies it. The oldest instruction sets of torch and
# oneDNN change these losses by 3e-6 (relative), start weights that differ by 1e-6 change them by 1e-5, the number of
# threads not at all. The smallest real change tried, alpha divided by the window's size, changes them by 1.4e-4.
TOLERANCE = 5e-5


def test_golden_losses_of_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of each of 18 steps."""
    losses = golden_run(tmp_path, tiny_without_dropout(), monkeypatch)
    if os.environ.get("REWRITE_GOLDEN"):
        command = "REWRITE_GOLDEN=1 .venv/bin/python -m pytest tests/training/test_train.py -k golden"
        GOLDEN.write_text(json.dumps({"command": command, "losses": losses}, indent=1) + "\n", encoding="utf-8")
    assert losses == pytest.approx(golden_losses(), rel=TOLERANCE)


@pytest.mark.parametrize("change", ["decay=0", "net.normalise.alpha_over_size=true"])
def test_golden_losses_notice_a_small_change(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = golden_run(tmp_path, tiny_without_dropout().with_settings([change]), monkeypatch)
    assert losses == pytest.approx(golden_losses(), rel=100 * TOLERANCE)
    assert losses != pytest.approx(golden_losses(), rel=2 * TOLERANCE)


def golden_losses() -> list[float]:
    """Read the golden losses."""
    losses: list[float] = json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"]
    return losses


def tiny_without_dropout() -> Recipe:
    """Return six short epochs of `tiny`, without what differs between machines: dropout masks and bfloat16.

    The rate is lower than its own, at which rounding errors would grow faster.
    """
    settings = {"net.fc6.dropout": 0, "net.fc7.dropout": 0, "precision": "float32", "learning_rate": 0.01, "epochs": 6}
    settings["batch_size"] = 32
    return recipe_named("tiny").with_settings([f"{name}={value}" for name, value in settings.items()])


def golden_run(folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Train on 96 drawn pictures, and return the losses of all steps."""
    monkeypatch.setattr("alexnet.training.train.STEPS_PER_LINE", 1)
    store = write_store(folder / "store", size=recipe.store_size, train=96, val=12)
    train(store, folder / "run", recipe, progress=False)
    return [line["loss"] for line in read_metrics(folder / "run", "step")]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_number_of_workers_changes_nothing(workers: int, store: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run", RECIPE, workers=workers, progress=False)
    assert_same_run(tmp_path / "run", uninterrupted)


def test_another_seed_gives_other_weights(store: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run", replace(RECIPE, seed=1), progress=False)
    first, second = (load_best(run).tensors["net.fc8.weight"] for run in (tmp_path / "run", uninterrupted))
    assert not torch.equal(first, second)


def test_the_best_net_is_that_of_the_lowest_validation_error(store: Path, uninterrupted: Path) -> None:
    best = load_best(uninterrupted)
    errors = {line["epoch"]: line["val_top1_error"] for line in read_metrics(uninterrupted, "epoch")}
    assert best.path.name == "best.safetensors"
    assert errors[best.state.epoch] == min(errors.values()) == best.state.error
    lines = read_metrics(uninterrupted, "epoch")  # ties go to the better log-probability, then to the later epoch
    first = min(lines, key=lambda line: (line["val_top1_error"], line["val_log_prob"], -line["epoch"]))
    assert (best.state.epoch, best.state.log_prob) == (first["epoch"], first["val_log_prob"])
    net = best.net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    measured = measure_errors(net, Store(store).validation(), best.statistics.mean, best.recipe)
    line = read_metrics(uninterrupted, "epoch")[best.state.epoch - 1]
    assert measured.top1_error == line["val_top1_error"]
    assert measured.log_prob == pytest.approx(line["val_log_prob"], rel=1e-5)


def test_training_ends_after_the_last_plateau(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    outcome = train(store, tmp_path / "run", plateau_recipe(recipe), progress=False)
    assert (outcome.finished, outcome.epoch) == (True, 7)  # the first is the best; two each at three rates
    assert (outcome.split, outcome.images, outcome.is_best) == ("val", 20, True)
    rates = [line["rate"] for line in read_metrics(tmp_path / "run", "epoch")]
    assert rates == pytest.approx([1e-12] * 3 + [1e-13] * 2 + [1e-14] * 2)
    assert train(store, tmp_path / "run", progress=False).epoch == 7


def test_the_validation_pictures_are_folded_in_when_their_error_stops_falling(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", train=30, val=10, test=10)
    changes = (Change(epoch=1, learning_rate=0.001), Change(epoch=2, learning_rate=0.0001))
    recipe = replace(RECIPE, schedule="fold", patience=2, changes=changes, epochs=3, learning_rate=1e-9)
    outcome = train(store, tmp_path / "run", recipe, progress=False)
    # At such a rate the error never falls: two epochs after the first, the pictures are folded in; then three more.
    epochs = read_metrics(tmp_path / "run", "epoch")
    assert [line["rate"] for line in epochs] == [1e-9, 1e-9, 1e-9, 1e-9, 0.001, 0.0001]
    assert [line["step"] for line in epochs] == [3, 6, 9, 13, 17, 21]  # 30 pictures in tens, then 40
    assert (outcome.finished, outcome.epoch) == (True, 6)
    assert (outcome.split, outcome.images, outcome.is_best) == ("test", 10, False)
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()  # what is trained on selects no net
    last = load_best(tmp_path / "run")
    assert (last.state.folded, last.state.epoch) == (3, 6)
    assert make_schedule(recipe, folded=last.state.folded).total_epochs() == 6
    tested = measure_errors(last.net(), Store(store).split("test"), last.statistics.mean, recipe)
    assert epochs[-1]["val_top1_error"] == tested.top1_error
    assert Store(store).train_and_val().labels.tolist() == [
        *Store(store).split("train").labels,
        *Store(store).split("val").labels,
    ]

"""The training loop: the rule on the loader's batches, stopped and resumed to the same bits, golden losses.

The golden losses (assets/golden_losses.json) are rewritten, where a change to them is meant, by
    REWRITE_GOLDEN=1 .venv/bin/python -m pytest tests/training/test_train.py -k golden
"""

import ctypes
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_net, write_store
from torch.nn import functional as F

from alexnet.data.loading.loader import Loader
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Change, Recipe
from alexnet.recipes import recipe_named
from alexnet.training import train as loop
from alexnet.training.checkpoint import list_checkpoints, load_best, load_checkpoint
from alexnet.training.divergence import DivergenceError
from alexnet.training.error_rates import error_rates, measure_errors
from alexnet.training.progress import print_epoch
from alexnet.training.schedule import make_schedule
from alexnet.training.sgd import SGD, parameter_groups
from alexnet.training.train import Outcome, train
from alexnet.utils.files import exclusive_lock
from alexnet.utils.memory import keep_freed_memory

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "assets" / "golden_losses.json"
RECIPE = Recipe(net=small_net(), store_size=32, batch_size=10, schedule="cosine", epochs=3)
TIMES = {"pictures_per_second", "waited_seconds", "seconds"}  # fields that differ from run to run


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def lines(run: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, or those of one event, without what the clock says."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    wanted = [line for line in found if event in (None, line["event"])]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in wanted]


def steps(run: Path) -> list[int]:
    """The steps of the checkpoints that a run can go on from."""
    return [int(path.stem.removeprefix("step-")) for path in list_checkpoints(run)]


def assert_same_end(run: Path, whole: Path) -> None:
    """Two runs have come to the same weights, velocity, random state, place, best net and metrics, bit for bit."""
    lasts = [load_checkpoint(list_checkpoints(r)[-1]) for r in (run, whole)]
    for ours, theirs in (lasts, [load_best(run), load_best(whole)]):
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name, value in theirs.tensors.items():
            assert torch.equal(ours.tensors[name], value), name
        place = [(at.step, at.epoch, at.batch, at.totals, at.error, at.finished) for at in (ours.state, theirs.state)]
        assert place[0] == place[1]
    assert lasts[0].state.plateau == lasts[1].state.plateau
    assert lines(run) == lines(whole)


@pytest.fixture(autouse=True)
def _a_line_for_every_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STEPS_PER_LINE", 2)


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the small recipe that was never stopped: 3 epochs of 5 steps."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert torch.get_num_threads() == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "STEPS_PER_LINE", 2)
        outcome = train(store, run, RECIPE, progress=False)
    assert (outcome.finished, outcome.epoch, outcome.step, outcome.signal) == (True, 3, 15, None)
    return run


@pytest.fixture
def after_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Sets what is done after each step of the optimiser, given its number from 1."""

    def set_it(action: Callable[[int], None]) -> None:
        original, count = SGD.step, 0

        def step(self: SGD) -> None:
            nonlocal count
            original(self)
            count += 1
            action(count)

        monkeypatch.setattr(SGD, "step", step)

    return set_it


# ---- What is learnt -------------------------------------------------------------------------------------------------


def test_the_loop_is_the_paper_s_rule_on_the_loader_s_batches(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    net = replace(recipe.net, fc6=replace(recipe.net.fc6, dropout=0.0), fc7=replace(recipe.net.fc7, dropout=0.0))  # type: ignore[type-var]
    changes = (Change(epoch=1.4, learning_rate=0.001), Change(epoch=1.4, learning_rate=0.002, layers=("fc8",)))
    recipe = replace(recipe, net=net, schedule="changes", changes=changes, bias_rate=0.02, epochs=2)
    recipe = replace(recipe, decays={"conv1": 0.1}, precision="float32")
    train(store, tmp_path / "run", recipe, progress=False)
    found = load_checkpoint(list_checkpoints(tmp_path / "run")[-1])

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
        torch.testing.assert_close(found.with_prefix("net")[name], w.detach(), rtol=1e-4, atol=1e-6)
    told = [line["train_loss"] for line in lines(tmp_path / "run", "epoch")]
    means = [sum(loss * count for loss, count in losses[e : e + 5]) / 48 for e in (0, 5)]
    assert told == pytest.approx(means, rel=1e-5)


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
    found = load_checkpoint(list_checkpoints(tmp_path / "run")[-1]).with_prefix("net")
    torch.manual_seed(recipe.seed)
    for name, start in AlexNet(3, recipe.net).state_dict().items():
        assert torch.equal(found[name], start) is ("conv1" in name), name


# Rounding differs between CPUs in the last bits, and training makes it grow. The oldest instruction sets of torch and
# oneDNN move these losses by 3e-6 of theirs, start weights changed by 1e-6 of theirs by 1e-5, another number of threads
# by nothing. The least of the real changes tried, alpha divided by the window's size, moves them by 1.4e-4.
TOLERANCE = 5e-5


def test_golden_losses_of_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of each of 18 steps."""
    told = golden_run(tmp_path, tiny_without_dropout(), monkeypatch)
    if os.environ.get("REWRITE_GOLDEN"):
        command = "REWRITE_GOLDEN=1 .venv/bin/python -m pytest tests/training/test_train.py -k golden"
        GOLDEN.write_text(json.dumps({"command": command, "losses": told}, indent=1) + "\n", encoding="utf-8")
    assert told == pytest.approx(golden_losses(), rel=TOLERANCE)


@pytest.mark.parametrize("change", ["decay=0", "net.normalise.alpha_over_size=true"])
def test_golden_losses_notice_a_small_change(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = golden_run(tmp_path, tiny_without_dropout().with_settings([change]), monkeypatch)
    assert told == pytest.approx(golden_losses(), rel=100 * TOLERANCE)
    assert told != pytest.approx(golden_losses(), rel=2 * TOLERANCE)


def golden_losses() -> list[float]:
    losses: list[float] = json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"]
    return losses


def tiny_without_dropout() -> Recipe:
    """Six short epochs of `tiny`, without what is drawn or rounded differently elsewhere: dropout's masks, bfloat16.

    The rate is lower than its own, at which rounding would grow faster.
    """
    given = {"net.fc6.dropout": 0, "net.fc7.dropout": 0, "precision": "float32", "learning_rate": 0.01, "epochs": 6}
    given["batch_size"] = 32
    return recipe_named("tiny").with_settings([f"{name}={value}" for name, value in given.items()])


def golden_run(folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of all steps of a training on 96 drawn pictures."""
    monkeypatch.setattr(loop, "STEPS_PER_LINE", 1)
    store = write_store(folder / "store", size=recipe.store_size, train=96, val=12)
    train(store, folder / "run", recipe, progress=False)
    return [line["loss"] for line in lines(folder / "run", "step")]


# ---- Stopped and resumed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 5, 8, 14])  # an epoch has five
def test_a_run_stopped_by_a_signal_goes_on_to_the_same_bits(
    step: int, number: signal.Signals, store: Path, whole: Path, tmp_path: Path, after_step: Any
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    after_step(lambda n: signal.raise_signal(number) if n == step else None)
    stopped = train(store, tmp_path / "run", RECIPE, progress=False)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (stopped.finished, stopped.step, stopped.signal) == (False, step, number)
    assert steps(tmp_path / "run")[-1] == step
    went_on = train(store, tmp_path / "run", RECIPE, progress=False)
    assert (went_on.finished, went_on.step, went_on.epoch) == (True, 15, 3)
    assert_same_end(tmp_path / "run", whole)
    assert len(lines(tmp_path / "run", "start")) == 1


def test_a_run_stopped_at_every_third_step_ends_the_same(
    store: Path, whole: Path, tmp_path: Path, after_step: Any
) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n % 3 == 0 else None)
    outcomes: list[Outcome] = []
    while not outcomes or not outcomes[-1].finished:
        assert len(outcomes) < 6
        outcomes.append(train(store, tmp_path / "run", None if outcomes else RECIPE, progress=False))
    assert [outcome.step for outcome in outcomes] == [3, 6, 9, 12, 15]
    assert_same_end(tmp_path / "run", whole)


def test_the_last_step_of_all_needs_no_stop(store: Path, whole: Path, tmp_path: Path, after_step: Any) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 15 else None)
    assert train(store, tmp_path / "run", RECIPE, progress=False).finished
    assert_same_end(tmp_path / "run", whole)


def test_a_second_ctrl_c_ends_at_once_and_loses_nothing_saved(
    store: Path, whole: Path, tmp_path: Path, after_step: Any
) -> None:
    def twice(n: int) -> None:
        if n == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    after_step(twice)
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", RECIPE, progress=False)
    assert steps(tmp_path / "run") == [5]
    assert train(store, tmp_path / "run", RECIPE, progress=False).finished
    assert_same_end(tmp_path / "run", whole)


def test_two_threads_too_end_the_same_however_stopped(
    store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    torch.set_num_threads(2)
    try:
        recipe = replace(recipe, epochs=2)
        train(store, tmp_path / "whole", recipe, progress=False)
        after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 7 else None)
        train(store, tmp_path / "run", recipe, progress=False)
        train(store, tmp_path / "run", recipe, progress=False)
    finally:
        torch.set_num_threads(1)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


# Trains as `train` does and, at a place, says so and waits there for a signal.
CHILD = """
import sys, time
from pathlib import Path
import torch
from alexnet.training import checkpoint, signals, train as loop
from alexnet.recipe import Recipe

store, run, recipe, place, minutes = sys.argv[1:]
loop.STEPS_PER_LINE = 2
torch.set_num_threads(1)

def halt():
    print("here", flush=True)
    while stops[-1].signal is None:  # not signal.pause(), which a signal just before it does not end
        time.sleep(0.02)

stops, make_stop = [], signals.StopRequest
signals.StopRequest = lambda: stops.append(make_stop()) or stops[-1]
step, save_file, count = loop.SGD.step, checkpoint.save_file, 0

def step_and_halt(self):
    global count
    step(self)
    count += 1
    if place == "step" and count == 8:
        halt()

def write_and_halt(tensors, path, metadata):
    save_file(tensors, path, metadata)
    if place == "write" and count == 10 and "best" not in str(path):
        with open(path, "r+b") as file:
            file.truncate(1000)
        halt()

loop.SGD.step, checkpoint.save_file = step_and_halt, write_and_halt
recipe = Recipe.from_json(Path(recipe).read_text())
print(loop.train(store, run, recipe, progress=False, checkpoint_minutes=float(minutes)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("place", "minutes", "number", "left"),
    [
        ("step", 0, signal.SIGKILL, 7),  # with a checkpoint after each step, but not yet after this one
        ("write", 10, signal.SIGKILL, 5),  # an epoch's metrics are told, its checkpoint is half written
        ("step", 10, signal.SIGINT, 8),
    ],
    ids=["killed in the middle of an epoch", "killed while it writes", "Ctrl-C"],
)
def test_a_killed_process_goes_on_to_the_same_bits(
    place: str, minutes: int, number: signal.Signals, left: int, store: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (tmp_path / "recipe.json").write_text(RECIPE.to_json(), encoding="utf-8")
    arguments = [sys.executable, "-c", CHILD, store, run, tmp_path / "recipe.json", place, str(minutes)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        said, _ = process.communicate()
        code = process.returncode
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 0
        assert "finished=False" in said
    assert steps(run)[-1] == left
    assert train(store, run, RECIPE, progress=False).finished
    assert_same_end(run, whole)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "best.safetensors",
        "step-000000010.safetensors",
        "step-000000015.safetensors",
    ]


def test_a_finished_run_is_left_as_it_is(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(store, run, replace(recipe, epochs=1), progress=False)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    again = train(store, run, progress=False)
    assert again == first
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_lines_and_files_of_a_run_that_was_killed_before_its_first_checkpoint_are_begun_anew(
    store: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.json").write_text(RECIPE.to_json(), encoding="utf-8")
    (run / "metrics.jsonl").write_text('{"event": "start"}\n{"event": "st', encoding="utf-8")
    (run / "checkpoints" / ".step-000000002.safetensors.writing").write_bytes(b"half")
    train(store, run, RECIPE, progress=False)
    assert_same_end(run, whole)
    assert not list((run / "checkpoints").glob(".*"))


def test_metrics_that_have_lost_lines_are_gone_on_with(
    store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    run = tmp_path / "run"
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 8 else None)
    train(store, run, recipe, progress=False)
    (run / "metrics.jsonl").unlink()
    train(store, run, recipe, progress=False)
    assert [line["epoch"] for line in lines(run, "epoch")] == [2, 3]


@pytest.mark.parametrize("epoch", [0.5, 1.5])
def test_a_change_of_colours_within_an_epoch_resumes_the_same(
    epoch: float, store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    recipe = replace(recipe, changes=(Change(epoch=epoch, colour_shift=False),), epochs=2)
    train(store, tmp_path / "whole", recipe, progress=False)
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n in (4, 9) else None)
    while not train(store, tmp_path / "run", recipe, progress=False).finished:
        pass
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers: int, store: Path, whole: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run", RECIPE, workers=workers, progress=False)
    assert_same_end(tmp_path / "run", whole)


def test_another_seed_gives_other_weights(store: Path, whole: Path, tmp_path: Path) -> None:
    train(store, tmp_path / "run", replace(RECIPE, seed=1), progress=False)
    ours, theirs = (load_best(run).tensors["net.fc8.weight"] for run in (tmp_path / "run", whole))
    assert not torch.equal(ours, theirs)


def test_training_in_a_thread_leaves_signals_alone(store: Path, whole: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(store, tmp_path / "run", RECIPE), kwargs={"progress": False})
    thread.start()
    thread.join()
    assert_same_end(tmp_path / "run", whole)


# ---- Checkpoints, the plateau, losses that are no numbers -----------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_checkpoints_and_the_best_are_kept(keep: int, store: Path, recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(store, run, recipe, keep=keep, checkpoint_minutes=0, progress=False)
    assert steps(run) == [13, 14, 15][-keep:]
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "best.safetensors",
        *(f"step-{step:09d}.safetensors" for step in steps(run)),
    }


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_none_is_refused(keep: int, store: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"keep must be at least 1.*; got {keep}$"):
        train(store, tmp_path / "run", recipe, keep=keep)


def test_the_best_is_the_net_of_the_lowest_validation_error(store: Path, whole: Path) -> None:
    best = load_best(whole)
    told = {line["epoch"]: line["val_top1_error"] for line in lines(whole, "epoch")}
    assert best.path.name == "best.safetensors"
    assert told[best.state.epoch] == min(told.values()) == best.state.error
    net = best.net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = measure_errors(net, Store(store).validation(), best.statistics.mean, best.recipe)
    line = lines(whole, "epoch")[best.state.epoch - 1]
    assert found.top1_error == line["val_top1_error"]
    assert found.log_prob == pytest.approx(line["val_log_prob"], rel=1e-5)


def plateau_recipe(recipe: Recipe) -> Recipe:
    """A training that cannot improve: the rate is too small to change any prediction."""
    return replace(recipe, schedule="plateau", learning_rate=1e-12, decay=0.0, patience=2, falls=2, epochs=50)


def test_training_ends_by_itself_after_the_last_plateau(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    outcome = train(store, tmp_path / "run", plateau_recipe(recipe), progress=False)
    assert (outcome.finished, outcome.epoch) == (True, 7)  # the first is the best; two each at three rates
    rates = [line["rate"] for line in lines(tmp_path / "run", "epoch")]
    assert rates == pytest.approx([1e-12] * 3 + [1e-13] * 2 + [1e-14] * 2)
    assert train(store, tmp_path / "run", progress=False).epoch == 7


def test_a_plateau_goes_on_where_it_was_stopped(store: Path, recipe: Recipe, tmp_path: Path, after_step: Any) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n in (9, 18) else None)
    while not (outcome := train(store, tmp_path / "run", plateau_recipe(recipe), progress=False)).finished:
        pass
    assert outcome.epoch == 7
    rates = [line["rate"] for line in lines(tmp_path / "run", "epoch")]
    assert rates == pytest.approx([1e-12] * 3 + [1e-13] * 2 + [1e-14] * 2)


def explode(recipe: Recipe, epoch: float) -> Recipe:
    """A recipe that goes well until `epoch`, and then takes a step too far."""
    return replace(recipe, schedule="changes", changes=(Change(epoch=epoch, learning_rate=1e30),))


def assert_good_so_far(run: Path, expected: list[int]) -> None:
    """The checkpoints left are those of these steps, and no weight in them or in the best is not finite."""
    assert steps(run) == expected
    for path in (run / "checkpoints").iterdir():
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path).with_prefix("net").values())
    assert all(line["event"] in {"start", "step", "epoch"} for line in lines(run))


def test_a_loss_that_is_no_number_ends_it_with_step_rate_and_advice(
    store: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DivergenceError) as caught:
        train(store, run, explode(recipe, 1.2), progress=False)  # the seventh step; the eighth sees it
    message = str(caught.value)
    assert "loss must stay finite; got " in message
    assert "in epoch 2, step 8, at learning rate 1e+30" in message
    assert "--set learning_rate=" in message
    assert "\n" not in message
    assert issubclass(DivergenceError, ValueError)
    assert_good_so_far(run, [5])


def test_weights_that_are_no_numbers_are_never_saved(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    # The fifth step, the last of its epoch, spoils them: no later loss shows it before the epoch's checkpoint.
    run = tmp_path / "run"
    with pytest.raises(DivergenceError, match=r"step 5\b.*rate"):
        train(store, run, explode(recipe, 0.8), progress=False)
    assert_good_so_far(run, [])
    assert not (run / "checkpoints" / "best.safetensors").exists()
    with pytest.raises(DivergenceError, match=r"step \d+\b.*rate"):
        train(store, tmp_path / "often", explode(recipe, 0.4), checkpoint_minutes=0, progress=False)
    assert steps(tmp_path / "often")[-1] <= 3
    for path in (tmp_path / "often" / "checkpoints").iterdir():
        assert all(tensor.isfinite().all() for tensor in load_checkpoint(path).with_prefix("net").values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_net_that_says_no_numbers_is_wrong_about_everything(value: float) -> None:
    predicted = torch.full((4, 10), 0.1)
    predicted[:3] = math.nan if math.isnan(value) else (value * torch.ones(3, 10) / value)
    found = error_rates(predicted, torch.tensor([0, 1, 2, 0]))
    assert (found.top1_error, found.top5_error) == (0.75, 0.75)


@pytest.mark.parametrize(
    ("largest", "platform", "calls"),
    [
        (2**40, "linux", [(-3, 2**30), (-1, 2**31 - 1), (-2, 2**26)]),
        (2**25, "linux", [(-3, 2**30), (-3, 2**25), (-1, 2**31 - 1), (-2, 2**26)]),  # an older glibc
        (0, "linux", [(-3, 2**30), (-3, 2**25)]),  # one that takes none: the rest would do harm
        (2**40, "darwin", []),
    ],
)
def test_malloc_is_told_to_keep_memory_only_where_it_understands(
    largest: int, platform: str, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    class Library:
        def mallopt(self, option: int, value: int) -> int:
            told.append((option, value))
            return int(option != -3 or value <= largest)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(sys, "platform", platform)
    keep_freed_memory()
    assert told == calls


# ---- What is refused ------------------------------------------------------------------------------------------------


def test_another_recipe_in_the_same_run_is_refused(store: Path, whole: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    other = replace(RECIPE, learning_rate=0.02, seed=7)
    with pytest.raises(
        ValueError, match=r"begun with another recipe \(differs in learning_rate, seed\): use another RUN"
    ):
        train(store, whole, other, progress=False)
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_another_store_in_the_same_run_is_refused(store: Path, recipe: Recipe, tmp_path: Path, after_step: Any) -> None:
    run = tmp_path / "run"
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 3 else None)
    train(store, run, recipe, progress=False)
    for name, values in {
        "other": {"seed": 9, "train": 48},
        "smaller": {"train": 20},
        "size": {"size": 40, "train": 48},
    }.items():
        other = write_store(tmp_path / name, **values, val=20)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"with the store it was begun with; .* other|store_size 32; got 40"):
            train(other, run, recipe, progress=False)


def test_a_store_of_another_size_is_refused_and_leaves_no_run(recipe: Recipe, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", size=40, train=10, val=5)
    with pytest.raises(ValueError, match=r"store_size 32; got 40: prepare .*--size 32.*--set store_size=40") as caught:
        train(store, tmp_path / "run", recipe, progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    advised = replace(recipe, store_size=40, epochs=1)
    train(store, tmp_path / "run", advised, progress=False)
    # Nor is it taken by a run that was stopped before its first checkpoint.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    with pytest.raises(ValueError, match="store_size 32; got 40"):
        train(store, tmp_path / "begun", progress=False)


def test_a_folder_that_holds_other_things_is_refused(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"run .* must be a new or empty folder.*holds other files"):
        train(store, tmp_path, recipe, progress=False)
    with pytest.raises(ValueError, match=r"run .* must be a new or empty folder"):
        train(store, tmp_path / "holiday.jpg", recipe, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_new_run_needs_a_recipe(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no recipe.json yet: name a recipe with --recipe NAME"):
        train(store, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_damaged_last_checkpoint_is_told_with_the_remedy(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = replace(recipe, epochs=2)
    train(store, run, recipe, progress=False)
    last = list_checkpoints(run)[-1]
    good = last.read_bytes()
    last.write_bytes(good[:1000])
    with pytest.raises(ValueError, match=rf"{last.name} must be a checkpoint.*remove it"):
        train(store, run, recipe, progress=False)
    last.unlink()  # as advised
    assert train(store, run, recipe, progress=False).step == 10
    found, expected = load_checkpoint(last), good
    (tmp_path / "good").write_bytes(expected)
    for name, value in load_checkpoint(tmp_path / "good").tensors.items():
        assert torch.equal(found.tensors[name], value)


# ---- What it tells --------------------------------------------------------------------------------------------------


def test_metrics_are_a_line_per_event(store: Path, whole: Path) -> None:
    told = lines(whole)
    events = "start step step epoch step step step epoch step step epoch"
    assert [line["event"] for line in told] == events.split()
    start = told[0]
    assert (start["classes"], start["train_pictures"], start["validation_pictures"]) == (3, 48, 20)
    assert start["parameters"] == sum(p.numel() for p in AlexNet(3, RECIPE.net).parameters())
    assert Path(start["store"]) == store.resolve()
    assert [(line["epoch"], line["step"]) for line in lines(whole, "epoch")] == [(1, 5), (2, 10), (3, 15)]
    assert [line["step"] for line in lines(whole, "step")] == [2, 4, 6, 8, 10, 12, 14]
    text = (whole / "metrics.jsonl").read_text(encoding="utf-8")
    for line in map(json.loads, text.splitlines()):
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))


def test_speed_and_time_are_those_of_the_clock_whatever_is_saved_between(
    store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_step: Any
) -> None:
    now = [100.0]  # seconds; a step takes one, and nothing else any

    def tick(n: int) -> None:
        now[0] += 1
        if n == 8:
            signal.raise_signal(signal.SIGINT)

    for module in ("train", "checkpointer"):
        monkeypatch.setattr(f"alexnet.training.{module}.time", SimpleNamespace(monotonic=lambda: now[0]))
    after_step(tick)
    assert train(store, tmp_path / "run", recipe, checkpoint_minutes=0, progress=False).seconds == 8
    now[0] += 1000
    assert train(store, tmp_path / "run", recipe, checkpoint_minutes=0, progress=False).seconds == 15
    text = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    told = [line for line in map(json.loads, text.splitlines()) if line["event"] == "epoch"]
    assert [line["pictures_per_second"] for line in told] == [48 / 5, 18 / 2, 48 / 5]  # the second's last two steps
    assert [line["seconds"] for line in told] == [5, 10, 15]


def test_a_line_per_epoch_is_told_on_standard_error(
    store: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path / "run", recipe)
    told = capsys.readouterr()
    assert told.out == ""
    found = [line for line in told.err.splitlines() if not line.startswith("note: ")]  # of a CPU without bfloat16
    assert [line.split()[:2] for line in found] == [["epoch", "1/3"], ["epoch", "2/3"], ["epoch", "3/3"]]
    for line in found:
        for word in ("rate", "loss", "error", "pictures/s", "left"):
            assert word in line
    assert "\r" not in told.err
    train(store, tmp_path / "quiet", replace(recipe, epochs=1), progress=False)
    assert capsys.readouterr().err == ""


def test_days_left_are_told_as_days(capsys: pytest.CaptureFixture[str]) -> None:
    fields = ("rate", "train_loss", "train_error", "val_top1_error", "val_top5_error", "pictures_per_second")
    print_epoch({"epoch": 1, "seconds": 5400.0, **dict.fromkeys(fields, 0.5)}, 90)
    assert "5 days, 13:30:00 left" in capsys.readouterr().err  # 89 epochs of an hour and a half
    print_epoch({"epoch": 1, "seconds": 5400.0, **dict.fromkeys(fields, 0.5)}, None)
    told = capsys.readouterr().err
    assert told.startswith("epoch   1/?")
    assert "? left" in told


def test_tensorboard_without_its_package_is_told_how_to_install_it(
    store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        train(store, tmp_path / "run", recipe, tensorboard=True, progress=False)


def test_tensorboard_gets_the_numbers_of_the_metrics(
    store: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert purge_step == 0
            assert folder == str(tmp_path / "run" / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append(("closed", 0, 0))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    train(store, tmp_path / "run", replace(recipe, epochs=1), tensorboard=True, progress=False)
    for line in lines(tmp_path / "run", "step"):
        assert ("step/loss", line["loss"], line["step"]) in told
    (epoch,) = lines(tmp_path / "run", "epoch")
    assert ("epoch/val_top1_error", epoch["val_top1_error"], 5) in told
    assert told[-1][0] == "closed"


def test_two_trainings_in_one_run_are_refused(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        exclusive_lock(run),
        pytest.raises(ValueError, match="another process is using it; wait for that process or stop it"),
    ):
        train(store, run, RECIPE, progress=False)
    assert train(store, run, RECIPE, progress=False).finished


def test_the_validation_pictures_are_folded_in_when_their_error_stops_falling(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", train=30, val=10, test=10)
    changes = (Change(epoch=1, learning_rate=0.001), Change(epoch=2, learning_rate=0.0001))
    recipe = replace(RECIPE, schedule="fold", patience=2, changes=changes, epochs=3, learning_rate=1e-9)
    outcome = train(store, tmp_path / "run", recipe, progress=False)
    # At a rate of nothing the error never falls: two epochs after the first it has stopped to; then three more.
    epochs = lines(tmp_path / "run", "epoch")
    assert [line["rate"] for line in epochs] == [1e-9, 1e-9, 1e-9, 1e-9, 0.001, 0.0001]
    assert [line["step"] for line in epochs] == [3, 6, 9, 13, 17, 21]  # 30 pictures in tens, then 40
    assert (outcome.finished, outcome.epoch) == (True, 6)
    assert not (tmp_path / "run" / "checkpoints" / "best.safetensors").exists()  # what is trained on chooses nothing
    last = load_best(tmp_path / "run")
    assert (last.state.folded, last.state.epoch) == (3, 6)
    assert make_schedule(recipe, folded=last.state.folded).total_epochs() == 6
    tested = measure_errors(last.net(), Store(store).split("test"), last.statistics.mean, recipe)
    assert epochs[-1]["val_top1_error"] == tested.top1_error
    assert Store(store).train_and_val().labels.tolist() == [
        *Store(store).split("train").labels,
        *Store(store).split("val").labels,
    ]


def test_folding_goes_on_where_it_was_stopped(
    tmp_path: Path, after_step: Callable[[Callable[[int], None]], None]
) -> None:
    store = write_store(tmp_path / "store", train=30, val=10)
    recipe = replace(RECIPE, schedule="fold", patience=1, epochs=2, learning_rate=1e-9)
    train(store, tmp_path / "whole", recipe, progress=False)
    for step in (4, 8, 11):
        after_step(lambda n, step=step: os.kill(os.getpid(), signal.SIGINT) if n == step else None)  # type: ignore[misc]
        train(store, tmp_path / "run", recipe, progress=False)
    train(store, tmp_path / "run", recipe, progress=False)
    ours, theirs = (load_best(tmp_path / name) for name in ("run", "whole"))
    assert ours.state.folded == theirs.state.folded == 2
    assert all(torch.equal(ours.tensors[name], value) for name, value in theirs.tensors.items())
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_folding_needs_validation_pictures(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", train=12, test=6)
    with pytest.raises(ValueError, match='must have val pictures for schedule "fold"; it has train, test'):
        train(store, tmp_path / "run", replace(RECIPE, schedule="fold"), progress=False)
    assert not (tmp_path / "run").exists()

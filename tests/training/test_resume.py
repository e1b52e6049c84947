"""Stopped and resumed trainings: by signals or killed, they end with the same bits."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_recipe, write_store
from runs import assert_same_run, checkpoint_steps, plateau_recipe, read_metrics

from alexnet.models.weight_files import list_checkpoints
from alexnet.recipe import Change, Recipe
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import load_best, load_checkpoint
from alexnet.training.train import Outcome, train

pytestmark = pytest.mark.usefixtures("one_thread", "frequent_metrics")
ROOT = Path(__file__).parents[2]
RECIPE = small_recipe()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 5, 8, 14])  # an epoch has five
def test_a_run_stopped_by_a_signal_resumes_to_the_same_bits(
    step: int, number: signal.Signals, store: Path, uninterrupted: Path, tmp_path: Path, after_step: Any
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    after_step(lambda n: signal.raise_signal(number) if n == step else None)
    stopped = train(store, tmp_path / "run", RECIPE, progress=False)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (stopped.finished, stopped.step, stopped.signal) == (False, step, number)
    assert checkpoint_steps(tmp_path / "run")[-1] == step
    resumed = train(store, tmp_path / "run", RECIPE, progress=False)
    assert (resumed.finished, resumed.step, resumed.epoch) == (True, 15, 3)
    assert_same_run(tmp_path / "run", uninterrupted)
    assert len(read_metrics(tmp_path / "run", "start")) == 1


def test_a_run_stopped_at_every_third_step_ends_the_same(
    store: Path, uninterrupted: Path, tmp_path: Path, after_step: Any
) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n % 3 == 0 else None)
    outcomes: list[Outcome] = []
    while not outcomes or not outcomes[-1].finished:
        assert len(outcomes) < 6
        outcomes.append(train(store, tmp_path / "run", None if outcomes else RECIPE, progress=False))
    assert [outcome.step for outcome in outcomes] == [3, 6, 9, 12, 15]
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_signal_in_the_last_step_does_not_stop_the_run(
    store: Path, uninterrupted: Path, tmp_path: Path, after_step: Any
) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 15 else None)
    assert train(store, tmp_path / "run", RECIPE, progress=False).finished
    assert_same_run(tmp_path / "run", uninterrupted)


def test_each_start_of_a_training_has_a_line(store: Path, uninterrupted: Path, tmp_path: Path, after_step: Any) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 7 else None)
    for _ in range(3):  # the third finds a finished run, and writes nothing
        train(store, tmp_path / "run", RECIPE, progress=False)
    lines = read_metrics(tmp_path / "run")
    (line,) = read_metrics(tmp_path / "run", "resume")
    machine = {"device", "parallel", "processes", "threads", "bfloat16", "torch", "version"}
    assert line.keys() - machine == {"event", "epoch", "step"}
    assert (line["epoch"], line["step"]) == (1, 7)
    assert {name: lines[0][name] for name in machine} == {name: line[name] for name in machine}
    assert lines == read_metrics(uninterrupted)
    assert RunHistory.read(tmp_path / "run").start["event"] == "start"


def test_a_second_ctrl_c_ends_at_once_and_loses_nothing_saved(
    store: Path, uninterrupted: Path, tmp_path: Path, after_step: Any
) -> None:
    def twice(n: int) -> None:
        if n == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    after_step(twice)
    with pytest.raises(KeyboardInterrupt):
        train(store, tmp_path / "run", RECIPE, progress=False)
    assert checkpoint_steps(tmp_path / "run") == [5]
    assert train(store, tmp_path / "run", RECIPE, progress=False).finished
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_run_on_two_threads_ends_the_same_when_stopped(
    store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    torch.set_num_threads(2)
    try:
        recipe = replace(recipe, epochs=2)
        train(store, tmp_path / "uninterrupted", recipe, progress=False)
        after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 7 else None)
        train(store, tmp_path / "run", recipe, progress=False)
        train(store, tmp_path / "run", recipe, progress=False)
    finally:
        torch.set_num_threads(1)
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


# Trains as `train` does; at a given place it prints its process id and waits for a signal.
CHILD = """
import os, sys, time
from pathlib import Path
import torch
from alexnet.training import checkpoint, signals, train
from alexnet.recipe import Recipe

store, run, recipe, place, minutes = sys.argv[1:]
train.STEPS_PER_LINE = 2
torch.set_num_threads(1)

def wait_for_signal():
    print(os.getpid(), flush=True)
    while stops[-1].signal is None:  # signal.pause() would miss a signal that comes just before it
        time.sleep(0.02)

stops, make_stop = [], signals.StopRequest
signals.StopRequest = lambda: stops.append(make_stop()) or stops[-1]
step, save_file, count = train.SGD.step, checkpoint.save_file, 0

def step_and_wait(self):
    global count
    step(self)
    count += 1
    if place == "step" and count == 8:
        wait_for_signal()

def write_and_wait(tensors, path, metadata):
    save_file(tensors, path, metadata)
    if place == "write" and count == 10 and "best" not in str(path):
        with open(path, "r+b") as file:
            file.truncate(1000)
        wait_for_signal()

train.SGD.step, checkpoint.save_file = step_and_wait, write_and_wait
recipe = Recipe.from_json(Path(recipe).read_text())
print(train.train(store, run, recipe, progress=False, checkpoint_minutes=float(minutes)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize(
    ("place", "minutes", "number", "left"),
    [
        ("step", 0, signal.SIGKILL, 7),  # with a checkpoint after each step, but not yet after this one
        ("write", 10, signal.SIGKILL, 5),  # the epoch's metrics are written, its checkpoint is half written
        ("step", 10, signal.SIGINT, 8),
    ],
    ids=["killed in the middle of an epoch", "killed while it writes", "Ctrl-C"],
)
def test_a_killed_run_resumes_to_the_same_bits(
    place: str,
    minutes: int,
    number: signal.Signals,
    left: int,
    warm_python: str,
    store: Path,
    uninterrupted: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    (tmp_path / "recipe.json").write_text(RECIPE.to_json(), encoding="utf-8")
    arguments = [warm_python, "-c", CHILD, store, run, tmp_path / "recipe.json", place, str(minutes)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.kill(int(process.stdout.readline()), number)
        output, _ = process.communicate()
        code = process.returncode
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 0
        assert "finished=False" in output
    assert checkpoint_steps(run)[-1] == left
    assert train(store, run, RECIPE, progress=False).finished
    assert_same_run(run, uninterrupted)
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


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    store: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "recipe.json").write_text(RECIPE.to_json(), encoding="utf-8")
    (run / "metrics.jsonl").write_text('{"event": "start"}\n{"event": "st', encoding="utf-8")
    (run / "checkpoints" / ".step-000000002.safetensors.writing").write_bytes(b"half")
    (run / "checkpoints" / ".tmpI6JLxm").write_bytes(b"half")  # a name of safetensors' own
    train(store, run, RECIPE, progress=False)
    assert_same_run(run, uninterrupted)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_run_resumes_with_a_metrics_file_that_has_lost_lines(
    store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    run = tmp_path / "run"
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n == 8 else None)
    train(store, run, recipe, progress=False)
    (run / "metrics.jsonl").unlink()
    train(store, run, recipe, progress=False)
    assert [line["epoch"] for line in read_metrics(run, "epoch")] == [2, 3]


@pytest.mark.parametrize("epoch", [0.5, 1.5])
def test_a_run_stopped_before_a_change_of_the_colour_shift_resumes_the_same(
    epoch: float, store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    recipe = replace(recipe, changes=(Change(epoch=epoch, colour_shift=False),), epochs=2)
    train(store, tmp_path / "uninterrupted", recipe, progress=False)
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n in (4, 9) else None)
    while not train(store, tmp_path / "run", recipe, progress=False).finished:
        pass
    assert_same_run(tmp_path / "run", tmp_path / "uninterrupted")


def test_training_in_a_thread_leaves_signals_alone(store: Path, uninterrupted: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(store, tmp_path / "run", RECIPE), kwargs={"progress": False})
    thread.start()
    thread.join()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_plateau_schedule_resumes_where_it_was_stopped(
    store: Path, recipe: Recipe, tmp_path: Path, after_step: Any
) -> None:
    after_step(lambda n: signal.raise_signal(signal.SIGINT) if n in (9, 18) else None)
    while not (outcome := train(store, tmp_path / "run", plateau_recipe(recipe), progress=False)).finished:
        pass
    assert outcome.epoch == 7
    rates = [line["rate"] for line in read_metrics(tmp_path / "run", "epoch")]
    assert rates == pytest.approx([1e-12] * 3 + [1e-13] * 2 + [1e-14] * 2)


def test_a_fold_in_schedule_resumes_where_it_was_stopped(
    tmp_path: Path, after_step: Callable[[Callable[[int], None]], None]
) -> None:
    store = write_store(tmp_path / "store", train=30, val=10)
    recipe = replace(RECIPE, schedule="fold", patience=1, epochs=2, learning_rate=1e-9)
    train(store, tmp_path / "uninterrupted", recipe, progress=False)
    for step in (4, 8, 11):
        after_step(lambda n, step=step: os.kill(os.getpid(), signal.SIGINT) if n == step else None)  # type: ignore[misc]
        train(store, tmp_path / "run", recipe, progress=False)
    train(store, tmp_path / "run", recipe, progress=False)
    actual, expected = (load_best(tmp_path / name) for name in ("run", "uninterrupted"))
    assert actual.state.folded == expected.state.folded == 2
    assert all(torch.equal(actual.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "uninterrupted")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_checkpoints_and_the_best_are_kept(keep: int, store: Path, recipe: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(store, run, recipe, keep=keep, checkpoint_minutes=0, progress=False)
    assert checkpoint_steps(run) == [13, 14, 15][-keep:]
    assert {p.name for p in (run / "checkpoints").iterdir()} == {
        "best.safetensors",
        *(f"step-{step:09d}.safetensors" for step in checkpoint_steps(run)),
    }


def test_a_damaged_last_checkpoint_is_refused_with_the_remedy(store: Path, recipe: Recipe, tmp_path: Path) -> None:
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
    (tmp_path / "good").write_bytes(good)
    for name, tensor in load_checkpoint(tmp_path / "good").tensors.items():
        assert torch.equal(load_checkpoint(last).tensors[name], tensor)

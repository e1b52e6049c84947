"""The jobs of the processes of test_parallel.py: `torchrun parallel_worker.py JOB ... FOLDER` writes their results."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import small_net

from alexnet.architecture import Net
from alexnet.distributed.launch import init_team
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.results.evaluate import evaluate
from alexnet.training import consistency
from alexnet.training.step import Step
from alexnet.training.train import train

SCHEMES = ("data", "towers", "hybrid")
# 47 pictures: the last batch has 7, which two processes cannot share evenly.
RECIPE = Recipe(
    net=replace(small_net(), pixel_scale=1 / 16, conv_dropout=0.1),
    store_size=32,
    batch_size=10,
    schedule="cosine",
    epochs=4,
    learning_rate=0.3,
    label_smoothing=0.1,
    precision="float32",  # on every machine: the rounding of bfloat16 would hide differences
)
FROZEN_RECIPE = replace(RECIPE, frozen=(*(f"conv{n}" for n in range(1, 6)), "fc7"), augmentations=2)
UNPATCHED_STEP = Step.__call__


def rank() -> int:
    """Return the rank of this process."""
    return int(os.environ["RANK"])


def train_and_evaluate(folder: Path) -> dict[str, Any]:
    """Train with each scheme, without and with micro-batches; evaluate the runs without them."""
    errors = {}
    for scheme in SCHEMES:
        train(folder / "store", folder / scheme, RECIPE, parallel=scheme, progress=False)
        errors[scheme] = evaluate(
            folder / scheme, folder / "store", views=10, save=folder / f"{scheme}.predictions", parallel=scheme
        )
    for scheme in SCHEMES:  # the 5 pictures of a process (towers: 10) in micro-batches of 2, the last one smaller
        train(folder / "store", folder / f"{scheme}-micro", RECIPE, parallel=scheme, micro_batch=2, progress=False)
        train(folder / "store", folder / f"{scheme}-frozen", FROZEN_RECIPE, parallel=scheme, progress=False)
    return errors


def run_two_towers(folder: Path) -> dict[str, Any]:
    """Run the forward and backward pass of a net with a tower in each process; return the bytes that were sent."""
    images = torch.load(folder / "images.pt")
    with init_team("towers", "cpu", 60) as team:
        torch.manual_seed(0)
        net = AlexNet(5, Net())
        team.form_groups(net.net, 5)
        team.shard_model(net)
        logits = net.eval()(images)
        net.train()
        for dropout in net.dropouts():
            dropout.key = torch.tensor([7])
        team.model_group.bytes_sent.clear()
        with record_collectives() as calls:
            losses, predicted = team.cross_entropy(net(images), torch.tensor([4, 0]), 5, 0.1)
            losses.mean().backward()
        shards = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
        gradients = team.gather_full(shards)
    if rank() == 0:
        torch.save((logits, losses.detach(), predicted, gradients), folder / "towers.pt")
    return {"sent": dict(team.model_group.bytes_sent), "calls": calls}


@contextlib.contextmanager
def record_collectives() -> Iterator[list[tuple[str, int]]]:
    """Record the name of every collective that is called, and the bytes of this process's input."""
    calls: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        # The position of the input among the arguments: after the output, or alone.
        for name, position in {
            "all_gather": 1,
            "all_to_all_single": 1,
            "all_reduce": 0,
            "broadcast": 0,
            "gather": 0,
        }.items():
            original = getattr(dist, name)

            def call(
                *arguments: Any, name: str = name, position: int = position, original: Any = original, **options: Any
            ) -> Any:
                calls.append((name, arguments[position].nbytes))
                return original(*arguments, **options)

            patch.setattr(dist, name, call)
        yield calls


def change_layouts(folder: Path) -> dict[str, Any]:
    """Start with "data", stop by a signal to one process, resume with "towers", and stop by a signal to the other."""
    send_signal(signal.SIGTERM, to_rank=1, at_step=7)
    first = train(folder / "store", folder / "mixed", RECIPE, parallel="data", progress=False)
    send_signal(signal.SIGTERM, to_rank=0, at_step=6)
    second = train(folder / "store", folder / "mixed", parallel="towers", progress=False)
    return {"steps": [first.step, second.step], "signals": [first.signal, second.signal]}


def send_signal(number: int, *, to_rank: int, at_step: int) -> None:
    """Send a signal to a process at the start of a step, counted from 1 in this process."""
    steps = 0

    def call(self: Step, *batch: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == at_step and rank() == to_rank:
            os.kill(os.getpid(), number)
        return UNPATCHED_STEP(self, *batch)

    Step.__call__ = call  # type: ignore[method-assign]


def make_mistakes(folder: Path) -> dict[str, Any]:
    """Make mistakes that are errors; return the exception of this process for each."""
    one_tower = replace(RECIPE, net=replace(RECIPE.net, towers=1))
    norm = replace(RECIPE.net.normalise, all_towers=True)  # type: ignore[type-var]
    across_towers = replace(RECIPE, net=replace(RECIPE.net, normalise=norm))
    odd_units = replace(RECIPE, net=replace(RECIPE.net, fc7=replace(RECIPE.net.fc7, units=15)))  # type: ignore[type-var]
    store, run = folder / "store", folder / "new"
    other_recipe = replace(RECIPE, learning_rate=0.01 * (1 + rank()))
    calls: dict[str, Callable[[], Any]] = {
        "scheme": lambda: train(store, run, RECIPE, parallel="both"),
        "none": lambda: train(store, run, RECIPE),
        "one tower": lambda: train(store, run, one_tower, parallel="towers"),
        "normalise": lambda: train(store, run, across_towers, parallel="towers"),
        "units": lambda: train(store, run, odd_units, parallel="hybrid"),
        "batch": lambda: train(store, run, replace(RECIPE, batch_size=9), parallel="data"),
        "recipe": lambda: train(store, run, other_recipe, parallel="data"),
        "store": lambda: train(folder / ("nowhere" if rank() else "store"), run, RECIPE, parallel="data"),
        "run": lambda: evaluate(folder / "nowhere", store, parallel="data"),
        "version": lambda: train_with_version(f"1.{rank()}", store, run),
        "damaged": lambda: train(folder / f"damaged-{rank()}", run, RECIPE, parallel="data"),
        "hang": lambda: train(store, run, RECIPE, parallel="data", hang_seconds=0),
        "parallel": lambda: train(store, run, RECIPE, parallel=SCHEMES[rank()]),
        "diverges": lambda: train(store, folder / "big", replace(RECIPE, learning_rate=1e9), parallel="towers"),
    }
    errors = {}
    for name, call in calls.items():
        try:
            call()
            errors[name] = "no error"
        except (ValueError, OSError, SystemExit) as error:
            errors[name] = f"{type(error).__name__}: {error}"
    return errors


def train_with_version(version: str, store: Path, run: Path) -> None:
    """Train as another version of the package."""
    original, consistency.version = consistency.version, lambda _: version  # type: ignore[assignment]
    try:
        train(store, run, RECIPE, parallel="data")
    finally:
        consistency.version = original


def kill_one(folder: Path) -> dict[str, Any]:
    """Train two groups of towers, undisturbed; then again, and kill one process in its tenth step."""
    train(folder / "store", folder / "four", RECIPE, parallel="towers", progress=False)
    restarts = os.environ["TORCHELASTIC_RESTART_COUNT"]
    if restarts == "0":
        send_signal(signal.SIGKILL, to_rank=3, at_step=10)
    outcome = train(
        folder / "store", folder / "killed", RECIPE, parallel="towers", checkpoint_minutes=0, progress=False
    )
    return {"step": outcome.step, "restarts": restarts}


JOBS = {job.__name__: job for job in (train_and_evaluate, run_two_towers, change_layouts, make_mistakes, kill_one)}


def main(arguments: Sequence[str]) -> None:
    """Do some jobs."""
    torch.set_num_threads(1)
    *names, folder = arguments
    for name in names:
        path = Path(folder) / f"{name}-{rank()}.json"
        path.write_text(json.dumps(JOBS[name](Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])

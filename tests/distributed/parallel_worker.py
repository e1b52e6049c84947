"""What each process does for test_parallel.py: `torchrun parallel_worker.py JOB FOLDER`, results in FOLDER."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
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
from alexnet.training import train as loop
from alexnet.training.step import Step
from alexnet.training.train import train

RANK = int(os.environ.get("RANK", "0"))
SCHEMES = ("data", "towers", "hybrid")
# 47 pictures: the last batch has 7, which two processes cannot share evenly.
RECIPE = Recipe(
    net=replace(small_net(), pixel_scale=1 / 16),
    store_size=32,
    batch_size=10,
    schedule="cosine",
    epochs=4,
    learning_rate=0.3,
    label_smoothing=0.1,
    precision="float32",  # on every machine: bfloat16's rounding would hide what is compared
)


def same_runs(folder: Path) -> dict[str, Any]:
    """Train under each scheme, in one pass and in several; evaluate each run under it."""
    found = {}
    for scheme in SCHEMES:
        train(folder / "store", folder / scheme, RECIPE, parallel=scheme, progress=False)
        found[scheme] = evaluate(
            folder / scheme, folder / "store", views=10, save=folder / f"{scheme}.predictions", parallel=scheme
        )
    for scheme in SCHEMES:  # 5 pictures a process (towers: 10), in passes of 2, the last one shorter
        train(folder / "store", folder / f"{scheme}-micro", RECIPE, parallel=scheme, micro_batch=2, progress=False)
    return found


def one_step(folder: Path) -> dict[str, Any]:
    """One forward and backward pass through a net shared by towers: outputs, gradients, and what was sent."""
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
        with recorded_collectives() as calls:
            losses, predicted = team.cross_entropy(net(images), torch.tensor([4, 0]), 5, 0.1)
            losses.mean().backward()
        found = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
        gradients = team.gather_full(found)
    if RANK == 0:
        torch.save((logits, losses.detach(), predicted, gradients), folder / "towers.pt")
    return {"sent": dict(team.model_group.bytes_sent), "calls": calls}


@contextlib.contextmanager
def recorded_collectives() -> Iterator[list[tuple[str, int]]]:
    """Every collective that is called, and the bytes that this process puts into it."""
    calls: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        # Where the process puts in its part: after the output, or alone.
        for name, place in {
            "all_gather": 1,
            "all_to_all_single": 1,
            "all_reduce": 0,
            "broadcast": 0,
            "gather": 0,
        }.items():
            plain = getattr(dist, name)

            def call(*given: Any, name: str = name, place: int = place, plain: Any = plain, **options: Any) -> Any:
                calls.append((name, given[place].nbytes))
                return plain(*given, **options)

            patch.setattr(dist, name, call)
        yield calls


def changing_layouts(folder: Path) -> dict[str, Any]:
    """Begin as data parallel, be stopped by a signal to one of the processes, go on as towers, be stopped again."""
    stopping_after(7, lambda: RANK == 1)
    first = train(folder / "store", folder / "mixed", RECIPE, parallel="data", progress=False)
    stopping_after(13, lambda: RANK == 0)
    second = train(folder / "store", folder / "mixed", parallel="towers", progress=False)
    return {"steps": [first.step, second.step], "signals": [first.signal, second.signal]}


def stopping_after(step: int, here: Callable[[], bool]) -> None:
    """Let a SIGTERM come after a step."""
    plain = PLAIN_CALL

    def call(self: Step, *batch: Any) -> Any:
        made = plain(self, *batch)
        call.made += 1  # type: ignore[attr-defined]
        if call.made == step - call.before and here():  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGTERM)
        return made

    call.made, call.before = 0, 0 if step == 7 else 7  # type: ignore[attr-defined]
    loop.Step.__call__ = call  # type: ignore[method-assign]


PLAIN_CALL = Step.__call__


def mistakes(folder: Path) -> dict[str, Any]:
    """What each process says to things that cannot be."""
    one_tower = replace(RECIPE, net=replace(RECIPE.net, towers=1))
    odd_units = replace(RECIPE, net=replace(RECIPE.net, fc7=replace(RECIPE.net.fc7, units=15)))  # type: ignore[type-var]
    store, other = folder / "store", replace(RECIPE, learning_rate=0.01 * (1 + RANK))
    calls: dict[str, Callable[[], Any]] = {
        "scheme": lambda: train(store, folder / "new", RECIPE, parallel="both"),
        "none": lambda: train(store, folder / "new", RECIPE),
        "one tower": lambda: train(store, folder / "new", one_tower, parallel="towers"),
        "units": lambda: train(store, folder / "new", odd_units, parallel="hybrid"),
        "batch": lambda: train(store, folder / "new", replace(RECIPE, batch_size=9), parallel="data"),
        "recipe": lambda: train(store, folder / "new", other, parallel="data"),
        "store": lambda: train(folder / ("store" if RANK == 0 else "nowhere"), folder / "new", RECIPE, parallel="data"),
        "run": lambda: evaluate(folder / "nowhere", store, parallel="data"),
        "version": lambda: with_version(f"1.{RANK}", store, folder / "new"),
        "damaged": lambda: train(folder / f"damaged-{RANK}", folder / "new", RECIPE, parallel="data"),
        "hang": lambda: train(store, folder / "new", RECIPE, parallel="data", hang_seconds=0),
        "parallel": lambda: train(store, folder / "new", RECIPE, parallel=SCHEMES[RANK]),
        "diverges": lambda: train(store, folder / "big", replace(RECIPE, learning_rate=1e9), parallel="towers"),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
            said[name] = "nothing"
        except (ValueError, OSError, SystemExit) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def with_version(number: str, store: Path, run: Path) -> None:
    plain, consistency.version = consistency.version, lambda _: number  # type: ignore[assignment]
    try:
        train(store, run, RECIPE, parallel="data")
    finally:
        consistency.version = plain


def killed(folder: Path) -> dict[str, Any]:
    """Train towers on parts of batches, undisturbed; then again, one process being killed after its ninth step."""
    train(folder / "store", folder / "four", RECIPE, parallel="towers", progress=False)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and RANK == 3:
        plain, made = Step.__call__, 0

        def call(self: Step, *batch: Any) -> Any:
            nonlocal made
            made += 1
            if made == 10:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, *batch)

        loop.Step.__call__ = call  # type: ignore[method-assign]
    run = folder / "killed"
    outcome = train(folder / "store", run, RECIPE, parallel="towers", checkpoint_minutes=0, progress=False)
    return {"step": outcome.step, "life": os.environ["TORCHELASTIC_RESTART_COUNT"]}


JOBS = {job.__name__: job for job in (same_runs, one_step, changing_layouts, mistakes, killed)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[-1])
    for name in sys.argv[1:-1]:
        (folder / f"{name}-{RANK}.json").write_text(json.dumps(JOBS[name](folder)))

"""Run the demonstration: from pictures, drawn or of CIFAR-10, to a report."""

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.download import download_cifar10
from alexnet.data.store.store import Store
from alexnet.demo.drawing import CLASSES, PICTURES_PER_CLASS, draw_pictures
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.results.report import report
from alexnet.training.inference import default_views, format_views
from alexnet.training.train import train
from alexnet.utils.console import count_of
from alexnet.utils.files import local_path
from alexnet.utils.intervals import format_error_rate
from alexnet.utils.signals import SignalInterrupt

_RECIPE_NAMES = {"drawn": "tiny", "cifar10": "cifar10-80sec"}  # for each kind of data
_HELD_OUT = 0.2  # share of the drawn pictures that the net is tested on


def run_demo(
    folder: str | Path = "demo",
    *,
    data: Literal["drawn", "cifar10"] = "drawn",
    seed: int = 0,
    per_class: int = PICTURES_PER_CLASS,
    recipe: Recipe | None = None,
) -> dict[int, dict[str, Any]]:
    """Get pictures, prepare them, train a net, evaluate it and write the report; print each step on standard output.

    What an earlier call has completed is not repeated.

    Args:
        folder: The folder to work in. It is created if there is none.
        data: "drawn" for ten classes of drawn shapes and textures, "cifar10" to download CIFAR-10 (170 MB).
        seed: Seed of the drawing and of the training.
        per_class: Number of drawn pictures of each class.
        recipe: The recipe to train by; by default `tiny` or `cifar10-80sec`.

    Returns:
        The results of `evaluate`, by the number of views.

    Raises:
        ValueError: There is no such data, or the folder contains a demonstration with other arguments.
        OSError: CIFAR-10 cannot be downloaded, or the disk is full.
        SignalInterrupt: A signal has stopped the training.
    """
    if data not in _RECIPE_NAMES:
        raise ValueError(f"data must be {' or '.join(_RECIPE_NAMES)}; got {data!r}")
    start_time = time.monotonic()
    name = _RECIPE_NAMES[data]
    recipe = recipe or recipe_named(name).with_settings([f"seed={seed}"])
    folder = local_path(folder) / data
    store, run = folder / "store", folder / "run"
    source = _get_pictures(folder, data, per_class, seed)
    _print(f"2. Preparing the pictures: {store}")
    division: dict[str, Any] = {"held_out": _HELD_OUT, "seed": seed} if data == "drawn" else {}  # CIFAR-10 has its own
    _print(str(prepare(source, store, size=recipe.store_size, **division)))
    _print(f"3. Training a net by the recipe {name} for {count_of(recipe.epochs, 'epoch')}: {run}")
    with _use_one_thread() if data == "drawn" else contextlib.nullcontext():
        _train(store, run, recipe)
        _print("4. Evaluating the net on the held-out pictures")
        results = {views: evaluate(run, store, views=views) for views in dict.fromkeys((1, default_views(recipe)))}
        _print_errors(results)
        _print("5. Writing the report")
        page = report(run, store)
    _print(
        f"\nLook at {page}\nThe demonstration took {time.monotonic() - start_time:.0f} s. Three commands to try next:"
    )
    for command in _next_commands(folder, source, data):
        _print(f"  {command}")
    return results


def program_name() -> str:
    """Return how this program is called on the command line here."""
    called = Path(sys.argv[0])
    if shutil.which("alexnet"):
        return "alexnet"
    return str(called) if called.name == "alexnet" else f"{shlex.quote(sys.executable)} -m alexnet"


def _print(text: str) -> None:
    """Print a line at once, so that it comes before the progress that follows on standard error."""
    print(text, flush=True)


def _get_pictures(folder: Path, data: str, per_class: int, seed: int) -> Path:
    """Draw the pictures or download CIFAR-10, and return the path of the source."""
    if data == "drawn":
        count = per_class * len(CLASSES)
        _print(f"1. Drawing {count:,} pictures of {len(CLASSES)} classes ({', '.join(CLASSES)})")
        return draw_pictures(folder / "pictures", per_class=per_class, seed=seed)
    _print("1. Downloading CIFAR-10 (170 MB)")
    return download_cifar10(folder)


def _train(store: Path, run: Path, recipe: Recipe) -> None:
    """Train the net, or raise a SignalInterrupt if a signal has stopped the training."""
    outcome = train(store, run, recipe)
    if not outcome.finished:
        _print(f"Stopped after step {outcome.step}. The same command resumes from there.")
        raise SignalInterrupt(outcome.signal)


def _print_errors(results: dict[int, dict[str, Any]]) -> None:
    """Print the error rates, with their 95 % intervals, for each number of views."""
    for views, result in results.items():
        _print(
            f"{format_views(views):8} of {result['images']:,} pictures: "
            f"top-1 error {format_error_rate(result['top1_error'], result['images'])}, "
            f"top-5 error {format_error_rate(result['top5_error'], result['images'])}"
        )


def _next_commands(folder: Path, source: Path, data: str) -> list[str]:
    """Return three commands that the user can try next."""
    run, store = str(folder / "run"), str(folder / "store")
    if data == "drawn":
        split = Store(store).validation()
        first = ["predict", run, *(str(source / split.picture_name(n)) for n in (0, len(split) - 1))]
    else:
        first = ["evaluate", run, store, "--json"]
    second = ["train", store, str(folder / "run-tanh"), "--recipe", _RECIPE_NAMES[data], "--set", "net.activation=tanh"]
    third = "prepare YOUR_PICTURES my-store   # a folder with a folder of pictures for each class"
    return [f"{program_name()} {arguments}" for arguments in (shlex.join(first), shlex.join(second), third)]


@contextlib.contextmanager
def _use_one_thread() -> Iterator[None]:
    """Compute on one core: two are hardly faster for a net this small, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

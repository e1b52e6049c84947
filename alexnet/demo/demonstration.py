"""The main job from pictures to report, on pictures drawn here or on CIFAR-10."""

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
from alexnet.demo.drawing import KINDS, PER_CLASS, draw_pictures
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.results.report import report
from alexnet.training.inference import default_views, format_views
from alexnet.training.train import train

NAMES = {"drawn": "tiny", "cifar10": "cifar10-80sec"}  # the recipe for each kind of data
HELD_OUT = 0.2  # share of the drawn pictures that the net is tested on


def demo(
    folder: str | Path = "demo",
    *,
    data: Literal["drawn", "cifar10"] = "drawn",
    seed: int = 0,
    per_class: int = PER_CLASS,
    recipe: Recipe | None = None,
) -> dict[int, dict[str, Any]]:
    """Prepare a picture set, train on it, evaluate and report; tell of each step on standard output.

    Whatever an earlier call has done is not done again.

    Args:
        folder: Where to work; made if it is not there.
        data: "drawn": ten classes of shapes and textures, drawn here; "cifar10": downloaded, 170 MB.
        seed: Of the drawing and of the training.
        per_class: Drawn pictures of each class.
        recipe: What to train; `tiny` or `cifar10-80sec` by default.

    Returns:
        What `evaluate` found, by the number of views.

    Raises:
        ValueError: No such data, or the folder holds another demonstration's work.
        OSError: No network for CIFAR-10, or no room.
        KeyboardInterrupt: The training was stopped by a signal.
    """
    if data not in NAMES:
        raise ValueError(f"data must be {' or '.join(NAMES)}; got {data!r}")
    began, name = time.monotonic(), NAMES[data]
    place = Path(folder) / data
    store, run = place / "store", place / "run"
    if data == "drawn":
        tell(f"1. Drawing {per_class * len(KINDS):,} pictures of {len(KINDS)} classes ({', '.join(KINDS)})")
        source = draw_pictures(place / "pictures", per_class=per_class, seed=seed)
    else:
        tell("1. Downloading CIFAR-10 (170 MB)")
        source = download_cifar10(place)
    recipe = recipe or recipe_named(name).with_settings([f"seed={seed}"])
    tell(f"2. Preparing them: {store}")
    tell(str(prepare(source, store, size=recipe.store_size, held_out=HELD_OUT, seed=seed)))
    tell(f"3. Training a net by the recipe {name}, {recipe.epochs} epochs: {run}")
    with one_thread() if data == "drawn" else contextlib.nullcontext():
        outcome = train(store, run, recipe)
        if not outcome.finished:
            tell(f"Stopped after step {outcome.step}, all saved: the same command goes on from there")
            raise KeyboardInterrupt
        tell("4. Evaluating it on the pictures set aside")
        found = {n: evaluate(run, store, views=n) for n in dict.fromkeys((1, default_views(recipe)))}
        tell_results(found)
        tell("5. Writing the report")
        page = report(run, store)
    tell(f"\nLook at {page}\nAll of it took {time.monotonic() - began:.0f} s. Three commands to try next:")
    for line in next_commands(place, source, data):
        tell(f"  {line}")
    return found


def tell(text: str) -> None:
    """Print a line at once, so that it comes before the progress that follows on standard error."""
    print(text, flush=True)


def tell_results(found: dict[int, dict[str, Any]]) -> None:
    """Print the errors."""
    for views, result in found.items():
        tell(
            f"{format_views(views):8} of {result['images']:,} pictures: "
            f"top-1 error {result['top1_error']:.1%}, top-5 error {result['top5_error']:.1%}"
        )


def next_commands(place: Path, source: Path, data: str) -> list[str]:
    """What to type next."""
    alexnet, run, store = command(), str(place / "run"), str(place / "store")
    if data == "drawn":
        split = Store(store).validation()
        first = ["predict", run, *(str(source / split.picture_name(n)) for n in (0, len(split) - 1))]
    else:
        first = ["evaluate", run, store, "--json"]
    second = ["train", store, str(place / "run-tanh"), "--recipe", NAMES[data], "--set", "net.activation=tanh"]
    third = "prepare YOUR_PICTURES my-store   # a folder with a folder of pictures for each class"
    return [f"{alexnet} {shlex.join(first)}", f"{alexnet} {shlex.join(second)}", f"{alexnet} {third}"]


def command() -> str:
    """How this program is called here."""
    called = Path(sys.argv[0])
    if shutil.which("alexnet"):
        return "alexnet"
    return str(called) if called.name == "alexnet" else f"{shlex.quote(sys.executable)} -m alexnet"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core: for a net this small two are hardly faster, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

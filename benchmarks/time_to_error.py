"""Time until a recipe's net has a given error: the recipe `photos` beside what it was before.

    python benchmarks/time_to_error.py STORE RUNS [--error 0.43] [--recipes photos photos-before] [--views 10]
                                       [--set FIELD=VALUE ...] [--threads N] [--json FILE]

Each recipe is trained on STORE to its end, in RUNS/<recipe>, one after another; then its last net is evaluated with
all views. The error is that on the validation pictures, or on the test pictures of a store without them. It is reached
after the first epoch whose error with one view is at most --error; where only all views together reach it, at the end
of the training. The table gives the epochs and the seconds until then (validation after each epoch included), those of
the whole training, and the errors of the last net. The last column is the time of the last recipe in the list, divided
by the recipe's own.

"photos-before" is the recipe `photos` of November 2026: batches of 32, crops of 224 pixels throughout, 60 epochs. Other
names are those of `alexnet recipes`. A measurement that was stopped goes on with the same command; its seconds are
those of all parts. Nothing else should run beside it. On two cores and the 3,030 training pictures of Caltech-101 the
two take about 80 minutes.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json

from alexnet.architecture import Net
from alexnet.recipe import Recipe
from alexnet.recipes import recipe_named
from alexnet.results.evaluate import evaluate
from alexnet.training.train import train

_BEFORE = "photos-before"


def _photos_before() -> Recipe:
    """Return the recipe `photos` as it was until November 2026."""
    return Recipe(
        net=Net(start="he", pixel_scale=1 / 16),
        batch_size=32,
        schedule="cosine",
        warmup=1,
        epochs=60,
        crop_area=(0.35, 1.0),
        label_smoothing=0.1,
    )


@dataclass(frozen=True)
class _Result:
    """How long a recipe took.

    Args:
        epochs, seconds: Until the error was reached; None if it was not.
        all_epochs, all_seconds: Of the whole training.
        one_view, all_views: Errors of the last net.
        lowest: The lowest error with one view after an epoch.
    """

    epochs: int | None
    seconds: float | None
    all_epochs: int
    all_seconds: float
    one_view: float
    all_views: float
    lowest: float


def _measure(store: Path, run: Path, recipe: Recipe, error: float, views: int) -> _Result | None:
    """Train a recipe to its end, or go on with it; return how long it took, or None if a signal stopped it."""
    if not train(store, run, recipe).finished:
        return None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    last = epochs[-1]
    all_views = evaluate(run, store, views=views)["top1_error"]
    reached = [line for line in epochs if line["val_top1_error"] <= error] or ([last] if all_views <= error else [])
    first: dict[str, Any] = reached[0] if reached else {"epoch": None, "seconds": None}
    lowest = min(line["val_top1_error"] for line in epochs)
    return _Result(
        first["epoch"], first["seconds"], last["epoch"], last["seconds"], last["val_top1_error"], all_views, lowest
    )


def _print_table(results: dict[str, _Result], error: float, views: int) -> None:
    *_, last = results.values()
    rows = []
    for name, r in results.items():
        reached = (r.epochs, f"{r.seconds:,.0f}") if r.seconds is not None else ("-", f"lowest {r.lowest:.1%}")
        ratio = f"{last.seconds / r.seconds:.2f}x" if r.seconds and last.seconds else "-"
        errors = f"{r.one_view:.1%}", f"{r.all_views:.1%}"
        rows.append((name, *reached, r.all_epochs, f"{r.all_seconds:,.0f}", *errors, ratio))
    to_error = f"to {error:.1%}"
    headings = ("recipe", f"epochs {to_error}", f"seconds {to_error}", "epochs in all", "seconds in all",
                "error, one view", f"{views} views", "faster")  # fmt: skip
    print(markdown_table(rows, headings))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder that `alexnet prepare` wrote")
    parser.add_argument("runs", type=Path, help="folder for a run of each recipe")
    parser.add_argument("--error", type=float, default=0.43, help="share of wrong pictures; default: %(default)s")
    parser.add_argument("--recipes", nargs="+", default=["photos", _BEFORE], help="default: photos photos-before")
    parser.add_argument("--views", type=int, default=10, help="of the last evaluation; default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change each recipe")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="the file to write the numbers to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict[str, _Result] = {}
    for name in options.recipes:
        recipe = (_photos_before() if name == _BEFORE else recipe_named(name)).with_settings(options.set)
        result = _measure(options.store, options.runs / name, recipe, options.error, options.views)
        if result is None:
            parser.exit(1, f"stopped while {name} was trained: the same command continues the measurement\n")
        results[name] = result
    info = environment_info("cuda" if torch.cuda.is_available() else "cpu")
    print(info)
    _print_table(results, options.error, options.views)
    write_json(options.json, {"machine": info, "error": options.error, "views": options.views,
                              "recipes": {name: vars(result) for name, result in results.items()}})  # fmt: skip


if __name__ == "__main__":
    main()

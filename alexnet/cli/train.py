"""`alexnet train STORE RUN` (sections 5 and 6)."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.cli.messages import print_error
from alexnet.cli.options import add_device, add_process_group, add_run, add_store, add_workers
from alexnet.utils.processes import is_main_process, report_once_per_machine

if TYPE_CHECKING:
    from alexnet.recipe import Recipe
    from alexnet.training.train import Outcome

SUMMARY = "train a net on a store, or continue a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_store(parser)
    add_run(parser, "folder for the net, its metrics and its report; a run that was stopped is continued")
    parser.add_argument(
        "--recipe", metavar="NAME", help="recipe, see `alexnet recipes` (default: the run's own, or photos)"
    )
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field of the recipe; repeatable"
    )
    add_device(parser)
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard event files too")
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=10, metavar="M", help="time between checkpoints, in minutes"
    )
    _add_pretraining_group(parser)
    _add_batch_group(parser)
    _add_speed_group(parser)
    add_process_group(parser).add_argument(
        "--hang-seconds",
        type=float,
        default=300,
        metavar="S",
        help="end all processes if one makes no progress for this time, in seconds",
    )


def _add_pretraining_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start from another run")
    group.add_argument("--from", dest="start_from", type=Path, metavar="RUN", help="run to take the first weights from")
    group.add_argument("--take", metavar="LAYERS", help="layers to take, such as conv1,conv2 (default: all that fit)")


def _add_batch_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("batch size", "In place of the recipe's.")
    group.add_argument("--batch-size", type=int, metavar="N", help="pictures per step, over all processes")
    group.add_argument("--scale-rate", choices=("linear", "sqrt"), help="scale the learning rates with the batch size")


def _add_speed_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("speed and memory")
    add_workers(group, "threads that load batches (default: one, or with a GPU one per core)")
    group.add_argument("--micro-batch", type=int, metavar="N", help="pictures that a process computes on at a time")
    group.add_argument("--no-graph", action="store_true", help="do not use CUDA graphs")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.training.train import train

    try:
        recipe = _choose_recipe(options)
    except ValueError as error:
        raise report_once_per_machine(error) from None
    outcome = train(
        options.store,
        options.run,
        recipe,
        start_from=options.start_from,
        take=options.take.split(",") if options.take else (),
        device=options.device,
        parallel=options.parallel,
        micro_batch=options.micro_batch,
        hang_seconds=options.hang_seconds,
        workers=options.workers,
        checkpoint_minutes=options.checkpoint_minutes,
        tensorboard=options.tensorboard,
        graph=not options.no_graph,
    )
    if not outcome.finished:
        if is_main_process():
            print_error(f"stopped and saved after step {outcome.step}: the same command continues the run")
        return 128 + (outcome.signal or 0)
    if is_main_process():
        from alexnet.results.report import report

        path = report(options.run, options.store, device=options.device)
        print(f"{_describe_outcome(outcome)}; report: {path}")
    return 0


def _describe_outcome(outcome: "Outcome") -> str:
    """Return the epochs and the error of a finished training, in a line."""
    from alexnet.training.error_rates import split_adjective
    from alexnet.utils.intervals import format_error_rate

    epochs = f"{outcome.epoch} epoch{'s' if outcome.epoch > 1 else ''}"
    pictures = f"{outcome.images:,} {split_adjective(outcome.split)} pictures, one view"
    checkpoint = "best" if outcome.is_best else "last"
    assert outcome.error is not None
    error = format_error_rate(outcome.error, outcome.images)
    return f"{epochs}, top-1 error of the {checkpoint} checkpoint {error} on {pictures}"


def _choose_recipe(options: argparse.Namespace) -> "Recipe | None":
    """Return the recipe that the options ask for.

    Returns:
        The recipe; None for the run's own, or, in all processes but the main one, for the main process's.

    Raises:
        ValueError: No such recipe, or options that it does not allow.
    """
    from alexnet.recipe import Recipe
    from alexnet.recipes import recipe_named

    path = options.run / "recipe.json"
    is_changed = options.set or options.batch_size or options.scale_rate
    if options.recipe is None and not is_changed and (path.exists() or not is_main_process()):
        return None
    if options.recipe is None and path.exists():
        recipe = Recipe.from_json(path.read_text(encoding="utf-8"))
    else:
        recipe = recipe_named(options.recipe or "photos")
    recipe = recipe.with_settings(options.set)
    if options.scale_rate and not options.batch_size:
        raise ValueError("--scale-rate must be given with the --batch-size to scale to")
    return recipe.with_batch(options.batch_size, options.scale_rate) if options.batch_size else recipe

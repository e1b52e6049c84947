"""`alexnet train STORE RUN` (sections 5 and 6)."""

import argparse
from typing import TYPE_CHECKING

from alexnet.cli.chosen_recipe import choose_recipe
from alexnet.cli.messages import print_error, typed_options
from alexnet.cli.options import add_device, add_process_group, add_recipe, add_run, add_store, add_workers, parse_run
from alexnet.utils.processes import is_main_process, report_once_per_machine

if TYPE_CHECKING:
    from alexnet.training.train import Outcome

SUMMARY = "train a net on a store, or continue a run"
_HANG_SECONDS = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_store(parser)
    add_run(parser, "folder for the net, its metrics and its report; a run that was stopped is continued")
    add_recipe(parser, "recipe (default: the run's own, or photos, or with --from photos-finetune)")
    _add_recipe_options(parser)
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field of the recipe; repeatable"
    )
    add_device(parser)
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard event files too")
    parser.add_argument(
        "--checkpoint-minutes", type=float, default=10, metavar="M", help="time between checkpoints, in minutes"
    )
    parser.add_argument(
        "--on-divergence",
        choices=("stop", "retry"),
        default="stop",
        help="where the loss is not finite: stop, or go back to the last epoch at half the rate, at most three times",
    )
    _add_pretraining_group(parser)
    _add_batch_group(parser)
    _add_speed_group(parser)
    add_process_group(parser).add_argument(
        "--hang-seconds",
        type=float,
        metavar="S",
        help=f"end all processes if one makes no progress for this time, in seconds (default: {_HANG_SECONDS})",
    )


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fields of the recipe", "Each in place of --set FIELD=VALUE.")
    group.add_argument("--epochs", type=int, metavar="N", help="passes through the training pictures, at most")
    group.add_argument("--learning-rate", type=float, metavar="RATE", help="learning rate after the warm-up")
    group.add_argument("--seed", type=int, metavar="N", help="seed of all that is drawn at random")
    help = (
        "epochs without a lower validation error after which the training ends; with schedule plateau the rate falls, "
        "with fold the validation pictures are added"
    )
    group.add_argument("--patience", type=int, metavar="N", help=help)
    help = "train fewer epochs than the recipe has if they would take longer, judged by the time of some first steps"
    parser.add_argument("--hours", type=float, metavar="H", help=help)


def _add_pretraining_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start from another run")
    group.add_argument(
        "--from", dest="start_from", type=parse_run, metavar="RUN", help="run to take the first weights from"
    )
    group.add_argument("--take", metavar="LAYERS", help="layers to take, such as conv1,conv2 (default: all that fit)")
    group.add_argument(
        "--freeze",
        metavar="LAYERS",
        help='layers that do not learn, such as conv1,conv2 or conv1,...,conv5 or "all-but fc8"',
    )
    group.add_argument(
        "--taken-rate", type=float, metavar="F", help="factor on the learning rates of the layers that are taken"
    )


def _add_batch_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("batch size", "In place of the recipe's.")
    group.add_argument("--batch-size", type=int, metavar="N", help="pictures per step, over all processes")
    group.add_argument("--scale-rate", choices=("linear", "sqrt"), help="scale the learning rates with the batch size")


def _add_speed_group(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("speed and memory")
    add_workers(group, "threads that load batches (default: one, or with a GPU one per core)")
    group.add_argument("--micro-batch", type=int, metavar="N", help="pictures that a process computes on at a time")
    group.add_argument(
        "--cache-gb",
        type=float,
        default=8,
        metavar="GB",
        help="disk for the activities of frozen layers, in gigabytes; 0 keeps none",
    )
    group.add_argument("--no-graph", action="store_true", help="do not use CUDA graphs")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.data.prepare.on_demand import store_to_train_on
    from alexnet.training.train import train

    try:
        _check_use(options)
        recipe = choose_recipe(options)
        if recipe and not recipe.frozen_front and "cache_gb" in typed_options(options):
            raise ValueError("--cache-gb must be left out if the first layers are not frozen; use --freeze LAYERS")
    except ValueError as error:
        raise report_once_per_machine(error) from None
    store = store_to_train_on(options.store, options.run, recipe.store_size if recipe else None)
    outcome = train(
        store,
        options.run,
        recipe,
        start_from=options.start_from,
        take=options.take.split(",") if options.take else (),
        hours=options.hours,
        device=options.device,
        parallel=options.parallel,
        micro_batch=options.micro_batch,
        hang_seconds=_HANG_SECONDS if options.hang_seconds is None else options.hang_seconds,
        workers=options.workers,
        cache_gb=options.cache_gb,
        checkpoint_minutes=options.checkpoint_minutes,
        tensorboard=options.tensorboard,
        graph=not options.no_graph,
        on_divergence=options.on_divergence,
    )
    if not outcome.finished:
        if is_main_process():
            print_error(f"stopped and saved after step {outcome.step}: the same command continues the run")
        return 128 + (outcome.signal or 0)
    if is_main_process():
        from alexnet.cli.guessing import describe_guessing
        from alexnet.data.store.store import Store
        from alexnet.results.report import report

        path = report(options.run, store, device=options.device)
        print(f"{_describe_outcome(outcome)}; report: {path}")
        opened = store if isinstance(store, Store) else Store(store)
        if warning := describe_guessing(options.run, opened, outcome):
            print_error(warning)
    return 0


def _check_use(options: argparse.Namespace) -> None:
    """Raise a ValueError if an option would have no effect."""
    if options.hang_seconds is not None and options.parallel == "none":
        raise ValueError("--hang-seconds must be given with several processes; use torchrun and --parallel")
    if options.take and not options.start_from:
        raise ValueError("--take must be given with the run to take layers from; use --from RUN")


def _describe_outcome(outcome: "Outcome") -> str:
    """Return the epochs and the error of a finished training, in a line."""
    from alexnet.training.error_rates import split_adjective
    from alexnet.utils.console import count_of
    from alexnet.utils.intervals import format_error_rate

    epochs = count_of(outcome.epoch, "epoch")
    pictures = f"{count_of(outcome.images, f'{split_adjective(outcome.split)} picture')}, one view"
    checkpoint = "best" if outcome.is_best else "last"
    assert outcome.error is not None
    error = format_error_rate(outcome.error, outcome.images)
    return f"{epochs}, top-1 error of the {checkpoint} checkpoint {error} on {pictures}"

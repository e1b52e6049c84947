"""`alexnet reproduce [NAME]`: the paper's figures and tables."""

import argparse
import sys
import time
from pathlib import Path

from alexnet.checked import require
from alexnet.cli.messages import typed_options
from alexnet.cli.options import add_data, add_device, add_recipe, add_workers, load_recipe, parse_output, parse_store

SUMMARY = "reproduce a figure or a table of the paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="experiment, such as figure1, or all (default: list them)"
    )
    add_data(
        parser,
        "store of the paper's pictures or of others, or folder of ImageNet's archives; for all, folder of stores",
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes (default: no limit)")
    help = "store or archives to pre-train on (table2, fall2009); can be repeated, the first one is used first"
    parser.add_argument("--more", metavar="STORE", type=parse_store, action="append", help=help)
    parser.add_argument(
        "--folder",
        type=parse_output,
        default=Path("reproduced"),
        metavar="FOLDER",
        help="folder for nets, tables and figures",
    )
    add_recipe(parser, "recipe to vary (default: the experiment's own)")
    parser.add_argument("--epochs", type=int, metavar="N", help="shorten each longer training to N epochs")
    parser.add_argument("--seeds", type=int, metavar="N", help="train each net N times (default: the experiment's own)")
    parser.add_argument(
        "--only",
        type=lambda names: names.split(","),
        metavar="NAME,...",
        help="nets to train (claims, overfitting; default: all)",
    )
    add_device(parser)
    add_workers(parser, "threads that load batches (default: one, or with a GPU one per core)")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.experiments import describe_experiments, reproduce
    from alexnet.experiments.experiment import OutOfTimeError

    if options.name is None:
        for option in typed_options(options).values():
            raise ValueError(f"{option} must be given with the NAME of an experiment, one of the list")
        for name, claim in describe_experiments().items():
            print(f"{name:20} {claim}")
        return 0
    require(options.minutes is None or options.minutes > 0, "minutes", "above 0", options.minutes)
    if options.name == "all":
        return _run_all(options)
    try:
        result = reproduce(
            options.name,
            options.folder,
            options.data,
            pretraining_data=options.more,
            recipe=load_recipe(options.recipe) if options.recipe else None,
            epochs=options.epochs,
            seeds=options.seeds,
            only=options.only,
            deadline=None if options.minutes is None else time.monotonic() + 60 * options.minutes,
            device=options.device,
            workers=options.workers,
        )
    except OutOfTimeError:
        print("The time is over; the same command resumes the experiment.", file=sys.stderr)
        return 0
    print(result.to_markdown(), end="")
    print(f"\nAll in {options.folder / options.name}.")
    return 0


def _run_all(options: argparse.Namespace) -> int:
    """Run all experiments and return the exit status."""
    from alexnet.experiments.everything import reproduce_all

    for name in ("recipe", "more", "only"):
        require(getattr(options, name) is None, name, "left out with all", getattr(options, name))
    require(isinstance(options.data, Path), "data", "a store or a folder of stores, for all", options.data)
    page = reproduce_all(
        options.folder,
        options.data,
        minutes=options.minutes,
        epochs=options.epochs,
        seeds=options.seeds,
        device=options.device,
        workers=options.workers,
    )
    print(f"All in {page}.")
    return 0

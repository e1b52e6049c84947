"""`alexnet train STORE RUN` (sections 5 and 6)."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from alexnet.cli.messages import print_error
from alexnet.cli.options import add_device, add_process_group, add_run, add_store, add_workers, parse_run
from alexnet.utils.processes import is_main_process, report_once_per_machine

if TYPE_CHECKING:
    from alexnet.recipe import Recipe
    from alexnet.training.train import Outcome

SUMMARY = "train a net on a store, or continue a run"
_ALL_BUT = "all-but"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_store(parser)
    add_run(parser, "folder for the net, its metrics and its report; a run that was stopped is continued")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="recipe, see `alexnet recipes` (default: the run's own, or photos, or with --from photos-finetune)",
    )
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
        default=300,
        metavar="S",
        help="end all processes if one makes no progress for this time, in seconds",
    )


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
        recipe = _choose_recipe(options)
    except ValueError as error:
        raise report_once_per_machine(error) from None
    store = store_to_train_on(options.store, options.run, recipe.store_size if recipe else None)
    outcome = train(
        store,
        options.run,
        recipe,
        start_from=options.start_from,
        take=options.take.split(",") if options.take else (),
        device=options.device,
        parallel=options.parallel,
        micro_batch=options.micro_batch,
        hang_seconds=options.hang_seconds,
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
        from alexnet.results.report import report

        path = report(options.run, store, device=options.device)
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

    path = options.run / "recipe.json"
    changes = (options.set, options.batch_size, options.scale_rate, options.freeze, options.taken_rate is not None)
    if options.recipe is None and not any(changes) and (path.exists() or not is_main_process()):
        return None
    if options.start_from and not is_main_process():  # that run is read by the main process only
        return None
    if options.recipe is None and path.exists():
        recipe = Recipe.from_json(path.read_text(encoding="utf-8"))
    else:
        recipe = _named_recipe(options)
    recipe = recipe.with_settings(options.set)
    if options.scale_rate and not options.batch_size:
        raise ValueError("--scale-rate must be given with the --batch-size to scale to")
    if options.batch_size:
        recipe = recipe.with_batch(options.batch_size, options.scale_rate)
    if options.freeze:
        recipe = replace(recipe, frozen=parse_frozen(options.freeze, recipe.net.layers()))
    return recipe if options.taken_rate is None else _with_taken_rate(recipe, options)


def _named_recipe(options: argparse.Namespace) -> "Recipe":
    """Return the recipe of the name that is given, or `photos`; `photos-finetune` for a run with another net."""
    from alexnet.recipes import recipe_named
    from alexnet.training.finetune import read_origin_recipe

    if not options.start_from:
        return recipe_named(options.recipe or "photos")
    origin = read_origin_recipe(options.start_from)
    name = options.recipe or ("photos" if origin.net == recipe_named("photos").net else "photos-finetune")
    if not options.recipe:
        print_error(f"no --recipe is given: {name} is used, for the net of {options.start_from}")
    return recipe_named(name, origin)


def join_all_but(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with "--freeze all-but LAYERS" as two arguments, as the parser takes it."""
    joined: list[str] = []
    for argument in arguments:
        if joined and (joined[-2:] == ["--freeze", _ALL_BUT] or joined[-1] == f"--freeze={_ALL_BUT}"):
            joined[-1] += f" {argument}"
        else:
            joined.append(argument)
    return joined


def parse_frozen(text: str, layers: Sequence[str]) -> tuple[str, ...]:
    """Return the layers that the value of --freeze names, in order.

    Args:
        text: Names with commas between them; "..." stands for those between its neighbours. "all-but " before them
            means all other layers.
        layers: The names of the net's layers, in order.

    Raises:
        ValueError: It is not of this form, or names another layer.
    """
    from alexnet.checked import require

    is_all_but = text.startswith(f"{_ALL_BUT} ")
    names = text.removeprefix(f"{_ALL_BUT} ").split(",")
    for name in names:
        require(name in (*layers, "..."), "--freeze", f"names of layers ({', '.join(layers)}), or all-but them", name)
    for before, after in pairwise(["...", *names, "..."]):
        require(before != "..." or after != "...", "--freeze", 'with a layer before and after "..."', text)
    selected = {*names}
    for position, name in enumerate(names):
        if name == "...":
            first, last = layers.index(names[position - 1]), layers.index(names[position + 1])
            selected |= {*layers[first:last]}
    return tuple(name for name in layers if (name in selected) != is_all_but)


def _with_taken_rate(recipe: "Recipe", options: argparse.Namespace) -> "Recipe":
    """Return a recipe with the factor --taken-rate for each layer that all of is taken from the run given by --from."""
    from alexnet.data.prepare.on_demand import read_classes
    from alexnet.training.finetune import fitting_layers, load_origin

    if not options.start_from:
        raise ValueError("--taken-rate must be given with the run to take layers from; use --from RUN")
    origin, classes = load_origin(options.start_from), read_classes(options.store)
    taken = fitting_layers(origin, recipe.net, classes, options.take.split(",") if options.take else ())
    factors = {
        name: options.taken_rate
        for name in taken
        if name in recipe.trained_layers and (name != "fc8" or origin.classes == classes)
    }
    return replace(recipe, rate_factors=recipe.rate_factors | factors)

"""The recipe that the options of `alexnet train` ask for."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from alexnet.cli.messages import print_error, typed_options
from alexnet.cli.options import load_recipe
from alexnet.utils.processes import is_main_process

if TYPE_CHECKING:
    from alexnet.recipe import Recipe

_ALL_BUT = "all-but"
# The options that set a field of the recipe, as --set does: what `argparse` calls their values, and the fields.
_SHORTCUTS = {
    "epochs": "epochs",
    "learning_rate": "learning_rate",
    "batch_size": "batch_size",
    "seed": "seed",
    "patience": "patience",
    "freeze": "frozen",
    "taken_rate": "rate_factors",
}


def choose_recipe(options: argparse.Namespace) -> "Recipe | None":
    """Return the recipe that the options ask for.

    Returns:
        The recipe; None for the run's own, or, in all processes but the main one, for the main process's.

    Raises:
        ValueError: No such recipe, or options that it does not allow, or that say the same thing twice.
    """
    from alexnet.recipe import Recipe

    path = options.run / "recipe.json"
    settings = _read_settings(options)
    if options.scale_rate and options.batch_size is None:
        raise ValueError("--scale-rate must be given with the --batch-size to scale to")
    given = (*_SHORTCUTS, "recipe", "set", "scale_rate")
    changes = any(name in typed_options(options) for name in given)
    if not changes and (path.exists() or not is_main_process()):
        return None
    if options.start_from and not is_main_process():  # that run is read by the main process only
        return None
    is_continued = options.recipe is None and path.exists()
    base = Recipe.load(path) if is_continued else _named_recipe(options)
    recipe = _with_settings(base, settings)
    _check_start_from(recipe, options)
    if options.patience is not None and not recipe.follows_validation_error:
        recipe = replace(recipe, early_stopping=True)
    _check_effect(recipe, settings)
    if options.batch_size is not None:
        scaled = recipe.with_batch(options.batch_size, options.scale_rate)
        _note_warmup(recipe, scaled, f"--scale-rate {options.scale_rate} sets a warm-up")
        recipe = scaled
    if options.freeze:
        recipe = replace(recipe, frozen=parse_frozen(options.freeze, recipe.net.layers()))
    return recipe if options.taken_rate is None else _with_taken_rate(recipe, options)


def _read_settings(options: argparse.Namespace) -> dict[str, str]:
    """Return the values of --set and of the options that stand for it, as text by the paths of their fields.

    Raises:
        ValueError: A field is set twice.
    """
    settings: dict[str, str] = {}
    for setting in options.set:
        path, _, text = setting.partition("=")
        if path in settings:
            raise ValueError(f"{path} must be set once; got --set {path}={settings[path]} and --set {setting}")
        settings[path] = text
    for name, field in _SHORTCUTS.items():
        option, value = typed_options(options).get(name), getattr(options, name)
        if option and field in settings:
            raise ValueError(
                f"{field} must be set once; got --set {field}={settings[field]} and {option} {value}: leave one out"
            )
        if option and name in ("epochs", "learning_rate", "seed", "patience"):
            settings[field] = json.dumps(value)
    return settings


def _with_settings(base: "Recipe", settings: dict[str, str]) -> "Recipe":
    """Return a recipe with some fields changed. A training that is too short for its warm-up gets a shorter one.

    Raises:
        ValueError: A field is unknown or has no effect, or a value is not allowed.
    """
    settings = dict(settings)
    epochs = settings.get("epochs", "")
    is_short = epochs.isdecimal() and 1 <= int(epochs) <= base.warmup
    if is_short and "warmup" not in settings:
        settings["warmup"] = json.dumps(base.warmup * int(epochs) / base.epochs)
    recipe = base.with_settings([f"{path}={text}" for path, text in settings.items()])
    _note_warmup(base, recipe, f"the warm-up is shortened, to end before epochs {recipe.epochs}", shown=is_short)
    return recipe


def _check_effect(recipe: "Recipe", settings: dict[str, str]) -> None:
    """Raise a ValueError if a setting has no effect with the recipe's schedule."""
    schedule = f'schedule "{recipe.schedule}"'
    if "falls" in settings and recipe.schedule != "plateau":
        raise ValueError(f"falls must be left out with {schedule}, whose rate does not fall in steps; got falls")
    if "patience" in settings and not (recipe.follows_validation_error or recipe.early_stopping):
        raise ValueError(
            f"patience must be left out with {schedule}, which has a fixed end; got {settings['patience']}: to stop "
            f"early, use --patience {settings['patience']} or --set early_stopping=true"
        )


def _check_start_from(recipe: "Recipe", options: argparse.Namespace) -> None:
    """Raise a ValueError if a recipe, by its name or in a file, has rates for a trained net, and no net is given."""
    from alexnet.ilsvrc_recipes import ORIGINS
    from alexnet.recipes import recipe_named
    from alexnet.training.setup import has_begun

    if options.start_from or has_begun(options.run):
        return
    for name, origin in ORIGINS.items():
        if recipe.changes == recipe_named(name).changes:
            copy = f" (a copy of {name})" if options.recipe not in (None, name) else ""
            raise ValueError(
                f"recipe {options.recipe or name}{copy} must be given a run to start from, trained with {origin}, as "
                "its rates are for a trained net; got none: use --from RUN"
            )


def _note_warmup(before: "Recipe", after: "Recipe", reason: str, *, shown: bool = True) -> None:
    """Say on standard error that a warm-up has changed, and why."""
    if shown and before.warmup != after.warmup and is_main_process():
        print_error(f"{reason}: {after.warmup:.2g} epochs instead of {before.warmup:g}")


def _named_recipe(options: argparse.Namespace) -> "Recipe":
    """Return the recipe that is named, or `photos`; `photos-finetune` for a run with another net."""
    from alexnet.recipes import recipe_named
    from alexnet.training.finetune import read_origin_recipe

    if not options.start_from:
        return load_recipe(options.recipe or "photos")
    origin = read_origin_recipe(options.start_from)
    name = options.recipe or ("photos" if origin.net == recipe_named("photos").net else "photos-finetune")
    if not options.recipe:
        print_error(f"no --recipe is given: {name} is used, for the net of {options.start_from}")
    return load_recipe(name, origin)


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
    if not factors:
        raise ValueError(
            "--taken-rate must have a layer to act on that is taken whole and learns; "
            f"of {', '.join(taken)} none does: leave it out, or name fewer layers with --freeze"
        )
    return replace(recipe, rate_factors=recipe.rate_factors | factors)

"""The arguments and options that several commands share."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet.recipe import Recipe

# What options are added to: a command's parser, or a group of its options.
_Options = argparse._ActionsContainer

_VIEWS = (
    "views to average over; 1: the centre; 10: the corners, the centre and their reflections; "
    "9: the corners, the edges and the centre (default: the recipe's number, or 1 if all crops are the same)"
)


def parse_store(text: str) -> str | Path:
    """Return a store's folder as a path, or its address as it is: Path would shorten s3://bucket to s3:/bucket."""
    return text if "://" in text else Path(text)


def parse_output(text: str) -> Path:
    """Return the path of a folder or a file to write.

    Raises:
        argparse.ArgumentTypeError: It is an address.
    """
    from alexnet.utils.files import local_path

    try:
        return local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_run(text: str) -> Path:
    """Return the path of a run's folder.

    Raises:
        argparse.ArgumentTypeError: It is an address.
    """
    from alexnet.utils.files import local_path

    try:
        return local_path(text)
    except ValueError:
        message = f"{text} must be a folder on this machine, not an address: copy a run from and to its address"
        raise argparse.ArgumentTypeError(message) from None


def load_recipe(text: str, origin: "Recipe | None" = None) -> "Recipe":
    """Return the recipe that the option --recipe names: by its name, or as a file or a run's folder.

    Args:
        text: The value of the option.
        origin: The recipe of the run that start values are taken from, as for `recipe_named`.

    Raises:
        ValueError: There is no such recipe, or the file has none.
    """
    from alexnet.recipe import Recipe
    from alexnet.recipes import RECIPES, recipe_named

    path = Path(text)
    if text not in RECIPES and (path.exists() or path.suffix == ".json" or len(path.parts) > 1):
        return Recipe.load(path / "recipe.json" if path.is_dir() else path)
    return recipe_named(text, origin)


def add_recipe(options: _Options, help: str, default: str | None = None) -> None:
    """Add the option --recipe."""
    help = f"{help}: a name of `alexnet recipes`, a .json file of a recipe, or the folder of a run that has one"
    options.add_argument("--recipe", metavar="NAME|FILE", default=default, help=help)


def add_run(options: _Options, help: str = "folder of a trained net, written by `alexnet train`") -> None:
    """Add the argument RUN."""
    options.add_argument("run", metavar="RUN", type=parse_run, help=help)


def add_runs(options: _Options, help: str) -> None:
    """Add the argument RUN, which can be repeated."""
    options.add_argument("runs", metavar="RUN", nargs="+", type=parse_run, help=help)


def add_store(options: _Options) -> None:
    """Add the argument STORE."""
    help = (
        "folder written by `alexnet prepare`, or the address of a copy of it, such as s3://bucket/folder; or pictures "
        "as `alexnet prepare` takes them, which are then prepared beside RUN"
    )
    options.add_argument("store", metavar="STORE", type=parse_store, help=help)


def add_data(options: _Options, help: str = "store of the pictures to show (default: the run's own)") -> None:
    """Add the option --data, a store."""
    options.add_argument("--data", metavar="STORE", type=parse_store, help=help)


def add_images(options: _Options) -> None:
    """Add the argument IMAGE, which can be repeated."""
    options.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="picture file")


def add_views(options: _Options) -> None:
    """Add the option --views, whose default is the same in all commands: see `default_views`."""
    options.add_argument("--views", type=int, metavar="1|9|10", help=_VIEWS)


def add_force(options: _Options) -> None:
    """Add the option --force."""
    options.add_argument("--force", action="store_true", help="replace files that this command has written before")


def add_device(options: _Options) -> None:
    """Add the option --device."""
    help = "device to compute on, such as cpu or cuda:1 (default: the first GPU, or the CPU if there is none)"
    options.add_argument("--device", help=help)


def add_workers(options: _Options, help: str) -> None:
    """Add the option --workers."""
    options.add_argument("--workers", type=int, metavar="N", help=help)


def add_json(options: _Options, help: str = "print one JSON list with an entry for each picture") -> None:
    """Add the option --json."""
    options.add_argument("--json", action="store_true", help=help)


def add_process_group(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add and return the group of the options for several processes, with the option --parallel."""
    group = parser.add_argument_group("several processes", "To be started with torchrun; see docs/clusters.md.")
    help = "how the processes share the work: none, data, towers or hybrid"
    group.add_argument("--parallel", metavar="SCHEME", default="none", help=help)
    return group

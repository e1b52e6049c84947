"""`alexnet recipes [NAME]`."""

import argparse

SUMMARY = "list the recipes, or print one of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="recipe to print in full, as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.recipes import RECIPES, recipe_named

    if options.name:
        print(recipe_named(options.name).to_json())
        return 0
    for name, build in RECIPES.items():
        print(f"{name:22} {(build.__doc__ or '').splitlines()[0]}")
    return 0

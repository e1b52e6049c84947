"""`alexnet recipes [NAME]`."""

import argparse
import json
import shutil
import textwrap

from alexnet.cli.options import load_recipe

SUMMARY = "list the recipes, or print one of them"
_LEGEND = (
    "Each field with its value, as --set takes it, and its default where it differs: the value of alexnet-2012-paper. "
    "Numbers in parentheses are sections of the paper. A field without an explanation has that of the field above it "
    "with the same name, such as net.conv2.maps that of net.conv1.maps. "
    "changes[].epoch is a field of each object in the list."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    help = "recipe to print in full, as JSON: a name, a .json file, or the folder of a run"
    parser.add_argument("name", metavar="NAME", nargs="?", help=help)
    parser.add_argument(
        "--explain", action="store_true", help="print each field of the recipe with its value, its default and meaning"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.recipes import RECIPES

    if options.explain and not options.name:
        raise ValueError(f"--explain must be given with the NAME of a recipe, one of {', '.join(RECIPES)}")
    if options.explain:
        _explain(options.name)
    elif options.name:
        print(load_recipe(options.name).to_json())
    else:
        for name, build in RECIPES.items():
            print(f"{name:22} {(build.__doc__ or '').splitlines()[0]}")
    return 0


def _explain(name: str) -> None:
    """Print the fields of a recipe; what `--set` takes is at the start of the line."""
    from alexnet.cli.field_docs import explain_recipe

    width = shutil.get_terminal_size((100, 24)).columns
    print(textwrap.fill(_LEGEND, width) + "\n")
    for field in explain_recipe(load_recipe(name)):
        default = "" if field.value == field.default else f"   (default {json.dumps(field.default)})"
        value = f"={json.dumps(field.value)}" if field.has_value else ""
        print(f"{field.path}{value}{default}")
        if field.meaning:
            print(textwrap.fill(field.meaning, width, initial_indent="    ", subsequent_indent="    "))

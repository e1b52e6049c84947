"""`alexnet check SOURCE|STORE`."""

import argparse
import json

from alexnet.cli.options import (
    add_device,
    add_force,
    add_json,
    add_recipe,
    load_recipe,
    parse_output,
    parse_run,
    parse_store,
)

SUMMARY = "check pictures before training: odd files, duplicates, wrong labels, time and disk"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    help = "pictures as `alexnet prepare` takes them, or a store that it has written"
    parser.add_argument("pictures", metavar="SOURCE|STORE", type=parse_store, help=help)
    help = "run of these classes: pictures are named whose labels it finds wrong"
    parser.add_argument("--run", metavar="RUN", type=parse_run, help=help)
    add_recipe(parser, "recipe whose training is estimated (default: that of --run, or photos)")
    parser.add_argument("--html", metavar="FILE", type=parse_output, help="page to write, with the pictures")
    add_force(parser)
    add_device(parser)
    add_json(parser, "print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.data.prepare.on_demand import read_recipe
    from alexnet.results.check_report import CHECK_PAGE, check_to_json, check_to_text, render_check
    from alexnet.results.picture_check import check_pictures
    from alexnet.results.report_html import recipe_name
    from alexnet.utils.files import check_output, write_output

    if options.force and not options.html:
        raise ValueError("--force must be given with a file to write; use --html FILE")
    if options.html:
        check_output(options.html, CHECK_PAGE, force=options.force)
    if options.recipe or options.run is None:
        name = options.recipe or "photos"
        recipe = load_recipe(name)
    else:
        recipe = read_recipe(options.run)
        name = recipe_name(recipe) or f"of {options.run}"
    check = check_pictures(options.pictures, options.run, recipe=recipe, recipe_name=name, device=options.device)
    print(json.dumps(check_to_json(check), ensure_ascii=False) if options.json else check_to_text(check))
    if options.html:
        write_output(options.html, render_check(check).encode(), CHECK_PAGE, force=options.force)
        if not options.json:
            print(options.html)
    return 0

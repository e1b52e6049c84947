"""`alexnet look STORE` (section 5.1)."""

import argparse
from pathlib import Path

from alexnet.cli.options import add_force, add_recipe, add_store, load_recipe, parse_output

SUMMARY = "draw pictures of each class, and what augmentation makes of some"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_store(parser)
    help = "folder to write classes.png and augmentation.png to"
    parser.add_argument("--folder", metavar="FOLDER", type=parse_output, default=Path("look"), help=help)
    add_recipe(parser, "recipe whose augmentation is drawn", "photos")
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="change a field of the recipe; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the choice of the pictures")
    add_force(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.data.prepare.on_demand import open_training_store
    from alexnet.results.contact_sheets import draw_augmentation, draw_classes
    from alexnet.results.figure_files import check_figures, write_figure

    check_figures(options.folder, ("classes", "augmentation"), force=options.force)
    recipe = load_recipe(options.recipe).with_settings(options.set)
    store = open_training_store(options.store, options.folder, recipe.store_size)
    figures = {"classes": draw_classes(store, seed=options.seed)}
    if "train" in store.splits:
        figures["augmentation"] = draw_augmentation(store, recipe, seed=options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        path = options.folder / f"{name}.png"
        write_figure(path, figure, recipe, force=options.force)
        print(path)
    return 0

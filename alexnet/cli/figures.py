"""`alexnet figures RUN`."""

import argparse

from alexnet.cli.options import add_data, add_device, add_force, add_run, parse_output

SUMMARY = "write a run's figures as PNG files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser)
    add_data(parser)
    parser.add_argument("--folder", metavar="FOLDER", type=parse_output, help="folder to write (default: RUN/figures)")
    add_force(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.report import training_store, write_figures

    store, folder = options.data or training_store(options.run), options.folder or options.run / "figures"
    for path in write_figures(options.run, store, folder, device=options.device, force=options.force):
        print(path)
    return 0

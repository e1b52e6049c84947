"""`alexnet report RUN`."""

import argparse

from alexnet.cli.options import add_data, add_device, add_run

SUMMARY = "write RUN/report.html again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser)
    add_data(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.report import report, training_store

    store = options.data or training_store(options.run)
    if store is None:
        raise ValueError(f"--data must name a store with pictures of the classes of {options.run}, which was imported")
    print(report(options.run, store, device=options.device))
    return 0

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

    print(report(options.run, options.data or training_store(options.run), device=options.device))
    return 0

"""`alexnet demo [FOLDER]`."""

import argparse
from pathlib import Path

from alexnet.cli.options import parse_output

SUMMARY = "draw a small set of pictures, train a net on it and show the results"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", type=parse_output, default=Path("demo"), help="folder to work in"
    )
    parser.add_argument(
        "--data", choices=("drawn", "cifar10"), default="drawn", help="pictures to use; cifar10 downloads 170 MB"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.demo.run import run_demo

    run_demo(options.folder, data=options.data)
    return 0

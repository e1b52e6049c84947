"""`alexnet submit RUN... FOLDER FILE` (Table 2)."""

import argparse
from pathlib import Path

from alexnet.cli.options import add_device, add_runs, add_views

SUMMARY = "write the file that the ILSVRC-2012 contest accepts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_runs(parser, "folder of a trained net; the predictions of several are averaged")
    parser.add_argument(
        "pictures", metavar="FOLDER", type=Path, help="test pictures, ILSVRC2012_test_00000001.JPEG and so on"
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="file to write, with five numbers per line")
    parser.add_argument(
        "--ids",
        metavar="FILE",
        type=Path,
        required=True,
        help="file whose line n is the name of the contest's class n (required)",
    )
    add_views(parser, default=None, note=" (default: the recipe's)")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.submission import write_submission

    count = write_submission(
        options.runs, options.pictures, options.file, options.ids, views=options.views, device=options.device
    )
    print(f"{options.file}: {count} pictures, five guesses each")
    return 0

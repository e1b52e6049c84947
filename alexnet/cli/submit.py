"""`alexnet submit RUN... FOLDER FILE` (Table 2)."""

import argparse
from pathlib import Path

from alexnet.cli.options import add_device, add_force, add_runs, add_views, parse_output

SUMMARY = "write the file that the ILSVRC-2012 contest accepts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_runs(parser, "folder of a trained net; the predictions of several are averaged")
    parser.add_argument(
        "pictures",
        metavar="PICTURES",
        type=Path,
        help="test pictures: ILSVRC2012_img_test.tar, the folder with it, or a folder of them",
    )
    parser.add_argument("file", metavar="FILE", type=parse_output, help="file to write, with five numbers per line")
    parser.add_argument(
        "--ids",
        metavar="FILE",
        type=Path,
        help="development kit, its meta.mat, or a file whose line n is the name of the contest's class n "
        "(default: the numbers that the runs have from their store)",
    )
    add_views(parser)
    add_force(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.submission import write_submission

    count = write_submission(
        options.runs,
        options.pictures,
        options.file,
        options.ids,
        views=options.views,
        force=options.force,
        device=options.device,
    )
    print(f"{options.file}: {count} pictures, five guesses each")
    return 0

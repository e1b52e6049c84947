"""`alexnet prepare SOURCE STORE` (section 3)."""

import argparse
from pathlib import Path

from alexnet.cli.options import add_workers, parse_output
from alexnet.utils.processes import ReportedElsewhere, is_main_process, world_size

SUMMARY = "turn a folder of pictures into a store of square pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="folder of class folders, archive, list, or another kind in docs/data.md",
    )
    parser.add_argument("store", metavar="STORE", type=parse_output, help="folder to write")
    help = "side of the stored pictures, in pixels (default: 256, or the size that the pictures of CIFAR keep)"
    parser.add_argument("--size", type=int, metavar="N", help=help)
    parser.add_argument("--encoding", choices=("raw", "jpeg"), default="raw", help="how the pictures are stored")
    parser.add_argument(
        "--max-failures",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="stop if more than this share of the files cannot be read",
    )
    add_workers(parser, "threads of each process (default: one per core)")

    split = parser.add_argument_group("held-out pictures", "For sources that have no val/ or test/ of their own.")
    split.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of each class to hold out as val; 0: none (default: 0.1; none with --train-per-class or --test 1)",
    )
    split.add_argument(
        "--test", type=float, metavar="SHARE", help="share of each class to hold out as test; 1: all (default: none)"
    )
    split.add_argument(
        "--train-per-class", type=int, metavar="N", help="train on N pictures of each class, test on the others"
    )
    split.add_argument("--val-batch", type=int, metavar="1..5", help="training batch of CIFAR-10 to hold out as val")
    split.add_argument("--coarse", action="store_true", help="label the pictures of CIFAR-100 with its 20 superclasses")
    help = "leave pictures of one photograph in the splits that they were drawn for"
    split.add_argument("--ignore-duplicates", action="store_true", help=help)
    help = "seed of the choice of held-out pictures (default: 0)"
    split.add_argument("--seed", type=int, metavar="N", help=help)

    imagenet = parser.add_argument_group("ImageNet")
    imagenet.add_argument(
        "--synsets", type=Path, metavar="FILE", help="prepare only the synsets in FILE, one WordNet ID a line"
    )
    imagenet.add_argument(
        "--verify-archives",
        action="store_true",
        default=None,
        help="compare the archives' MD5 checksums with the published ones first",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.data.prepare.prepare import prepare

    try:
        summary = prepare(
            options.source,
            options.store,
            size=options.size,
            encoding=options.encoding,
            held_out=options.held_out,
            test=options.test,
            train_per_class=options.train_per_class,
            val_batch=options.val_batch,
            coarse=options.coarse,
            seed=options.seed,
            synsets=options.synsets,
            verify_archives=options.verify_archives,
            workers=options.workers,
            max_failures=options.max_failures,
            ignore_duplicates=options.ignore_duplicates,
            parallel=world_size() > 1,
        )
    except ReportedElsewhere:  # `prepare` has waited for the report
        return 2
    if is_main_process():
        print(summary)
    return 0

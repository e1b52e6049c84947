"""`alexnet index RUN STORE` (section 7.1)."""

import argparse

from alexnet.cli.options import add_device, add_run, add_store

SUMMARY = "write the activities of a store's pictures, to search among them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser)
    add_store(parser)
    parser.add_argument("--split", default="train", help="train, val or test")
    parser.add_argument("--bits", type=int, default=128, metavar="N", help="length of the binary codes")
    parser.add_argument(
        "--no-codes",
        action="store_true",
        help="make no binary codes: their autoencoder takes minutes to train where a net has no hidden layer",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the autoencoder that computes the codes"
    )
    parser.add_argument("--force", action="store_true", help="replace an index of another split or store")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.retrieval import Index, build_index

    folder = build_index(
        options.run,
        options.store,
        split=options.split,
        bits=None if options.no_codes else options.bits,
        seed=options.seed,
        device=options.device,
        force=options.force,
    )
    index = Index(folder)
    codes = "no codes"
    if not options.no_codes:
        explained = index.metadata["autoencoder"]["explained"]
        codes = f"codes of {options.bits} bits explain {explained:.0%} of the variance"
    print(f"{folder}: {len(index)} pictures; {codes}")
    return 0

"""`alexnet similar RUN IMAGE...` (section 7.1; Figure 4, right)."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from alexnet.cli.messages import one_line, print_error
from alexnet.cli.options import add_device, add_images, add_json, add_run

SUMMARY = "find the most similar pictures in an index"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_run(parser, "folder of a trained net with an index, written by `alexnet index`")
    add_images(parser)
    parser.add_argument("--count", type=int, default=6, metavar="N", help="number of pictures to find for each")
    parser.add_argument("--codes", action="store_true", help="search by the binary codes first: faster, not exact")
    add_device(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.retrieval import find_similar

    errors: dict[int, Exception] = {}
    results = find_similar(
        options.run, options.images, count=options.count, codes=options.codes, device=options.device, unreadable=errors
    )
    for error in errors.values():  # reported; the other pictures are still searched for
        print_error(one_line(error))
    entries: list[dict[str, Any]] = []
    for number, (image, neighbours) in enumerate(zip(options.images, results, strict=True)):
        if number in errors:
            entries.append({"image": str(image), "error": one_line(errors[number])})
            continue
        similar = [{"image": neighbour.name, "class": neighbour.label} | asdict(neighbour) for neighbour in neighbours]
        entries.append({"image": str(image), "similar": similar})
        if not options.json:
            print(image)
            print("\n".join(f"  {n.distance:10.3f}  {n.label}  {n.name}" for n in neighbours))
    if options.json:
        print(json.dumps(entries, ensure_ascii=False))
    return 2 if errors else 0

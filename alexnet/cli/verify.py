"""`alexnet verify PATH...`."""

import argparse
import json
from typing import TYPE_CHECKING

from alexnet.cli.messages import print_error
from alexnet.cli.options import add_json, parse_store

if TYPE_CHECKING:
    from alexnet.results.verify import Verified

SUMMARY = "compare the files of stores, runs, indexes and exports with their checksums"
_NAMED = 5  # files without checksums that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    help = "store, or the address of one, run, index, exported folder, or a file of these"
    parser.add_argument("paths", metavar="PATH", nargs="+", type=parse_store, help=help)
    add_json(parser, "print one JSON list with an entry for each PATH")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.verify import verify

    results = []
    for path in options.paths:
        results.append(verify(path))
        if not options.json:
            _print_result(results[-1])
    if options.json:
        print(json.dumps([_to_json(result) for result in results], ensure_ascii=False))
    damaged = sum(len(result.damaged) for result in results)
    if damaged:
        files, them = ("files are", "them") if damaged > 1 else ("file is", "it")
        print_error(f"{damaged} {files} damaged: copy {them} from elsewhere, or make {them} again")
    return 2 if damaged else 0


def _print_result(result: "Verified") -> None:
    """Print a line for each damaged file, and one that counts the files."""
    for file in result.damaged:
        place = f"{result.path}/{file.name}" if file.name else result.path
        print(f"{place}: damaged: {', '.join(file.parts or ())}")
    unchecked = [file.name for file in result.unchecked]
    whole = len(result.files) - len(result.damaged) - len(unchecked)
    counts = f"{whole} of {len(result.files)} files whole, {len(result.damaged)} damaged"
    line = f"{result.path}: {result.kind}: {counts}, {len(unchecked)} without checksums"
    if any(unchecked):
        line += f" ({', '.join(unchecked[:_NAMED])}{', ...' if len(unchecked) > _NAMED else ''})"
    print(line)


def _to_json(result: "Verified") -> dict[str, object]:
    return {
        "path": str(result.path),
        "kind": result.kind,
        "files": len(result.files),
        "damaged": [{"file": file.name, "parts": list(file.parts or ())} for file in result.damaged],
        "unchecked": [file.name for file in result.unchecked],
    }

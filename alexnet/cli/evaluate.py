"""`alexnet evaluate RUN... STORE` (section 7)."""

import argparse
import json
from pathlib import Path
from typing import Any

from alexnet.cli.options import add_device, add_json, add_process_group, add_runs, add_store, add_views
from alexnet.utils.processes import is_main_process

SUMMARY = "measure the errors of a run, or of the averaged predictions of several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments and options."""
    add_runs(parser, "folder of a trained net, or file written by --save; the predictions of several are averaged")
    add_store(parser)
    add_views(parser, default=1)
    parser.add_argument("--split", help="train, val or test (default: val, or test if there is no val)")
    parser.add_argument("--weights-on", metavar="SPLIT", help="choose the weights of several runs on this split")
    parser.add_argument("--save", metavar="FILE", type=Path, help="write the averaged predictions to a file")
    add_device(parser)
    add_json(parser, "print one JSON object")
    add_process_group(parser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from alexnet.results.evaluate import evaluate

    results = evaluate(
        options.runs,
        options.store,
        views=options.views,
        split=options.split,
        weights_on=options.weights_on,
        save=options.save,
        device=options.device,
        parallel=options.parallel,
    )
    if not is_main_process():
        return 0
    if options.json:
        print(json.dumps(results))
    else:
        _print_results(results, len(options.runs), options.weights_on)
    return 0


def _print_results(results: dict[str, Any], nets: int, weights_on: str | None) -> None:
    from alexnet.training.inference import format_views
    from alexnet.utils.intervals import format_error_rate

    average = f"{nets} nets, their predictions averaged, " if nets > 1 else ""
    if "weights" in results:
        print(f"weights chosen on {weights_on}: {', '.join(f'{weight:.3f}' for weight in results['weights'])}")
    print(f"{results['images']} pictures ({results['split']}), {average}{format_views(results['views'])}:")
    errors = (
        f"top-{guesses} error {format_error_rate(results[f'top{guesses}_error'], results['images'])}"
        for guesses in (1, 5)
    )
    print(", ".join([*errors, f"mean -log probability {results['log_prob']:.4f}"]))
